// Where the ranks of a group leave values for one another while they connect (Shard.Exchange). The leader's.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace alphecca::worker {

// Thread-safe. `Done` is called once, without locks held, by whichever thread completes the key or closes the board.
class ExchangeBoard {
 public:
  using Values = std::vector<std::string>;  // by rank
  using Done = std::function<void(const absl::StatusOr<Values>&)>;

  explicit ExchangeBoard(int size) : size_(size) {}

  // Puts a rank's value; `done` hears when every rank has put one for the key. A value put twice (a retry after a lost
  // answer) replaces the first. InvalidArgument: no such rank.
  void Put(const std::string& key, int rank, std::string value, Done done);
  // Put and wait. DeadlineExceeded: names the ranks that are missing.
  absl::StatusOr<Values> PutAndWait(const std::string& key, int rank, std::string value, absl::Duration timeout);

  // Everyone who waits hears `why`, and so does everyone who comes later.
  void Close(const absl::Status& why);

 private:
  struct Entry {
    std::map<int, std::string> values;
    std::vector<Done> waiting;
  };
  static constexpr size_t kMaxKeys = 64;

  const int size_;
  absl::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::worker

// One Engine.Connect stream to a group's leader, multiplexing all sequences that this coordinator has on the group.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "coordinator/routing/group_client.h"

namespace alphecca::coordinator {

struct GroupEndpoint {
  std::string address;  // the leader's
  Epoch epoch;
  std::string fingerprint;  // as the ranks reported it
};

// Thread-safe. Connects at once and again (by Tick) when the stream breaks while the epoch goes on. A broken stream
// ends its sequences with Unavailable.
class GrpcGroupClient : public GroupClient {
 public:
  // What the group's prefix cache holds goes to `index`, for as long as the stream lives.
  GrpcGroupClient(GroupEndpoint endpoint, std::shared_ptr<PrefixIndex> index);
  ~GrpcGroupClient() override;

  absl::Status Open(SequenceSpec spec, std::shared_ptr<SequenceSink> sink) override ABSL_LOCKS_EXCLUDED(mutex_);
  void Cancel(SequenceId id) override ABSL_LOCKS_EXCLUDED(mutex_);
  void Credit(SequenceId id, int32_t tokens) override ABSL_LOCKS_EXCLUDED(mutex_);
  GroupLoad load() const override ABSL_LOCKS_EXCLUDED(mutex_);
  bool connected() const override ABSL_LOCKS_EXCLUDED(mutex_);
  int64_t context() const override ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<const PrefixIndex::Holder> prefixes() const override ABSL_LOCKS_EXCLUDED(mutex_);
  const std::string& fingerprint() const override { return endpoint_.fingerprint; }

  Epoch epoch() const { return endpoint_.epoch; }
  // Reconnects if need be.
  void Tick(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // The epoch is over: ends all sequences with `why` before it returns. Idempotent.
  void Close(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  class Stream;
  std::shared_ptr<Stream> stream() const ABSL_LOCKS_EXCLUDED(mutex_);

  const GroupEndpoint endpoint_;
  const std::shared_ptr<PrefixIndex> index_;
  mutable Mutex mutex_;
  std::shared_ptr<Stream> stream_ ABSL_GUARDED_BY(mutex_);
  absl::Time retry_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace alphecca::coordinator

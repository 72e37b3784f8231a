#include "worker/rpc/exchange_board.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace alphecca::worker {

void ExchangeBoard::Put(const std::string& key, int rank, std::string value, Done done) {
  absl::StatusOr<Values> result = Values();
  std::vector<Done> complete;
  {
    const absl::MutexLock lock(&mutex_);
    if (!closed_.ok()) {
      result = closed_;
    } else if (rank < 0 || rank >= size_) {
      result = absl::InvalidArgumentError(absl::StrCat("rank ", rank, " is not within a group of ", size_));
    } else if (!entries_.contains(key) && entries_.size() >= kMaxKeys) {
      result = absl::ResourceExhaustedError(absl::StrCat("more than ", kMaxKeys, " keys are exchanged"));
    }
    if (result.ok()) {
      Entry& entry = entries_[key];
      entry.values[rank] = std::move(value);
      entry.waiting.push_back(std::move(done));
      if (static_cast<int>(entry.values.size()) < size_) {
        return;
      }
      complete.swap(entry.waiting);
      for (const auto& [r, v] : entry.values) {
        result->push_back(v);
      }
    } else {
      complete.push_back(std::move(done));
    }
  }
  for (const Done& waiter : complete) {
    waiter(result);
  }
}

absl::StatusOr<ExchangeBoard::Values> ExchangeBoard::PutAndWait(const std::string& key, int rank, std::string value,
                                                                absl::Duration timeout) {
  // Shared with the callback, which may come after the wait was given up.
  struct Answer {
    absl::Mutex mutex;
    std::optional<absl::StatusOr<Values>> values ABSL_GUARDED_BY(mutex);
  };
  const auto answer = std::make_shared<Answer>();
  Put(key, rank, std::move(value), [answer](const absl::StatusOr<Values>& values) {
    const absl::MutexLock lock(&answer->mutex);
    answer->values = values;
  });
  {
    const absl::MutexLock lock(&answer->mutex);
    const auto there = [&] {
      answer->mutex.AssertHeld();
      return answer->values.has_value();
    };
    if (answer->mutex.AwaitWithTimeout(absl::Condition(&there), timeout)) {
      return *answer->values;
    }
  }
  std::string missing;
  const absl::MutexLock lock(&mutex_);
  for (int r = 0; r < size_; ++r) {
    if (!entries_[key].values.contains(r)) {
      absl::StrAppend(&missing, missing.empty() ? "rank " : ", ", r);
    }
  }
  return absl::DeadlineExceededError(
      absl::StrCat("waited ", absl::FormatDuration(timeout), " for ", missing, " to exchange ", key));
}

void ExchangeBoard::Close(const absl::Status& why) {
  std::vector<Done> waiting;
  {
    const absl::MutexLock lock(&mutex_);
    closed_ = why;
    for (auto& [key, entry] : entries_) {
      waiting.insert(waiting.end(), std::make_move_iterator(entry.waiting.begin()),
                     std::make_move_iterator(entry.waiting.end()));
      entry.waiting.clear();
    }
  }
  for (const Done& done : waiting) {
    done(why);
  }
}

}  // namespace alphecca::worker

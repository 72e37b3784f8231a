// What this worker serves at the moment: where its gRPC services find the shard of an epoch.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/ids.h"
#include "worker/rpc/engine_gate.h"
#include "worker/rpc/exchange_board.h"
#include "worker/rpc/follower_hub.h"

namespace alphecca::worker {

// A leader's shard. Followers serve nothing.
struct LedShard {
  Epoch epoch;
  std::string rendezvous;
  std::shared_ptr<ExchangeBoard> board;
  std::shared_ptr<FollowerHub> hub;
  std::shared_ptr<EngineGate> gate;  // null until the group is ready
};

// Thread-safe.
class ShardDirectory {
 public:
  void Set(LedShard shard) {
    const absl::MutexLock lock(&mutex_);
    shard_ = std::move(shard);
  }
  // Forgets the shard of this epoch.
  void Clear(Epoch epoch) {
    const absl::MutexLock lock(&mutex_);
    if (shard_.has_value() && shard_->epoch == epoch) {
      shard_.reset();
    }
  }
  std::optional<LedShard> Current() const {
    const absl::MutexLock lock(&mutex_);
    return shard_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::optional<LedShard> shard_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::worker

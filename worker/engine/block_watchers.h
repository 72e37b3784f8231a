// Those who follow the engine's prefix cache: who there are, and who has been told what.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "worker/engine/engine.h"
#include "worker/engine/scheduler.h"

namespace alphecca::engine {

// Add, Remove and AnyUntold by any thread; Report by one, which calls the watchers.
class BlockWatchers {
 public:
  void Add(std::shared_ptr<BlockWatcher> watcher) ABSL_LOCKS_EXCLUDED(mutex_);
  // The watcher is not called after the return, unless it is the one that is being called and removes itself.
  void Remove(const std::shared_ptr<BlockWatcher>& watcher) ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether somebody has yet to be told what is cached.
  bool AnyUntold() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Tells all that is cached to who is new, to the others what changed since the last report.
  void Report(Scheduler& scheduler) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Watching {
    std::shared_ptr<BlockWatcher> watcher;
    bool told = false;  // of what there is
  };
  // Calls the watcher, unless it has been removed.
  void Tell(BlockWatcher& watcher, const BlockEvents& news) ABSL_LOCKS_EXCLUDED(mutex_);

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Watching> watchers_ ABSL_GUARDED_BY(mutex_);
  const BlockWatcher* called_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread::id caller_ ABSL_GUARDED_BY(mutex_);  // of called_
};

}  // namespace alphecca::engine

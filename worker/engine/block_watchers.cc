#include "worker/engine/block_watchers.h"

#include <algorithm>
#include <utility>

namespace alphecca::engine {

void BlockWatchers::Add(std::shared_ptr<BlockWatcher> watcher) {
  MutexLock lock(mutex_);
  watchers_.push_back({std::move(watcher)});
}

void BlockWatchers::Remove(const std::shared_ptr<BlockWatcher>& watcher) {
  MutexLock lock(mutex_);
  std::erase_if(watchers_, [&](const Watching& watching) { return watching.watcher == watcher; });
  while (called_ == watcher.get() && caller_ != std::this_thread::get_id()) {
    changed_.Wait(mutex_);
  }
}

bool BlockWatchers::AnyUntold() const {
  MutexLock lock(mutex_);
  return std::any_of(watchers_.begin(), watchers_.end(), [](const Watching& watching) { return !watching.told; });
}

void BlockWatchers::Report(Scheduler& scheduler) {
  const BlockEvents changes = scheduler.TakeBlockEvents();  // in any case: what nobody follows must not pile up
  std::vector<Watching> watchers;
  {
    MutexLock lock(mutex_);
    watchers = watchers_;
    for (Watching& watching : watchers_) {
      watching.told = true;
    }
  }
  for (const Watching& watching : watchers) {
    Tell(*watching.watcher, watching.told ? changes : BlockEvents{.stored = scheduler.CachedNames(), .removed = {}});
  }
}

void BlockWatchers::Tell(BlockWatcher& watcher, const BlockEvents& news) {
  if (news.stored.empty() && news.removed.empty()) {
    return;
  }
  {
    MutexLock lock(mutex_);
    if (std::none_of(watchers_.begin(), watchers_.end(),
                     [&](const Watching& watching) { return watching.watcher.get() == &watcher; })) {
      return;
    }
    called_ = &watcher;
    caller_ = std::this_thread::get_id();
  }
  watcher.OnBlocks(news);
  MutexLock lock(mutex_);
  called_ = nullptr;
  changed_.NotifyAll();
}

}  // namespace alphecca::engine

// An engine that runs nothing: it remembers what it is asked, and its prefix cache is what a test says.
#pragma once

#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/engine/engine.h"

namespace alphecca::engine {

// Calls may come from any thread; its members are for when none do.
class FakeEngine : public Engine {
 public:
  absl::Status Open(std::shared_ptr<TokenSink> sink, SequenceRequest request) override {
    const absl::MutexLock lock(&mutex_);
    sequences.emplace_back(std::move(sink), std::move(request));
    return absl::OkStatus();
  }
  void Cancel(const std::shared_ptr<TokenSink>&, SequenceId id) override {
    const absl::MutexLock lock(&mutex_);
    cancelled.push_back(id.value);
  }
  void Credit(const std::shared_ptr<TokenSink>&, SequenceId, int32_t tokens) override {
    const absl::MutexLock lock(&mutex_);
    credit += tokens;
  }
  void Detach(const std::shared_ptr<TokenSink>&) override {
    const absl::MutexLock lock(&mutex_);
    ++detached;
  }
  void Watch(std::shared_ptr<BlockWatcher> watcher) override {
    const absl::MutexLock lock(&mutex_);
    watcher->OnBlocks({.stored = {cached.begin(), cached.end()}, .removed = {}});
    watchers_.push_back(std::move(watcher));
  }
  void Unwatch(const std::shared_ptr<BlockWatcher>& watcher) override {
    const absl::MutexLock lock(&mutex_);
    std::erase(watchers_, watcher);
  }
  EngineCounts counts() const override {
    const absl::MutexLock lock(&mutex_);
    return {.running = static_cast<int>(sequences.size())};
  }
  void Stop(const absl::Status& reason) override {
    {
      const absl::MutexLock lock(&mutex_);
      watchers_.clear();
    }
    for (const auto& [sink, request] : std::exchange(sequences, {})) {
      SequenceUpdate update;
      update.id = request.id;
      update.error = reason;
      Send(sink, std::move(update), 0, 0);
    }
  }
  absl::Status status() const override { return absl::OkStatus(); }
  void set_on_broken(std::function<void(const absl::Status&)>) override {}

  // The cache gains and loses blocks, and its watchers hear of it.
  void Change(const BlockEvents& events) {
    const absl::MutexLock lock(&mutex_);
    for (const model::BlockHash& block : events.removed) {
      cached.erase(block);
    }
    cached.insert(events.stored.begin(), events.stored.end());
    for (const auto& watcher : watchers_) {
      watcher->OnBlocks(events);
    }
  }
  // A step that gave this to one sequence.
  static void Send(const std::shared_ptr<TokenSink>& sink, SequenceUpdate update, int running, int waiting) {
    std::vector<SequenceUpdate> updates;
    updates.push_back(std::move(update));
    sink->OnStep(std::move(updates), running, waiting);
  }

  // False: it did not come to that in time.
  bool AwaitWatchers(size_t count) {
    const auto there = [&] {
      mutex_.AssertHeld();
      return watchers_.size() == count;
    };
    const absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(30));
  }
  int Detached() const {
    const absl::MutexLock lock(&mutex_);
    return detached;
  }
  bool AwaitDetached(int count) {
    const auto there = [&] { return detached == count; };
    const absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(30));
  }
  bool AwaitSequences(size_t count, absl::Duration most = absl::Seconds(30)) {
    const auto there = [&] { return sequences.size() == count; };
    const absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&there), most);
  }

  std::vector<std::pair<std::shared_ptr<TokenSink>, SequenceRequest>> sequences;
  std::vector<uint64_t> cancelled;
  int credit = 0;
  int detached = 0;
  std::set<model::BlockHash> cached;

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::shared_ptr<BlockWatcher>> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::engine

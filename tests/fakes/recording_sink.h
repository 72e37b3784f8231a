// A client that keeps what it is sent, and lets a test wait for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "worker/engine/engine.h"

namespace alphecca::engine {

class RecordingSink final : public TokenSink {
 public:
  struct Heard {
    std::vector<int32_t> ids;
    std::vector<StepChoice> logprobs;
    std::vector<StepChoice> prompt_logprobs;
    std::optional<Finish> finish;
    absl::Status error;
    int32_t cached_tokens = 0;
    int last_updates = 0;    // must become 1
    bool after_end = false;  // something came after the last update
    bool ended() const { return last_updates > 0; }
  };

  // Called on the engine's thread at the start of each OnStep.
  void set_on_step(std::function<void()> on_step) { on_step_ = std::move(on_step); }

  void OnStep(std::vector<SequenceUpdate> updates, int running, int waiting) override {
    if (on_step_) {
      on_step_();
    }
    MutexLock lock(mutex_);
    ++calls_;
    running_ = running;
    waiting_ = waiting;
    for (SequenceUpdate& update : updates) {
      Heard& heard = heard_[update.id.value];
      heard.after_end |= heard.ended();
      if (heard.ids.empty()) {
        heard.cached_tokens = update.cached_tokens;
      }
      heard.ids.insert(heard.ids.end(), update.ids.begin(), update.ids.end());
      std::move(update.logprobs.begin(), update.logprobs.end(), std::back_inserter(heard.logprobs));
      std::move(update.prompt_logprobs.begin(), update.prompt_logprobs.end(),
                std::back_inserter(heard.prompt_logprobs));
      if (update.finish.has_value() || !update.error.ok()) {
        heard.finish = update.finish;
        heard.error = update.error;
        ++heard.last_updates;
      }
    }
    changed_.NotifyAll();
  }

  Heard AwaitEnd(uint64_t id) {
    MutexLock lock(mutex_);
    while (!heard_[id].ended()) {
      changed_.Wait(mutex_);
    }
    return heard_[id];
  }
  Heard AwaitTokens(uint64_t id, size_t count) {
    MutexLock lock(mutex_);
    while (heard_[id].ids.size() < count && !heard_[id].ended()) {
      changed_.Wait(mutex_);
    }
    return heard_[id];
  }
  std::map<uint64_t, Heard> all() {
    MutexLock lock(mutex_);
    return heard_;
  }
  int calls() {
    MutexLock lock(mutex_);
    return calls_;
  }
  int running() {
    MutexLock lock(mutex_);
    return running_;
  }

 private:
  std::function<void()> on_step_;
  Mutex mutex_;
  CondVar changed_;
  std::map<uint64_t, Heard> heard_ ABSL_GUARDED_BY(mutex_);
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace alphecca::engine

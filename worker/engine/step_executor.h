// Runs step plans one after the other on a thread of its own, so that the next is planned while one runs. A step that
// fails is the last that runs.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "worker/engine/shard_runner.h"
#include "worker/engine/step_plan.h"

namespace alphecca::engine {

struct StepOutcome {
  absl::Status status;
  StepResult result;    // if the status is ok
  absl::Duration took;  // from its begin to its result
};

class StepExecutor {
 public:
  // `on_outcome` is called on the executor's thread after each step, when TryTake has its outcome. The runner must
  // outlive the executor.
  StepExecutor(ShardRunner& runner, std::function<void()> on_outcome);
  ~StepExecutor() { Stop(); }

  void Submit(StepPlan plan);
  // Outcomes in the order of their plans.
  std::optional<StepOutcome> TryTake();
  // Runs what was submitted to its end, as the other ranks do, unless a step fails; then ends the thread. Idempotent.
  void Stop();

 private:
  void Main();

  ShardRunner& runner_;
  const std::function<void()> on_outcome_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<StepPlan> plans_ ABSL_GUARDED_BY(mutex_);
  std::deque<StepOutcome> outcomes_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace alphecca::engine

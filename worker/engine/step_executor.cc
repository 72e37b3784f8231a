#include "worker/engine/step_executor.h"

#include <chrono>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::engine {
namespace {

absl::Status RunGuarded(ShardRunner& runner, const StepPlan& plan, StepResult& result) {
  try {
    ASSIGN_OR_RETURN(result, runner.Run(plan));
    return absl::OkStatus();
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("step ", plan.step, ": ", error.what()));
  }
}

}  // namespace

StepExecutor::StepExecutor(ShardRunner& runner, std::function<void()> on_outcome)
    : runner_(runner), on_outcome_(std::move(on_outcome)), thread_([this] { Main(); }) {}

void StepExecutor::Submit(StepPlan plan) {
  MutexLock lock(mutex_);
  plans_.push_back(std::move(plan));
  changed_.NotifyAll();
}

std::optional<StepOutcome> StepExecutor::TryTake() {
  MutexLock lock(mutex_);
  if (outcomes_.empty()) {
    return std::nullopt;
  }
  StepOutcome outcome = std::move(outcomes_.front());
  outcomes_.pop_front();
  return outcome;
}

void StepExecutor::Stop() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) {
    thread_.join();
  }
}

void StepExecutor::Main() {
  while (true) {
    StepPlan plan;
    {
      MutexLock lock(mutex_);
      while (plans_.empty() && !stopped_) {
        changed_.Wait(mutex_);
      }
      if (plans_.empty()) {
        return;
      }
      plan = std::move(plans_.front());
      plans_.pop_front();
    }
    const auto began = std::chrono::steady_clock::now();
    StepOutcome outcome;
    outcome.status = RunGuarded(runner_, plan, outcome.result);
    outcome.took = absl::FromChrono(std::chrono::steady_clock::now() - began);
    const bool failed = !outcome.status.ok();
    {
      MutexLock lock(mutex_);
      outcomes_.push_back(std::move(outcome));
    }
    on_outcome_();
    if (failed) {
      return;
    }
  }
}

}  // namespace alphecca::engine

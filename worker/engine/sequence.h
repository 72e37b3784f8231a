// One sequence as the engine runs it: from its request to rows of a step plan, from choices to updates. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/engine.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/step_plan.h"

namespace alphecca::engine {

// What the engine requires of a request before it queues it. InvalidArgument names the value and the limit.
absl::Status CheckRequest(const SequenceRequest& request, const ShardLimits& limits);

class Sequence {
 public:
  // `vocab`: tokens that the model knows.
  Sequence(SequenceRequest request, int64_t vocab) : request_(std::move(request)), vocab_(vocab) {}

  const SequenceRequest& request() const { return request_; }
  Arrival ArrivalAs(SequenceKey key) const;

  // Appends the share's rows and logit requests (and, at its first step, the slot's parameters and history) to the
  // plan.
  void AppendRows(const Share& share, StepPlan& plan) const;

  // Takes the choice of a logit request of this sequence that does not keep its token: a prompt token's
  // log-probability.
  void TakePrompt(int32_t token, StepChoice choice);
  // Takes a sampled token: the update to send. It ends the sequence if finish is set or error is not ok.
  SequenceUpdate TakeToken(StepChoice choice);

  // The client has taken this many tokens more; more than were sent count as all.
  void Credit(int64_t tokens);

 private:
  int64_t PromptTokens() const { return static_cast<int64_t>(request_.prompt.size()); }
  bool IsStop(int32_t token) const;
  OpenSlot Opening(int32_t slot) const;
  // Adds the mask of the next token, if there is one: its index in the plan, or -1.
  int32_t AppendMask(StepPlan& plan) const;

  SequenceRequest request_;
  int64_t vocab_ = 0;
  int64_t generated_ = 0;
  int64_t credited_ = 0;
  std::vector<StepChoice> prompt_logprobs_;  // until the first token is sent
};

}  // namespace alphecca::engine

// One sequence as the engine runs it: from its request to rows of a step plan, from choices to updates. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "model/prefix_hash.h"
#include "worker/engine/engine.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/step_plan.h"

namespace alphecca::engine {

// What the engine requires of a request before it queues it. InvalidArgument names the value and the limit.
absl::Status CheckRequest(const SequenceRequest& request, const ShardLimits& limits);

class Sequence {
 public:
  // `vocab`: tokens that the model knows. hasher: of the prefix cache; null: the sequence neither uses nor feeds it.
  Sequence(SequenceRequest request, int64_t vocab, const model::PrefixHasher* hasher);

  SequenceId id() const { return request_.id; }
  const std::string& tenant() const { return request_.tenant; }
  Arrival ArrivalAs(SequenceKey key) const;

  // Appends the share's rows and logit requests (and, where it opens a slot, the slot's parameters and history) to the
  // plan.
  void AppendRows(const Share& share, StepPlan& plan);

  // Takes the choice of a logit request of this sequence that does not keep its token: a prompt token's
  // log-probability.
  void TakePrompt(int32_t token, StepChoice choice);
  // Takes a sampled token: the update to send. It ends the sequence if finish is set or error is not ok.
  SequenceUpdate TakeToken(StepChoice choice);
  // Tokens taken.
  int64_t generated() const { return static_cast<int64_t>(tokens_.size()) - prompt_tokens_; }
  // The name of the block that the last token taken completed; none if it completed none.
  std::optional<model::BlockHash> CompletedBlock();

  // The client has taken this many tokens more; more than were sent count as all.
  void Credit(int64_t tokens);

 private:
  bool IsStop(int32_t token) const;
  OpenSlot Opening(int32_t slot) const;
  // Adds the mask of the next token, if there is one: its index in the plan, or -1.
  int32_t AppendMask(StepPlan& plan) const;

  SequenceRequest request_;  // but for the prompt
  int64_t vocab_;
  const model::PrefixHasher* hasher_;
  int64_t prompt_tokens_;
  std::vector<int32_t> tokens_;          // the prompt, and what was sampled
  std::vector<model::BlockHash> names_;  // of the full blocks
  int64_t reported_ = 0;  // prompt rows whose log-probabilities have been asked: not again if they run again
  int64_t credited_ = 0;
  std::vector<StepChoice> prompt_logprobs_;  // until the first token is sent
};

}  // namespace alphecca::engine

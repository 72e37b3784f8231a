#include "worker/engine/sequence.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/engine/plan_check.h"

namespace alphecca::engine {
namespace {

absl::Status CheckTokens(std::string_view what, const std::vector<int32_t>& tokens, int64_t vocab) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat(std::string(what), "[", i, "] is ", tokens[i], ": must be 0 to ", vocab - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLogprobs(std::string_view what, int count) {
  if (count < -1 || count > kernels::kMaxTopLogprobs) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(what), " ", count, ": must be -1 (none) to ", kernels::kMaxTopLogprobs));
  }
  return absl::OkStatus();
}

void KeepTop(StepChoice& choice, int count) {
  choice.top.resize(std::min(choice.top.size(), static_cast<size_t>(std::max(count, 0))));
}

}  // namespace

absl::Status CheckRequest(const SequenceRequest& request, const ShardLimits& limits) {
  if (request.prompt.empty()) {
    return absl::InvalidArgumentError("prompt is empty: must hold at least one token");
  }
  if (request.max_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens ", request.max_tokens, ": must be at least 1"));
  }
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt + request.max_tokens > limits.context) {
    return absl::InvalidArgumentError(absl::StrCat("prompt of ", prompt, " tokens and max_tokens ", request.max_tokens,
                                                   " exceed the context of ", limits.context, " tokens"));
  }
  if (!(request.tenant_weight > 0.0) || !std::isfinite(request.tenant_weight)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tenant_weight ", request.tenant_weight, ": must be positive and finite"));
  }
  if (request.window < 1) {
    return absl::InvalidArgumentError(absl::StrCat("window ", request.window, ": must be at least 1"));
  }
  if (request.answer_tokens < 0 || request.answer_tokens >= prompt) {
    return absl::InvalidArgumentError(absl::StrCat("answer_tokens ", request.answer_tokens, ": must be 0 to ",
                                                   prompt - 1, ", one less than the prompt's tokens"));
  }
  RETURN_IF_ERROR(CheckTokens("prompt", request.prompt, limits.vocab));
  RETURN_IF_ERROR(CheckTokens("stop_ids", request.stop_ids, limits.vocab));
  RETURN_IF_ERROR(CheckLogprobs("logprobs", request.logprobs));
  RETURN_IF_ERROR(CheckLogprobs("prompt_logprobs", request.prompt_logprobs));
  if (!request.rules.history.empty()) {
    return absl::InvalidArgumentError("rules have a history: must be empty, the prompt tells it");
  }
  RETURN_IF_ERROR(kernels::CheckLogitRules(request.rules, limits.vocab));
  return CheckSamplingValues(request.sampling);
}

Sequence::Sequence(SequenceRequest request, int64_t vocab, const model::PrefixHasher* hasher)
    : request_(std::move(request)),
      vocab_(vocab),
      hasher_(hasher),
      prompt_tokens_(static_cast<int64_t>(request_.prompt.size())),
      tokens_(std::exchange(request_.prompt, {})) {
  if (hasher_ != nullptr) {
    names_ = hasher_->Blocks(request_.tenant, tokens_);
  }
}

Arrival Sequence::ArrivalAs(SequenceKey key) const {
  Arrival arrival{.key = key,
                  .prompt_tokens = prompt_tokens_,
                  .max_tokens = request_.max_tokens,
                  .prompt_logits = request_.prompt_logprobs >= 0,
                  .one_at_a_time = request_.constraint != nullptr,
                  .names = names_,
                  .whole = std::nullopt,
                  .tenant = request_.tenant,
                  .weight = request_.tenant_weight,
                  .priority = request_.priority,
                  .deadline = request_.deadline};
  if (hasher_ != nullptr) {
    const auto full = names_.size() * static_cast<size_t>(hasher_->block_tokens());
    arrival.whole = hasher_->Next(names_.empty() ? hasher_->Root(request_.tenant) : names_.back(),
                                  std::span(tokens_).subspan(full));
  }
  return arrival;
}

OpenSlot Sequence::Opening(int32_t slot) const {
  OpenSlot open{.slot = slot, .sampling = request_.sampling, .rules = request_.rules};
  open.sampling.top_logprobs = std::max({request_.logprobs, request_.prompt_logprobs, 0});
  if (open.rules.Penalises()) {
    open.rules.history = kernels::CountTokens(tokens_, generated() + request_.answer_tokens);
  }
  return open;
}

int32_t Sequence::AppendMask(StepPlan& plan) const {
  if (request_.constraint == nullptr) {
    return -1;
  }
  std::vector<uint32_t>& mask = plan.masks.emplace_back(static_cast<size_t>(kernels::MaskWords(vocab_)), 0U);
  request_.constraint->Allow(mask);
  return static_cast<int32_t>(plan.masks.size()) - 1;
}

void Sequence::AppendRows(const Share& share, StepPlan& plan) {
  if (share.opens) {
    plan.opens.push_back(Opening(share.slot));
  }
  for (int64_t position = share.begin; position < share.end; ++position) {
    const bool samples = share.samples && position == share.end - 1;
    const bool reports = request_.prompt_logprobs >= 0 && position >= reported_ && position + 1 < prompt_tokens_;
    PlanRow row;
    row.token = share.decodes ? -1 - share.slot : tokens_[static_cast<size_t>(position)];
    row.position = static_cast<int32_t>(position);
    row.slot = share.slot;
    row.owner = share.owner;
    row.wants_logits = samples || reports;
    if (row.wants_logits) {
      const int32_t wanted = reports ? tokens_[static_cast<size_t>(position + 1)] : -1;
      plan.logits.push_back({.row = static_cast<int32_t>(plan.rows.size()),
                             .wanted = wanted,
                             .keep = samples,
                             .mask = samples ? AppendMask(plan) : -1});
    }
    reported_ = reports ? position + 1 : reported_;
    plan.rows.push_back(row);
  }
}

void Sequence::TakePrompt(int32_t token, StepChoice choice) {
  choice.token = token;
  choice.logprob = choice.wanted_logprob;
  KeepTop(choice, request_.prompt_logprobs);
  prompt_logprobs_.push_back(std::move(choice));
}

bool Sequence::IsStop(int32_t token) const {
  return std::find(request_.stop_ids.begin(), request_.stop_ids.end(), token) != request_.stop_ids.end();
}

SequenceUpdate Sequence::TakeToken(StepChoice choice) {
  SequenceUpdate update;
  update.id = request_.id;
  const int32_t token = choice.token;
  if (token < 0) {
    update.error = absl::FailedPreconditionError(
        absl::StrCat("token ", generated() + 1,
                     " of the answer: none is left to choose; every logit is suppressed, excluded "
                     "by the constraint, or not a number"));
    return update;
  }
  tokens_.push_back(token);
  if (generated() - credited_ > request_.window) {
    update.error = absl::ResourceExhaustedError(
        absl::StrCat("the client is slow: ", request_.window, " tokens await credit, the sequence's window"));
    return update;
  }
  if (request_.constraint != nullptr) {
    request_.constraint->Take(token);
  }
  update.ids.push_back(token);
  if (request_.logprobs >= 0) {
    KeepTop(choice, request_.logprobs);
    update.logprobs.push_back(std::move(choice));
  }
  update.prompt_logprobs = std::exchange(prompt_logprobs_, {});
  if (IsStop(token)) {
    update.finish = Finish::kStop;
  } else if (generated() == request_.max_tokens) {
    update.finish = Finish::kLength;
  }
  return update;
}

std::optional<model::BlockHash> Sequence::CompletedBlock() {
  if (hasher_ == nullptr || tokens_.size() % static_cast<size_t>(hasher_->block_tokens()) != 0) {
    return std::nullopt;
  }
  const auto block = std::span(tokens_).last(static_cast<size_t>(hasher_->block_tokens()));
  names_.push_back(hasher_->Next(names_.empty() ? hasher_->Root(request_.tenant) : names_.back(), block));
  return names_.back();
}

void Sequence::Credit(int64_t tokens) {
  credited_ = std::min(credited_ + tokens, generated());
}

}  // namespace alphecca::engine

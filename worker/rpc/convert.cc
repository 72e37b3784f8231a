#include "worker/rpc/convert.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::worker {
namespace {

void Fill(const engine::StepChoice& choice, v1::EngineLogprobs& out) {
  out.set_id(choice.token);
  out.set_logprob(choice.logprob);
  for (const kernels::Candidate& c : choice.top) {
    out.add_top_ids(c.token);
    out.add_top_logprobs(c.logit);
  }
}

v1::FinishReason ToProto(engine::Finish finish) {
  switch (finish) {
    case engine::Finish::kStop:
      return v1::FINISH_REASON_STOP;
    case engine::Finish::kLength:
      return v1::FINISH_REASON_LENGTH;
    case engine::Finish::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

absl::Status CheckLength(const char* name, int length, int wanted) {
  if (length == wanted) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("step plan: ", name, " has ", length, " entries, must be ", wanted));
}

std::vector<kernels::TokenRange> ReadRanges(const google::protobuf::RepeatedPtrField<v1::TokenRange>& ranges) {
  std::vector<kernels::TokenRange> read;
  read.reserve(static_cast<size_t>(ranges.size()));
  for (const v1::TokenRange& range : ranges) {
    read.push_back({range.begin(), range.end()});
  }
  return read;
}

// The rules of a request.
kernels::LogitRules ReadRules(const v1::OpenSequence& open) {
  const v1::Sampling& sampling = open.sampling();
  kernels::LogitRules rules;
  rules.repetition_penalty = sampling.has_repetition_penalty() ? sampling.repetition_penalty() : 1.0F;
  rules.presence_penalty = sampling.presence_penalty();
  rules.frequency_penalty = sampling.frequency_penalty();
  for (const auto& [id, bias] : sampling.logit_bias()) {
    rules.bias.push_back({id, bias});
  }
  std::sort(rules.bias.begin(), rules.bias.end(), [](const auto& a, const auto& b) { return a.token < b.token; });
  rules.suppressed = ReadRanges(open.suppressed());
  return rules;
}

void WriteRules(const kernels::LogitRules& rules, v1::LogitRules& out) {
  out.set_repetition_penalty(rules.repetition_penalty);
  out.set_presence_penalty(rules.presence_penalty);
  out.set_frequency_penalty(rules.frequency_penalty);
  for (const kernels::TokenBias& b : rules.bias) {
    out.add_bias_ids(b.token);
    out.add_biases(b.bias);
  }
  for (const kernels::TokenRange& range : rules.suppressed) {
    v1::TokenRange& to = *out.add_suppressed();
    to.set_begin(range.begin);
    to.set_end(range.end);
  }
  for (const kernels::TokenCount& count : rules.history) {
    out.add_history_ids(count.token);
    out.add_history_answer(count.answer);
    out.add_history_prompt(count.prompt);
  }
}

absl::StatusOr<kernels::LogitRules> ReadRules(const v1::LogitRules& message) {
  RETURN_IF_ERROR(CheckLength("biases", message.biases_size(), message.bias_ids_size()));
  RETURN_IF_ERROR(CheckLength("history_answer", message.history_answer_size(), message.history_ids_size()));
  RETURN_IF_ERROR(CheckLength("history_prompt", message.history_prompt_size(), message.history_ids_size()));
  kernels::LogitRules rules;
  rules.repetition_penalty = message.repetition_penalty();
  rules.presence_penalty = message.presence_penalty();
  rules.frequency_penalty = message.frequency_penalty();
  for (int i = 0; i < message.bias_ids_size(); ++i) {
    rules.bias.push_back({message.bias_ids(i), message.biases(i)});
  }
  rules.suppressed = ReadRanges(message.suppressed());
  for (int i = 0; i < message.history_ids_size(); ++i) {
    rules.history.push_back({message.history_ids(i), message.history_answer(i), message.history_prompt(i)});
  }
  return rules;
}

// Runs of three numbers on the wire: BlockTableUpdate (slot, index, block) or BlockCopy (slot, from, to).
template <typename T>
absl::Status ReadTriples(const google::protobuf::RepeatedField<int32_t>& triples, std::vector<T>& out) {
  if (triples.size() % 3 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("step plan: block tables or copies have ", triples.size(), " entries, must be a multiple of 3"));
  }
  for (int i = 0; i < triples.size(); i += 3) {
    out.push_back(T{triples.Get(i), triples.Get(i + 1), triples.Get(i + 2)});
  }
  return absl::OkStatus();
}

template <typename T>
void WriteTriples(const std::vector<T>& items, google::protobuf::RepeatedField<int32_t>& triples) {
  triples.Reserve(static_cast<int>(items.size()) * 3);
  for (const auto& [slot, second, third] : items) {
    triples.Add(slot);
    triples.Add(second);
    triples.Add(third);
  }
}

}  // namespace

absl::StatusOr<engine::SequenceRequest> FromProto(const v1::OpenSequence& open, absl::Time now) {
  engine::SequenceRequest request;
  if (open.tenant_weight() != 0) {
    request.tenant_weight = open.tenant_weight();
  }
  if (!std::isfinite(request.tenant_weight) || request.tenant_weight < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tenant_weight ", open.tenant_weight(), " must be finite and above 0, or 0 for 1"));
  }
  request.id = SequenceId(open.sequence_id());
  request.prompt.assign(open.prompt().begin(), open.prompt().end());
  const v1::Sampling& sampling = open.sampling();
  request.sampling.seed = sampling.seed();
  request.sampling.sample = open.sample();
  request.sampling.temperature = sampling.temperature();
  request.sampling.top_k = sampling.top_k();
  request.sampling.top_p = sampling.has_top_p() ? sampling.top_p() : 1.0F;
  request.sampling.min_p = sampling.min_p();
  request.rules = ReadRules(open);
  request.answer_tokens = open.answer_tokens();
  request.max_tokens = open.max_tokens();
  request.stop_ids.assign(open.stop_ids().begin(), open.stop_ids().end());
  request.logprobs = open.logprobs();
  request.prompt_logprobs = open.prompt_logprobs();
  request.tenant = open.tenant();
  request.priority = open.priority();
  if (open.window() != 0) {
    request.window = open.window();
  }
  if (open.deadline_ms() > 0) {
    request.deadline = now + absl::Milliseconds(open.deadline_ms());
  }
  return request;
}

void Append(const engine::SequenceUpdate& update, v1::SequenceEvent& event) {
  event.set_sequence_id(update.id.value);
  for (const int32_t id : update.ids) {
    event.add_ids(id);
  }
  for (const engine::StepChoice& choice : update.logprobs) {
    Fill(choice, *event.add_logprobs());
  }
  for (const engine::StepChoice& choice : update.prompt_logprobs) {
    Fill(choice, *event.add_prompt_logprobs());
  }
  if (update.finish.has_value()) {
    event.set_finish_reason(ToProto(*update.finish));
  }
  if (!update.error.ok()) {
    event.set_error_code(static_cast<int32_t>(update.error.code()));
    event.set_error_message(std::string(update.error.message()));
  }
  if (update.cached_tokens != 0) {
    event.set_cached_tokens(update.cached_tokens);
  }
}

v1::StepPlanMessage ToProto(const engine::StepPlan& plan) {
  v1::StepPlanMessage message;
  message.set_epoch(plan.epoch.value);
  message.set_step(plan.step);
  for (const engine::OpenSlot& open : plan.opens) {
    v1::SlotOpen& out = *message.add_opens();
    out.set_slot(open.slot);
    out.set_seed(open.sampling.seed);
    out.set_sample(open.sampling.sample);
    out.set_temperature(open.sampling.temperature);
    out.set_top_k(open.sampling.top_k);
    out.set_top_p(open.sampling.top_p);
    out.set_min_p(open.sampling.min_p);
    out.set_top_logprobs(open.sampling.top_logprobs);
    if (!open.rules.Empty()) {
      WriteRules(open.rules, *out.mutable_rules());
    }
  }
  WriteTriples(plan.tables[kernels::kFullPool], *message.mutable_full_tables());
  WriteTriples(plan.tables[kernels::kSlidingPool], *message.mutable_sliding_tables());
  WriteTriples(plan.copies[kernels::kFullPool], *message.mutable_full_copies());
  WriteTriples(plan.copies[kernels::kSlidingPool], *message.mutable_sliding_copies());
  bool owned = false;
  bool drafted = false;
  for (const engine::PlanRow& row : plan.rows) {
    message.add_tokens(row.token);
    message.add_positions(row.position);
    message.add_slots(row.slot);
    owned = owned || row.owner > 0;
    drafted = drafted || row.draft;
  }
  for (const engine::PlanRow& row : plan.rows) {
    if (owned) {
      message.add_owners(row.owner);
    }
    if (drafted) {
      message.add_drafts(row.draft);
    }
  }
  for (const engine::LogitRequest& request : plan.logits) {
    message.add_logit_rows(request.row);
    message.add_wanted(request.wanted);
    message.add_keep(request.keep);
    if (!plan.masks.empty()) {
      message.add_mask_of(request.mask);
    }
  }
  for (const std::vector<uint32_t>& mask : plan.masks) {
    message.add_masks()->mutable_words()->Add(mask.begin(), mask.end());
  }
  return message;
}

absl::StatusOr<engine::StepPlan> FromProto(const v1::StepPlanMessage& message) {
  const int rows = message.tokens_size();
  const int logits = message.logit_rows_size();
  for (const absl::Status& status :
       {CheckLength("positions", message.positions_size(), rows), CheckLength("slots", message.slots_size(), rows),
        CheckLength("owners", message.owners_size(), message.owners_size() == 0 ? 0 : rows),
        CheckLength("drafts", message.drafts_size(), message.drafts_size() == 0 ? 0 : rows),
        CheckLength("wanted", message.wanted_size(), logits), CheckLength("keep", message.keep_size(), logits),
        CheckLength("mask_of", message.mask_of_size(), message.mask_of_size() == 0 ? 0 : logits)}) {
    if (!status.ok()) {
      return status;
    }
  }
  engine::StepPlan plan;
  plan.epoch = Epoch(message.epoch());
  plan.step = message.step();
  for (const v1::SlotOpen& open : message.opens()) {
    engine::OpenSlot slot;
    slot.slot = open.slot();
    slot.sampling.seed = open.seed();
    slot.sampling.sample = open.sample();
    slot.sampling.temperature = open.temperature();
    slot.sampling.top_k = open.top_k();
    slot.sampling.top_p = open.top_p();
    slot.sampling.min_p = open.min_p();
    slot.sampling.top_logprobs = open.top_logprobs();
    if (open.has_rules()) {
      ASSIGN_OR_RETURN(slot.rules, ReadRules(open.rules()));
    }
    plan.opens.push_back(std::move(slot));
  }
  for (const absl::Status& status : {ReadTriples(message.full_tables(), plan.tables[kernels::kFullPool]),
                                     ReadTriples(message.sliding_tables(), plan.tables[kernels::kSlidingPool]),
                                     ReadTriples(message.full_copies(), plan.copies[kernels::kFullPool]),
                                     ReadTriples(message.sliding_copies(), plan.copies[kernels::kSlidingPool])}) {
    if (!status.ok()) {
      return status;
    }
  }
  plan.rows.resize(static_cast<size_t>(rows));
  for (int i = 0; i < rows; ++i) {
    engine::PlanRow& row = plan.rows[static_cast<size_t>(i)];
    row.token = message.tokens(i);
    row.position = message.positions(i);
    row.slot = message.slots(i);
    row.owner = message.owners_size() == 0 ? 0 : message.owners(i);
    row.draft = message.drafts_size() != 0 && message.drafts(i);
  }
  for (int i = 0; i < logits; ++i) {
    const int32_t row = message.logit_rows(i);
    const int32_t mask = message.mask_of_size() == 0 ? -1 : message.mask_of(i);
    plan.logits.push_back({.row = row, .wanted = message.wanted(i), .keep = message.keep(i), .mask = mask});
    if (row >= 0 && row < rows) {  // others are refused by the plan check
      plan.rows[static_cast<size_t>(row)].wants_logits = true;
    }
  }
  plan.masks.reserve(static_cast<size_t>(message.masks_size()));
  for (const v1::TokenMask& mask : message.masks()) {
    plan.masks.emplace_back(mask.words().begin(), mask.words().end());
  }
  return plan;
}

}  // namespace alphecca::worker

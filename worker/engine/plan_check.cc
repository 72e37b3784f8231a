#include "worker/engine/plan_check.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/engine/block_manager.h"

namespace alphecca::engine {
namespace {

template <typename... Args>
absl::Status Invalid(const StepPlan& plan, const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("step ", plan.step, ": ", args...));
}

}  // namespace

absl::Status CheckSamplingValues(const kernels::SamplingRow& row) {
  if (!std::isfinite(row.temperature) || row.temperature < 0.0F) {
    return absl::InvalidArgumentError(absl::StrCat("temperature ", row.temperature, ": must be finite and at least 0"));
  }
  if (row.top_k < 0 || row.top_k > kernels::kMaxCandidates) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k ", row.top_k, ": must be 0 (off) to ", kernels::kMaxCandidates));
  }
  if (!(row.top_p > 0.0F && row.top_p <= 1.0F)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p ", row.top_p, ": must be above 0 and at most 1"));
  }
  if (!(row.min_p >= 0.0F && row.min_p <= 1.0F)) {
    return absl::InvalidArgumentError(absl::StrCat("min_p ", row.min_p, ": must be 0 to 1"));
  }
  if (row.sample < 0) {
    return absl::InvalidArgumentError(absl::StrCat("sample index ", row.sample, ": must be at least 0"));
  }
  return absl::OkStatus();
}

PlanCheck::PlanCheck(const ShardLimits& limits)
    : limits_(limits), slots_(static_cast<size_t>(std::max(limits.max_sequences, 0))) {}

absl::Status PlanCheck::Check(const StepPlan& plan) {
  RETURN_IF_ERROR(CheckOrder(plan));
  const int64_t rows = static_cast<int64_t>(plan.rows.size());
  if (rows < 1 || rows > limits_.max_rows) {
    return Invalid(plan, rows, " rows: must be 1 to ", limits_.max_rows);
  }
  std::vector<SlotState> slots = slots_;
  for (const OpenSlot& open : plan.opens) {
    if (open.slot < 0 || open.slot >= limits_.max_sequences) {
      return Invalid(plan, "opens slot ", open.slot, ": there are ", limits_.max_sequences);
    }
    RETURN_IF_ERROR(CheckSampling(open));
    slots[static_cast<size_t>(open.slot)] = SlotState{.open = true, .owner = -1, .sampled = false, .covered = {}};
  }
  RETURN_IF_ERROR(CheckOwners(plan, slots));
  RETURN_IF_ERROR(CheckTables(plan, slots));
  RETURN_IF_ERROR(CheckCopies(plan, slots));
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    RETURN_IF_ERROR(CheckRow(plan, i, slots));
  }
  RETURN_IF_ERROR(CheckLogits(plan, slots));
  RETURN_IF_ERROR(CheckMasks(plan));
  slots_ = std::move(slots);
  epoch_ = plan.epoch;
  step_ = plan.step;
  return absl::OkStatus();
}

absl::Status PlanCheck::CheckOrder(const StepPlan& plan) const {
  if (plan.epoch < epoch_) {
    return absl::FailedPreconditionError(
        absl::StrCat("step ", plan.step, " is of epoch ", plan.epoch.value, ", the group is at ", epoch_.value));
  }
  const uint64_t expected = plan.epoch == epoch_ ? step_ + 1 : 1;
  if (plan.step != expected) {
    return absl::FailedPreconditionError(
        absl::StrCat("step ", plan.step, " of epoch ", plan.epoch.value, ": step ", expected, " is next"));
  }
  return absl::OkStatus();
}

absl::Status PlanCheck::CheckOwners(const StepPlan& plan, std::vector<SlotState>& slots) const {
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const PlanRow& row = plan.rows[i];
    if (row.slot < 0 || row.slot >= limits_.max_sequences || !slots[static_cast<size_t>(row.slot)].open) {
      return Invalid(plan, "row ", i, ": slot ", row.slot, " is not open");
    }
    if (row.owner < 0 || row.owner >= limits_.owners) {
      return Invalid(plan, "row ", i, ": owner ", row.owner, ": must be 0 to ", limits_.owners - 1);
    }
    int32_t& owner = slots[static_cast<size_t>(row.slot)].owner;
    if (owner >= 0 && owner != row.owner) {
      return Invalid(plan, "row ", i, ": owner ", row.owner, " of slot ", row.slot, ", which rank ", owner, " owns");
    }
    owner = row.owner;
  }
  return absl::OkStatus();
}

absl::Status PlanCheck::CheckSampling(const OpenSlot& open) const {
  RETURN_IF_ERROR(CheckSamplingValues(open.sampling));
  if (open.sampling.top_logprobs < 0 || open.sampling.top_logprobs > kernels::kMaxTopLogprobs) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", open.slot, ": top_logprobs ", open.sampling.top_logprobs,
                                                   ": must be 0 to ", kernels::kMaxTopLogprobs));
  }
  return kernels::CheckLogitRules(open.rules, limits_.vocab);
}

absl::Status PlanCheck::CheckMasks(const StepPlan& plan) const {
  const auto words = static_cast<size_t>(kernels::MaskWords(limits_.vocab));
  if (plan.masks.size() > plan.logits.size()) {
    return Invalid(plan, plan.masks.size(), " masks: at most one a logit request, of which there are ",
                   plan.logits.size());
  }
  for (size_t i = 0; i < plan.masks.size(); ++i) {
    if (plan.masks[i].size() != words) {
      return Invalid(plan, "mask ", i, " has ", plan.masks[i].size(), " words: must be ", words);
    }
  }
  for (const LogitRequest& request : plan.logits) {
    if (request.mask < -1 || request.mask >= static_cast<int64_t>(plan.masks.size())) {
      return Invalid(plan, "logit request with mask ", request.mask, ": must be -1 to ",
                     static_cast<int64_t>(plan.masks.size()) - 1);
    }
  }
  return absl::OkStatus();
}

absl::Status PlanCheck::CheckTables(const StepPlan& plan, std::vector<SlotState>& slots) const {
  const int64_t columns = BlocksFor(limits_.context, limits_.block_tokens);
  for (int pool = 0; pool < 2; ++pool) {
    for (const kernels::BlockTableUpdate& update : plan.tables[pool]) {
      if (update.slot < 0 || update.slot >= limits_.max_sequences ||
          slots[static_cast<size_t>(update.slot)].owner < 0) {
        return Invalid(plan, "block table of slot ", update.slot, ", which is not open or has no rows");
      }
      if (update.block < 0 || update.block >= PoolBlocks(pool)) {
        return Invalid(plan, "block ", update.block, " of pool ", pool, ": there are ", PoolBlocks(pool));
      }
      Covered& covered = slots[static_cast<size_t>(update.slot)].covered[pool];
      if (covered.begin == covered.end) {
        covered = {update.index, update.index};
      }
      if (update.index < 0 || update.index >= columns || update.index < covered.begin || update.index > covered.end) {
        return Invalid(plan, "block table of slot ", update.slot, ": index ", update.index,
                       " does not follow the assigned [", covered.begin, ", ", covered.end, ") of ", columns);
      }
      covered.end = std::max<int64_t>(covered.end, int64_t{update.index} + 1);
    }
  }
  return absl::OkStatus();
}

absl::Status PlanCheck::CheckCopies(const StepPlan& plan, const std::vector<SlotState>& slots) const {
  for (int pool = 0; pool < 2; ++pool) {
    for (const BlockCopy& copy : plan.copies[pool]) {
      if (copy.slot < 0 || copy.slot >= limits_.max_sequences || slots[static_cast<size_t>(copy.slot)].owner < 0) {
        return Invalid(plan, "block copy of slot ", copy.slot, ", which is not open or has no rows");
      }
      for (const int32_t block : {copy.from, copy.to}) {
        if (block < 0 || block >= PoolBlocks(pool)) {
          return Invalid(plan, "copy of block ", copy.from, " to ", copy.to, " of pool ", pool, ": there are ",
                         PoolBlocks(pool));
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status PlanCheck::CheckRow(const StepPlan& plan, size_t index, const std::vector<SlotState>& slots) const {
  const PlanRow& row = plan.rows[index];
  const SlotState& slot = slots[static_cast<size_t>(row.slot)];
  const bool own_last = row.token == -1 - row.slot;
  if (own_last ? !slot.sampled : (row.token < 0 || row.token >= limits_.vocab)) {
    return Invalid(plan, "row ", index, ": token ", row.token, ": must be 0 to ", limits_.vocab - 1, ", or ",
                   -1 - row.slot, " once its slot has sampled");
  }
  if (row.position < 0 || row.position >= limits_.context) {
    return Invalid(plan, "row ", index, ": position ", row.position, ": must be 0 to ", limits_.context - 1);
  }
  const int64_t firsts[2] = {0, std::max<int64_t>(int64_t{row.position} - limits_.sliding_window + 1, 0)};
  for (int pool = 0; pool < 2; ++pool) {
    const Covered& covered = slot.covered[pool];
    if (PoolBlocks(pool) > 0 &&
        (firsts[pool] / limits_.block_tokens < covered.begin || row.position / limits_.block_tokens >= covered.end)) {
      return Invalid(plan, "row ", index, " sees positions ", firsts[pool], " to ", row.position, " of slot ", row.slot,
                     ", which holds blocks [", covered.begin, ", ", covered.end, ") of pool ", pool);
    }
  }
  return absl::OkStatus();
}

absl::Status PlanCheck::CheckLogits(const StepPlan& plan, std::vector<SlotState>& slots) const {
  const int64_t count = static_cast<int64_t>(plan.logits.size());
  if (count > limits_.max_logit_rows) {
    return Invalid(plan, count, " logit rows: at most ", limits_.max_logit_rows);
  }
  const int64_t marked =
      std::count_if(plan.rows.begin(), plan.rows.end(), [](const PlanRow& row) { return row.wants_logits; });
  if (marked != count) {
    return Invalid(plan, marked, " rows want logits, ", count, " requests");
  }
  int32_t last = -1;
  for (const LogitRequest& request : plan.logits) {
    if (request.row <= last || request.row >= static_cast<int32_t>(plan.rows.size()) ||
        !plan.rows[static_cast<size_t>(request.row)].wants_logits) {
      return Invalid(plan, "logit request for row ", request.row, ": must be a rising row that wants logits");
    }
    if (request.wanted < -1 || request.wanted >= limits_.vocab) {
      return Invalid(plan, "wanted token ", request.wanted, ": must be -1 to ", limits_.vocab - 1);
    }
    last = request.row;
    if (request.keep) {
      slots[static_cast<size_t>(plan.rows[static_cast<size_t>(request.row)].slot)].sampled = true;
    }
  }
  return absl::OkStatus();
}

}  // namespace alphecca::engine

// Checks a step plan before anything of it reaches a device: a plan comes from a peer, and kernels trust what they are
// given. Deterministic, so every rank of a group refuses the same plans.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/shard_runner.h"
#include "worker/engine/step_plan.h"

namespace alphecca::engine {

class PlanCheck {
 public:
  explicit PlanCheck(const ShardLimits& limits);

  // FailedPrecondition: an older epoch, or a step that does not follow the last one (a new epoch begins at step 1).
  // InvalidArgument: a row, slot, token, block, mask or logit request out of range, rules out of their ranges or out of
  // order, a slot that was not opened, rows of one slot with different owners, a row whose visible keys have no blocks.
  // A plan that is refused changes nothing.
  absl::Status Check(const StepPlan& plan);

 private:
  // Logical blocks [begin, end) of a slot that have been assigned; they are contiguous.
  struct Covered {
    int64_t begin = 0;
    int64_t end = 0;
  };
  struct SlotState {
    bool open = false;
    int32_t owner = -1;    // rank of its rows; -1: it has had none
    bool sampled = false;  // it holds a token of its own
    Covered covered[2];
  };

  absl::Status CheckOwners(const StepPlan& plan, std::vector<SlotState>& slots) const;
  absl::Status CheckOrder(const StepPlan& plan) const;
  absl::Status CheckTables(const StepPlan& plan, std::vector<SlotState>& slots) const;
  absl::Status CheckCopies(const StepPlan& plan, const std::vector<SlotState>& slots) const;
  absl::Status CheckRow(const StepPlan& plan, size_t index, const std::vector<SlotState>& slots) const;
  absl::Status CheckLogits(const StepPlan& plan, std::vector<SlotState>& slots) const;
  absl::Status CheckSampling(const OpenSlot& open) const;
  absl::Status CheckMasks(const StepPlan& plan) const;
  int64_t PoolBlocks(int pool) const { return pool == 0 ? limits_.full_blocks : limits_.sliding_blocks; }

  ShardLimits limits_;
  Epoch epoch_;
  uint64_t step_ = 0;
  std::vector<SlotState> slots_;
};

// InvalidArgument: a sampling value out of its range (named, with the range).
absl::Status CheckSamplingValues(const kernels::SamplingRow& row);

}  // namespace alphecca::engine

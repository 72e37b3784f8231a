// What one rank of a shard plan takes of its device's memory.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/shard_plan.h"
#include "model/weight_type.h"

namespace alphecca::model {

struct StepSizes {
  int64_t rows = 0;        // of a step at most
  int64_t logit_rows = 0;  // of which so many want logits
};

// Steps of at most `rows` rows for `sequences` sequences at once: 64 rows may want logits, more where more sequences
// run.
StepSizes StepSizesFor(int64_t rows, int64_t sequences);

struct Footprint {
  int64_t weight_bytes = 0;         // resident
  int64_t mapped_bytes = 0;         // of the file, looked up, not loaded
  int64_t workspace_bytes = 0;      // activations of the largest step
  int64_t full_token_bytes = 0;     // K and V of a token in the full-attention pool
  int64_t sliding_token_bytes = 0;  // and in the sliding one

  // Tables count as weights: --resident-tables.
  void HoldTables() { weight_bytes += std::exchange(mapped_bytes, 0); }
};

Footprint RankFootprint(const ModelConfig& config, const ShardPlan& plan, int rank, kernels::DType weights,
                        kernels::DType kv_type, const StepSizes& sizes);

// The same of a checkpoint's tensors as the loader holds them. InvalidArgument: HeldType's.
absl::StatusOr<Footprint> RankFootprint(const Checkpoint& checkpoint, const ShardPlan& plan, int rank,
                                        WeightType weights, kernels::DType kv_type, const StepSizes& sizes);

// Bytes of the activations that the forward pass allocates for a rank (forward::Scratch).
int64_t WorkspaceBytes(const ModelConfig& config, const ShardPlan& plan, int rank, const StepSizes& sizes);

}  // namespace alphecca::model

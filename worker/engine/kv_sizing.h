// How many KV blocks a rank's two pools get. By model and plan alone, so that every rank of a group comes to the same
// numbers, whatever share of the KV heads it holds.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/shard_plan.h"
#include "worker/engine/shard_runner.h"

namespace alphecca::engine {

struct KvSizes {
  int64_t context = 0;  // no longer than the full pool holds
  int64_t full_blocks = 0;
  int64_t sliding_blocks = 0;
};

// Bytes of one block of a pool on the rank that holds most of it.
int64_t KvBlockBytes(const model::ModelConfig& config, const model::ShardPlan& plan, kernels::PoolKind pool,
                     int block_tokens, kernels::DType type);

// InvalidArgument: a size out of range. ResourceExhausted: the budget holds not even one window and one block.
absl::StatusOr<KvSizes> SizeKv(const model::ModelConfig& config, const model::ShardPlan& plan,
                               const ShardOptions& options);

}  // namespace alphecca::engine

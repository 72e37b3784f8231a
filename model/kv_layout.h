// What a paged KV cache needs, by model and plan alone: blocks for a sequence, bytes for a token.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "model/config.h"
#include "model/shard_plan.h"

namespace alphecca::model {

// Blocks that n tokens from position 0 on fill.
constexpr int64_t BlocksFor(int64_t tokens, int block_tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

// Blocks of a sliding pool that a sequence of `tokens` tokens holds at once at most, run in chunks of `chunk`: the
// chunk's rows and the window before them, wherever they fall on block bounds.
int64_t SlidingBlocksFor(int64_t tokens, int window, int64_t chunk, int block_tokens);

// Whether any layer's keys lie in the pool.
bool HasPool(const ModelConfig& config, kernels::PoolKind pool);

// Bytes of one token's K and V in a pool on a rank, all layers that own KV together.
int64_t KvTokenBytes(const ModelConfig& config, const RankShard& shard, kernels::PoolKind pool, kernels::DType type);

// InvalidArgument unless all heads of the model can be held in a KV cache of this type.
absl::Status CheckKvType(const ModelConfig& config, kernels::DType type);

}  // namespace alphecca::model

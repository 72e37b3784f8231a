#include "model/kv_layout.h"

#include <algorithm>

#include "common/status_macros.h"
#include "kernels/kv_type.h"

namespace alphecca::model {

int64_t SlidingBlocksFor(int64_t tokens, int window, int64_t chunk, int block_tokens) {
  if (tokens <= 0) {
    return 0;
  }
  const int64_t span = std::min<int64_t>(tokens, int64_t{window} - 1 + chunk);
  // A run of n positions touches at most this many blocks: the first may begin with its last position alone.
  const int64_t touched = (span + block_tokens - 2) / block_tokens + 1;
  return std::min(touched, BlocksFor(tokens, block_tokens));
}

bool HasPool(const ModelConfig& config, kernels::PoolKind pool) {
  return std::any_of(config.layers.begin(), config.layers.end(),
                     [pool](const LayerConfig& layer) { return layer.full_attention == (pool == kernels::kFullPool); });
}

int64_t KvTokenBytes(const ModelConfig& config, const RankShard& shard, kernels::PoolKind pool, kernels::DType type) {
  int64_t bytes = 0;
  for (size_t i = 0; i < config.layers.size() && i < shard.layers.size(); ++i) {
    const LayerConfig& layer = config.layers[i];
    if (config.OwnsKv(static_cast<int>(i)) && layer.full_attention == (pool == kernels::kFullPool)) {
      bytes += 2 * shard.layers[i].kv_heads.size() * kernels::RowBytes(type, layer.head_dim);
    }
  }
  return bytes;
}

absl::Status CheckKvType(const ModelConfig& config, kernels::DType type) {
  for (const LayerConfig& layer : config.layers) {
    RETURN_IF_ERROR(kernels::CheckKvType(type, layer.head_dim));
  }
  return absl::OkStatus();
}

}  // namespace alphecca::model

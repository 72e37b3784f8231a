#include "worker/engine/kv_sizing.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "model/kv_layout.h"
#include "worker/engine/block_manager.h"

namespace alphecca::engine {
namespace {

absl::Status CheckOptions(const model::ModelConfig& config, const ShardOptions& options) {
  if (options.context < 0 || options.context > config.context) {
    return absl::InvalidArgumentError(
        absl::StrCat("context ", options.context, ": must be 1 to the model's ", config.context, ", or 0 for that"));
  }
  if (options.max_sequences < 1 || options.max_sequences > 65536) {
    return absl::InvalidArgumentError(absl::StrCat("max_sequences ", options.max_sequences, ": must be 1 to 65536"));
  }
  if (options.max_rows < 1 || options.max_rows > 65536) {
    return absl::InvalidArgumentError(absl::StrCat("max_rows ", options.max_rows, ": must be 1 to 65536"));
  }
  if (options.block_tokens < 1 || options.block_tokens > 4096) {
    return absl::InvalidArgumentError(absl::StrCat("block_tokens ", options.block_tokens, ": must be 1 to 4096"));
  }
  constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();
  if (options.full_blocks < 0 || options.full_blocks > kMaxBlocks || options.sliding_blocks < 0 ||
      options.sliding_blocks > kMaxBlocks || options.kv_budget_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("full_blocks ", options.full_blocks, ", sliding_blocks ",
                                                   options.sliding_blocks, ", kv_budget_bytes ",
                                                   options.kv_budget_bytes, ": must not be negative or huge"));
  }
  return model::CheckKvType(config, options.kv_type);
}

// Shrinks both pools in proportion until they fit the budget; the sliding one keeps a window for one sequence.
absl::Status FitBudget(int64_t budget, int64_t full_bytes, int64_t sliding_bytes, int64_t least_sliding,
                       KvSizes& sizes) {
  const double wanted = static_cast<double>(full_bytes) * static_cast<double>(sizes.full_blocks) +
                        static_cast<double>(sliding_bytes) * static_cast<double>(sizes.sliding_blocks);
  if (budget == 0 || wanted <= static_cast<double>(budget)) {
    return absl::OkStatus();
  }
  const double share = static_cast<double>(budget) / wanted;
  const auto scaled = [share](int64_t blocks) {
    return static_cast<int64_t>(std::floor(share * static_cast<double>(blocks)));
  };
  sizes.sliding_blocks = std::min(sizes.sliding_blocks, std::max(scaled(sizes.sliding_blocks), least_sliding));
  const int64_t left = budget - sizes.sliding_blocks * sliding_bytes;
  if (left < full_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("KV budget of ", budget, " bytes: one sequence needs at least ",
                                                     sizes.sliding_blocks * sliding_bytes + full_bytes));
  }
  if (full_bytes > 0) {
    sizes.full_blocks = std::min(sizes.full_blocks, left / full_bytes);
  }
  return absl::OkStatus();
}

}  // namespace

int64_t KvBlockBytes(const model::ModelConfig& config, const model::ShardPlan& plan, kernels::PoolKind pool,
                     int block_tokens, kernels::DType type) {
  int64_t most = 0;
  for (const model::RankShard& rank : plan.ranks) {
    most = std::max(most, block_tokens * model::KvTokenBytes(config, rank, pool, type));
  }
  return most;
}

absl::StatusOr<KvSizes> SizeKv(const model::ModelConfig& config, const model::ShardPlan& plan,
                               const ShardOptions& options) {
  RETURN_IF_ERROR(CheckOptions(config, options));
  KvSizes sizes{.context = options.context == 0 ? config.context : options.context};
  const int block_tokens = options.block_tokens;
  const int64_t sequences = plan.SequencesOfOwner(options.max_sequences);
  int64_t least_sliding = 0;
  if (model::HasPool(config, kernels::kFullPool)) {
    sizes.full_blocks =
        options.full_blocks > 0 ? options.full_blocks : sequences * BlocksFor(sizes.context, block_tokens);
  }
  if (model::HasPool(config, kernels::kSlidingPool)) {
    const int window = config.sliding_window;
    const int64_t one = SlidingBlocksFor(sizes.context, window, options.max_rows, block_tokens);
    least_sliding = SlidingBlocksFor(int64_t{window} + block_tokens, window, block_tokens, block_tokens) + 1;
    sizes.sliding_blocks =
        options.sliding_blocks > 0 ? options.sliding_blocks : std::max(sequences * one, least_sliding);
  }
  RETURN_IF_ERROR(FitBudget(
      options.kv_budget_bytes, KvBlockBytes(config, plan, kernels::kFullPool, block_tokens, options.kv_type),
      KvBlockBytes(config, plan, kernels::kSlidingPool, block_tokens, options.kv_type), least_sliding, sizes));
  if (std::max(sizes.full_blocks, sizes.sliding_blocks) > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(sizes.full_blocks, " full and ", sizes.sliding_blocks,
                                                   " sliding KV blocks: lower max_sequences or context"));
  }
  if (sizes.full_blocks > 0) {
    sizes.context = std::min(sizes.context, sizes.full_blocks * block_tokens);
  }
  return sizes;
}

}  // namespace alphecca::engine

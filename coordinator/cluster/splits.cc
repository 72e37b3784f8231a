#include "coordinator/cluster/splits.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/kv_type.h"
#include "model/planner/footprint.h"
#include "model/weight_type.h"

namespace alphecca::coordinator {
namespace {

// Sizes of groups to consider.
constexpr int kRanks[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32};
constexpr int64_t kStepRows = 256;  // as the workers': of a step at most
constexpr int64_t kLeastKvBytes = int64_t{16} << 20;

// `load`: without rows where no copies are asked for.
absl::StatusOr<Split> MakeSplit(const model::Checkpoint& checkpoint, const SplitOptions& options,
                                model::WeightType weights, const model::ExpertRows& load, int ranks) {
  const model::ModelConfig& config = checkpoint.config();
  const bool any = options.tp == 0;
  const int ep = options.ep > 0 ? options.ep : model::DefaultEp(config, ranks);
  const int tp = any && options.expert_mode == model::ExpertMode::kWide ? 1 : ranks;
  model::Sharding sharding{.tp = tp, .ep = ep, .mode = options.expert_mode};
  if (!load.empty() && ep > 1) {
    ASSIGN_OR_RETURN(sharding.replicas, model::PlaceReplicas(config, load, ep, options.hot_experts));
  }
  ASSIGN_OR_RETURN(const model::ShardPlan plan, model::MakeShardPlan(checkpoint, sharding, weights));
  const std::optional<kernels::DType> kv_type = kernels::KvTypeByName(options.kv_type);
  if (!kv_type.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("kv_type ", options.kv_type, ": want ", kernels::kKvNames));
  }
  Split split{.tp = tp,
              .ep = ep,
              .plan_hash = plan.Hash(),
              .experts = config.experts > 0,
              .expert_mode = options.expert_mode,
              .expert_replicas = std::move(sharding.replicas)};
  const model::StepSizes sizes = model::StepSizesFor(kStepRows, options.max_sequences);
  for (size_t rank = 0; rank < plan.ranks.size(); ++rank) {
    ASSIGN_OR_RETURN(model::Footprint footprint,
                     model::RankFootprint(checkpoint, plan, static_cast<int>(rank), weights, *kv_type, sizes));
    if (options.resident_tables) {
      footprint.HoldTables();
    }
    const int64_t window = std::min<int64_t>(options.context, config.sliding_window + kStepRows);
    const int64_t kv = any ? footprint.full_token_bytes * options.context + footprint.sliding_token_bytes * window : 0;
    split.rank_bytes =
        std::max(split.rank_bytes, footprint.weight_bytes + footprint.workspace_bytes + std::max(kv, kLeastKvBytes));
  }
  return split;
}

}  // namespace

absl::StatusOr<std::vector<Split>> AllowedSplits(const model::Checkpoint& checkpoint, const SplitOptions& options) {
  ASSIGN_OR_RETURN(const model::WeightType weights, model::ParseWeightType(options.weights));
  model::ExpertRows load;
  if (options.hot_experts > 0 && checkpoint.config().experts > 0) {
    ASSIGN_OR_RETURN(load, model::ReadExpertRows(options.expert_load, checkpoint.config()));
  }
  if (options.tp > 0 || (options.ep > 0 && options.expert_mode == model::ExpertMode::kWide)) {
    ASSIGN_OR_RETURN(Split split, MakeSplit(checkpoint, options, weights, load, std::max(options.tp, 1)));
    return std::vector<Split>{std::move(split)};
  }
  std::vector<Split> splits;
  absl::Status why;
  for (const int ranks : kRanks) {
    absl::StatusOr<Split> split = MakeSplit(checkpoint, options, weights, load, ranks);
    if (split.ok()) {
      splits.push_back(*std::move(split));
    } else if (why.ok()) {
      why = split.status();
    }
  }
  if (splits.empty()) {
    return why;
  }
  return splits;
}

}  // namespace alphecca::coordinator

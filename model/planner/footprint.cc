#include "model/planner/footprint.h"

#include <algorithm>

#include "common/status_macros.h"
#include "kernels/sampling.h"
#include "model/kv_layout.h"
#include "model/shard_slices.h"

namespace alphecca::model {

namespace {

void AddWeights(const TensorSlice& slice, kernels::DType type, Footprint& footprint) {
  const bool mapped = HoldingOf(slice.kind) == Holding::kMapped;
  (mapped ? footprint.mapped_bytes : footprint.weight_bytes) += RuntimeBytes(slice, type);
}

void AddTheRest(const ModelConfig& config, const ShardPlan& plan, int rank, kernels::DType kv_type,
                const StepSizes& sizes, Footprint& footprint) {
  const RankShard& shard = plan.ranks[static_cast<size_t>(rank)];
  footprint.workspace_bytes = WorkspaceBytes(config, plan, rank, sizes);
  footprint.full_token_bytes = KvTokenBytes(config, shard, kernels::kFullPool, kv_type);
  footprint.sliding_token_bytes = KvTokenBytes(config, shard, kernels::kSlidingPool, kv_type);
}

}  // namespace

StepSizes StepSizesFor(int64_t rows, int64_t sequences) {
  constexpr int64_t kLogitRows = 64;
  return {.rows = rows, .logit_rows = std::min(rows, std::max(kLogitRows, sequences))};
}

Footprint RankFootprint(const ModelConfig& config, const ShardPlan& plan, int rank, kernels::DType weights,
                        kernels::DType kv_type, const StepSizes& sizes) {
  Footprint footprint;
  for (const TensorSlice& slice : ShardSlices(config, plan, rank)) {
    AddWeights(slice, weights, footprint);
  }
  AddTheRest(config, plan, rank, kv_type, sizes, footprint);
  return footprint;
}

absl::StatusOr<Footprint> RankFootprint(const Checkpoint& checkpoint, const ShardPlan& plan, int rank,
                                        WeightType weights, kernels::DType kv_type, const StepSizes& sizes) {
  const ModelConfig& config = checkpoint.config();
  RETURN_IF_ERROR(CheckKvType(config, kv_type));
  Footprint footprint;
  for (const TensorSlice& slice : ShardSlices(config, plan, rank)) {
    const bool split = slice.kind == TensorKind::kExpertGateUp && !checkpoint.Has(slice.kind, slice.layer);
    ASSIGN_OR_RETURN(kernels::DType type,
                     checkpoint.TypeOf(split ? InSplitForm(config, slice).kind : slice.kind, slice.layer));
    if (HoldingOf(slice.kind) == Holding::kMatrix) {
      ASSIGN_OR_RETURN(type, HeldType(slice.kind, type, weights));
    }
    AddWeights(slice, type, footprint);
  }
  AddTheRest(config, plan, rank, kv_type, sizes, footprint);
  return footprint;
}

int64_t WorkspaceBytes(const ModelConfig& config, const ShardPlan& plan, int rank, const StepSizes& sizes) {
  const RankShard& shard = plan.ranks[static_cast<size_t>(rank)];
  int64_t qkv = 0;
  int64_t heads = 0;
  int64_t mlp = 0;
  int64_t experts = 0;
  for (size_t l = 0; l < config.layers.size(); ++l) {
    const LayerShard& part = shard.layers[l];
    const int64_t head_dim = config.layers[l].head_dim;
    qkv = std::max(qkv, (part.heads.size() + 2 * part.kv_heads.size()) * head_dim);
    heads = std::max(heads, part.heads.size() * head_dim);
    mlp = std::max(mlp, part.mlp.size());
    experts = std::max(experts, part.held_experts());
  }
  const int64_t hidden = config.hidden;
  const int64_t branches = config.experts > 0 ? 2 : 1;  // dense, experts
  const int64_t per_layer = static_cast<int64_t>(config.layers.size()) * config.per_layer_width;
  const auto ranks = static_cast<int64_t>(plan.ranks.size());
  const int64_t traveller = hidden + 2 * config.experts_per_token;                // a row with its experts
  const int64_t most_ranks = std::min<int64_t>(ranks, config.experts_per_token);  // that a row goes to
  const int64_t exchange = plan.wide() ? (most_ranks + 1) * traveller + hidden + ranks : 0;
  const int64_t row = (2 + branches) * hidden + qkv + heads + mlp + per_layer + config.per_layer_width +
                      config.experts + 2 * config.experts_per_token + exchange;
  const int64_t vocab = DutiesOf(plan, rank).vocabulary ? shard.vocab.size() : 0;
  // Fused ranks gather candidates, wide ones choices.
  const int64_t logit_row = (2 * hidden + vocab) * 4 +
                            (plan.wide() ? 1 : ranks) * kernels::CandidateRecordBytes(kernels::kMaxRecordCandidates) +
                            (plan.wide() ? ranks : 1) * kernels::ChoiceBytes(kernels::kMaxRecordCandidates);
  const int64_t counts = plan.wide() ? (3 * ranks + 2) * 4 : 0;
  const int64_t expert_load = static_cast<int64_t>(config.layers.size()) * experts * 4;
  return sizes.rows * row * 4 + sizes.logit_rows * logit_row + expert_load + counts;
}

}  // namespace alphecca::model

#include "model/shard_slices.h"

#include <algorithm>
#include <utility>

namespace alphecca::model {
namespace {

Range Scaled(Range range, int64_t by) {
  return {range.begin * by, range.end * by};
}

class Lister {
 public:
  Lister(const ModelConfig& config, const ShardPlan& plan, int rank)
      : config_(config),
        plan_(plan),
        rank_(rank),
        shard_(plan.ranks[static_cast<size_t>(rank)]),
        duties_(DutiesOf(plan, rank)) {}

  std::vector<TensorSlice> List() {
    for (const TensorSpec& spec : Catalogue(config_)) {
      Add(spec);
    }
    return std::move(slices_);
  }

 private:
  const LayerShard& part(int layer) const { return shard_.layers[static_cast<size_t>(layer)]; }

  void Add(const TensorSpec& spec) {
    const TensorSlice whole = {.kind = spec.kind,
                               .layer = spec.layer,
                               .items = {0, spec.items},
                               .rows = {0, spec.rows},
                               .cols = {0, spec.cols}};
    switch (spec.kind) {
      case TensorKind::kEmbedding:
        return Rows(whole, duties_.vocabulary, shard_.vocab);
      case TensorKind::kQ:
        return Rows(whole, duties_.dense, Scaled(part(spec.layer).heads, HeadDim(spec.layer)));
      case TensorKind::kK:
      case TensorKind::kV:
        return KvRows(whole);
      case TensorKind::kO:
        return Columns(whole, duties_.dense, Scaled(part(spec.layer).heads, HeadDim(spec.layer)));
      case TensorKind::kGate:
      case TensorKind::kUp:
        return Rows(whole, duties_.dense, part(spec.layer).mlp);
      case TensorKind::kDown:
        return Columns(whole, duties_.dense, part(spec.layer).mlp);
      case TensorKind::kExpertGateUp:
      case TensorKind::kExpertDown:
        return Experts(whole);
      default:  // whole on every rank
        return Push(whole, rank_ > 0);
    }
  }

  int64_t HeadDim(int layer) const { return config_.layers[static_cast<size_t>(layer)].head_dim; }

  void Push(TensorSlice slice, bool replicated) {
    if (!slice.items.empty() && !slice.rows.empty() && !slice.cols.empty()) {
      slice.replicated = replicated;
      slices_.push_back(slice);
    }
  }

  void Rows(TensorSlice slice, bool holds, Range rows) {
    if (holds) {
      slice.rows = rows;
      Push(slice, plan_.wide() && rank_ > 0);
    }
  }

  void Columns(TensorSlice slice, bool holds, Range cols) {
    if (holds) {
      slice.cols = cols;
      Push(slice, plan_.wide() && rank_ > 0);
    }
  }

  // Ranks hold KV heads in order, so the ranks before this one hold all up to some head.
  void KvRows(TensorSlice slice) {
    const LayerShard& mine = part(slice.layer);
    if (!duties_.dense || mine.heads.empty()) {
      return;
    }
    int64_t held = 0;
    for (int rank = 0; rank < rank_; ++rank) {
      const LayerShard& other = plan_.ranks[static_cast<size_t>(rank)].layers[static_cast<size_t>(slice.layer)];
      held = std::max(held, other.kv_heads.end);
    }
    const int64_t first_own = std::clamp(held, mine.kv_heads.begin, mine.kv_heads.end);
    slice.rows = Scaled({mine.kv_heads.begin, first_own}, HeadDim(slice.layer));
    Push(slice, true);
    slice.rows = Scaled({first_own, mine.kv_heads.end}, HeadDim(slice.layer));
    Push(slice, false);
  }

  void Experts(TensorSlice slice) {
    const LayerShard& mine = part(slice.layer);
    slice.items = mine.experts;
    ExpertSlices(slice, mine.expert_columns, false);
    for (const int32_t expert : mine.replicas) {
      slice.items = {expert, expert + 1};
      ExpertSlices(slice, mine.expert_columns, true);
    }
  }

  void ExpertSlices(TensorSlice slice, Range columns, bool replicated) {
    if (slice.kind == TensorKind::kExpertDown) {
      slice.cols = columns;
      return Push(slice, replicated);
    }
    for (const int64_t first : {int64_t{0}, int64_t{config_.expert_width}}) {  // gate, up
      slice.rows = {first + columns.begin, first + columns.end};
      Push(slice, replicated);
    }
  }

  const ModelConfig& config_;
  const ShardPlan& plan_;
  const int rank_;
  const RankShard& shard_;
  const Duties duties_;
  std::vector<TensorSlice> slices_;
};

}  // namespace

Duties DutiesOf(const ShardPlan& plan, int rank) {
  const RankShard& mine = plan.ranks[static_cast<size_t>(rank)];
  if (plan.wide()) {
    return {.dense = true, .vocabulary = !mine.vocab.empty()};
  }
  const auto same_slice = [&mine](const RankShard& other) { return other.vocab == mine.vocab; };
  const auto first = std::find_if(plan.ranks.begin(), plan.ranks.end(), same_slice);
  return {.dense = mine.adds_dense, .vocabulary = first->rank == rank && !mine.vocab.empty()};
}

Holding HoldingOf(TensorKind kind) {
  switch (kind) {
    case TensorKind::kPerLayerEmbedding:
      return Holding::kMapped;
    case TensorKind::kFinalNorm:
    case TensorKind::kPerLayerProjNorm:
    case TensorKind::kInputNorm:
    case TensorKind::kQNorm:
    case TensorKind::kKNorm:
    case TensorKind::kPostAttentionNorm:
    case TensorKind::kPreFfnNorm:
    case TensorKind::kPostFfnNorm:
    case TensorKind::kLayerScalar:
    case TensorKind::kPostPerLayerNorm:
    case TensorKind::kRouterScale:
    case TensorKind::kExpertScale:
    case TensorKind::kPreFfnNorm2:
    case TensorKind::kPostFfnNorm1:
    case TensorKind::kPostFfnNorm2:
      return Holding::kVector;
    default:
      return Holding::kMatrix;
  }
}

std::vector<TensorSlice> ShardSlices(const ModelConfig& config, const ShardPlan& plan, int rank) {
  return Lister(config, plan, rank).List();
}

TensorSlice InSplitForm(const ModelConfig& config, TensorSlice fused) {
  const bool up = fused.rows.begin >= config.expert_width;
  fused.kind = up ? TensorKind::kExpertUp : TensorKind::kExpertGate;
  if (up) {
    fused.rows = {fused.rows.begin - config.expert_width, fused.rows.end - config.expert_width};
  }
  return fused;
}

int64_t RuntimeBytes(const TensorSlice& slice, kernels::DType weights) {
  if (HoldingOf(slice.kind) == Holding::kVector) {
    return slice.elements() * kernels::RowBytes(kernels::DType::kF32, 1);
  }
  const int64_t scale = weights == kernels::DType::kSFP8 ? kernels::RowBytes(kernels::DType::kF32, 1) : 0;
  return slice.items.size() * slice.rows.size() * (kernels::RowBytes(weights, slice.cols.size()) + scale);
}

}  // namespace alphecca::model

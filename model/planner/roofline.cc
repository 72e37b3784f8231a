#include "model/planner/roofline.h"

#include <algorithm>
#include <cmath>

#include "model/shard_slices.h"

namespace alphecca::model {
namespace {

constexpr double kSumBytes = 4;  // ranks sum in F32

// One pass over `rows` rows, of which `logit_rows` want logits. Keys are those that all rows together attend to, once
// for each row (scores) and once for each time they are read (reads).
struct Pass {
  double rows = 0;
  double logit_rows = 0;
  double full_scores = 0, full_reads = 0;
  double sliding_scores = 0, sliding_reads = 0;
  double owned = 1;  // share of the rows whose dense part the busiest rank computes (fused: each rank, of all)
};

// Mean over positions 0 .. n-1 of the keys a row sees in a window.
double MeanKeys(double n, double window) {
  const double w = std::min(n, window);
  return (w * (w + 1) / 2 + (n - w) * w) / n;
}

Pass DecodePass(const ModelConfig& config, const ShardPlan& plan, const Load& load) {
  const auto sequences = static_cast<double>(load.sequences);
  const auto context = static_cast<double>(load.context);
  const double full = std::min(sequences * context, static_cast<double>(load.kv_tokens));
  const double sliding = sequences * std::min(context, static_cast<double>(config.sliding_window));
  const double owned = static_cast<double>(plan.SequencesOfOwner(load.sequences)) / sequences;
  return {sequences, sequences, full, full, sliding, sliding, owned};
}

Pass PrefillPass(const ModelConfig& config, const Load& load) {
  const auto context = static_cast<double>(load.context);
  const double rows = std::min(static_cast<double>(load.prefill_rows), context);
  const double full = MeanKeys(context, context);
  const double sliding = MeanKeys(context, config.sliding_window);
  return {rows, 0, rows * full, full, rows * sliding, sliding};
}

class Rank {
 public:
  Rank(const ModelConfig& config, const ShardPlan& plan, int rank, kernels::DType weights, kernels::DType kv_type)
      : config_(config),
        shard_(plan.ranks[static_cast<size_t>(rank)]),
        dense_(DutiesOf(plan, rank).dense),
        slices_(ShardSlices(config, plan, rank)),
        weights_(weights),
        kv_type_(kv_type) {}

  double Seconds(const Pass& pass, const Device& device) const {
    double bytes = 0;
    double flops = 0;
    AddWeights(pass, &bytes, &flops);
    if (dense_) {
      AddAttention(pass, &bytes, &flops);
    }
    return std::max(bytes / device.memory_bandwidth, flops / device.flops);
  }

 private:
  void AddWeights(const Pass& pass, double* bytes, double* flops) const {
    // Of all rows, those that choose an expert and take this rank's copy of it.
    double active = 0;
    if (config_.experts > 0) {
      const LayerShard& part = shard_.layers.front();
      active = double{1} * config_.experts_per_token / config_.experts * static_cast<double>(part.experts.size()) /
               static_cast<double>(std::max<int64_t>(part.held_experts(), 1));
    }
    const double touched = 1 - std::pow(1 - active, pass.rows);
    for (const TensorSlice& slice : slices_) {
      if (HoldingOf(slice.kind) == Holding::kMapped) {
        continue;  // a row a token
      }
      const bool expert = slice.kind == TensorKind::kExpertGateUp || slice.kind == TensorKind::kExpertDown;
      const bool head = slice.kind == TensorKind::kEmbedding;
      const double rows = head ? pass.logit_rows * pass.owned : pass.rows * (expert ? active : pass.owned);
      *flops += 2 * rows * static_cast<double>(slice.elements());
      if (rows > 0) {
        *bytes += static_cast<double>(RuntimeBytes(slice, weights_)) * (expert ? touched : 1);
      }
    }
  }

  void AddAttention(const Pass& pass, double* bytes, double* flops) const {
    for (size_t l = 0; l < config_.layers.size(); ++l) {
      const LayerConfig& layer = config_.layers[l];
      const auto heads = static_cast<double>(shard_.layers[l].heads.size());
      const auto kv_heads = static_cast<double>(shard_.layers[l].kv_heads.size());
      const double scores = pass.owned * (layer.full_attention ? pass.full_scores : pass.sliding_scores);
      const double reads = pass.owned * (layer.full_attention ? pass.full_reads : pass.sliding_reads);
      *flops += 4 * scores * heads * layer.head_dim;
      *bytes += 2 * reads * kv_heads * static_cast<double>(kernels::RowBytes(kv_type_, layer.head_dim));
    }
  }

  const ModelConfig& config_;
  const RankShard& shard_;
  const bool dense_;
  const std::vector<TensorSlice> slices_;
  const kernels::DType weights_;
  const kernels::DType kv_type_;
};

// Two all-reduces a layer and one for the embedding, each an exchange, a sum and an exchange; one gather of candidates.
double FusedSeconds(const ModelConfig& config, const ShardPlan& plan, const Device& device, double rows) {
  const auto ranks = static_cast<double>(plan.ranks.size());
  const double all_reduces = 2 * static_cast<double>(config.layers.size()) + 1;
  const double bytes = rows * config.hidden * kSumBytes * (ranks - 1) / ranks;
  return all_reduces * 2 * (device.link_latency + bytes / device.link_bandwidth) + device.link_latency;
}

// Two exchanges a layer, each of counts and then of rows, and one gather of choices. A row goes to the ranks of its
// experts, on average R (1 - (1 - 1/R)^k) of R, one of which may be its owner.
double WideSeconds(const ModelConfig& config, const ShardPlan& plan, const Device& device, double own_rows) {
  const auto ranks = static_cast<double>(plan.ranks.size());
  const double others = (ranks - 1) * (1 - std::pow(1 - 1 / ranks, config.experts_per_token));
  const double bytes = own_rows * others * config.hidden * kSumBytes;
  const double exchanges = 2 * static_cast<double>(config.layers.size());
  return exchanges * (2 * device.link_latency + bytes / device.link_bandwidth) + device.link_latency;
}

double CollectiveSeconds(const ModelConfig& config, const ShardPlan& plan, const Device& device, const Pass& pass) {
  if (plan.ranks.size() == 1) {
    return 0;
  }
  return plan.wide() ? WideSeconds(config, plan, device, pass.rows * pass.owned)
                     : FusedSeconds(config, plan, device, pass.rows);
}

}  // namespace

Bound PredictBound(const ModelConfig& config, const ShardPlan& plan, const Device& device, kernels::DType weights,
                   kernels::DType kv_type, const Load& load) {
  const Pass decode = DecodePass(config, plan, load);
  const Pass prefill = PrefillPass(config, load);
  double decode_seconds = 0;
  double prefill_seconds = 0;
  for (size_t r = 0; r < plan.ranks.size(); ++r) {
    const Rank rank(config, plan, static_cast<int>(r), weights, kv_type);
    decode_seconds = std::max(decode_seconds, rank.Seconds(decode, device));
    prefill_seconds = std::max(prefill_seconds, rank.Seconds(prefill, device));
  }
  decode_seconds += CollectiveSeconds(config, plan, device, decode);
  prefill_seconds += CollectiveSeconds(config, plan, device, prefill);
  return {.decode_tokens_per_s = decode.rows / decode_seconds, .prefill_tokens_per_s = prefill.rows / prefill_seconds};
}

}  // namespace alphecca::model

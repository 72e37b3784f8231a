#include "model/shard_plan.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "model/hash.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

constexpr int64_t kVocabUnit = 32;
constexpr int kMaxRanks = 1024;

// Part `index` of `parts` of [0, size), split between units; the last unit may be short.
Range Part(int64_t size, int64_t unit, int index, int parts) {
  const int64_t units = (size + unit - 1) / unit;
  return {std::min(size, units * index / parts * unit), std::min(size, units * (index + 1) / parts * unit)};
}

absl::Status CheckDegrees(const ModelConfig& config, const Sharding& sharding, int64_t column_unit) {
  const int tp = sharding.tp;
  const int ep = sharding.ep;
  const auto bad = [](auto&&... text) { return absl::InvalidArgumentError(Text("shard plan: ", text...)); };
  if (tp < 1 || ep < 1 || tp > kMaxRanks || ep > kMaxRanks) {
    return bad("tp is ", tp, " and ep is ", ep, "; 1 to ", kMaxRanks, " is allowed for both");
  }
  if (column_unit < 1) {
    return bad("the column unit is ", column_unit, "; a positive number is expected");
  }
  if (sharding.mode == ExpertMode::kWide && (config.experts == 0 || tp != 1 || ep < 2)) {
    return bad("wide expert parallelism wants a model with experts, tp 1 and ep 2 or more; the model has ",
               config.experts, " experts, tp is ", tp, ", ep ", ep);
  }
  if (ep > 1 && config.experts == 0) {
    return bad("ep is ", ep, ", but the model has no experts; use ep 1");
  }
  if (ep > 1 && ep > config.experts) {
    return bad("ep is ", ep, ", but the model has only ", config.experts, " experts");
  }
  if (tp > config.heads) {
    return bad("tp is ", tp, ", but the model has only ", config.heads, " attention heads");
  }
  if (std::max(tp, ep) % std::min(tp, ep) != 0) {
    return bad("tp ", tp, " and ep ", ep, ": the smaller must divide the larger");
  }
  return absl::OkStatus();
}

absl::Status CheckReplicas(const ModelConfig& config, const Sharding& sharding) {
  const auto bad = [](auto&&... text) { return absl::InvalidArgumentError(Text("expert replicas: ", text...)); };
  const auto ranks = static_cast<size_t>(sharding.ep);
  if (sharding.replicas.empty()) {
    return absl::OkStatus();
  }
  if (sharding.ep < sharding.tp) {
    return bad("ep is ", sharding.ep, ", tp ", sharding.tp, ": every rank must hold whole experts (ep at least tp)");
  }
  if (sharding.replicas.size() != config.layers.size()) {
    return bad("of ", sharding.replicas.size(), " layers, the model has ", config.layers.size());
  }
  for (size_t l = 0; l < sharding.replicas.size(); ++l) {
    const auto& layer = sharding.replicas[l];
    if (layer.size() != ranks) {
      return bad("layer ", l, " is of ", layer.size(), " ranks, the plan of ", ranks);
    }
    for (size_t rank = 0; rank < ranks; ++rank) {
      const Range own = OwnExperts(config, static_cast<int>(rank), sharding.ep);
      if (layer[rank].size() != sharding.replicas[0][0].size()) {
        return bad("layer ", l, " rank ", rank, " has ", layer[rank].size(), ", others ",
                   sharding.replicas[0][0].size(), ": all must have as many");
      }
      for (size_t i = 0; i < layer[rank].size(); ++i) {
        const int32_t expert = layer[rank][i];
        if (expert < 0 || expert >= config.experts || own.contains(expert) || (i > 0 && expert <= layer[rank][i - 1])) {
          return bad("layer ", l, " rank ", rank, " lists expert ", expert, ": want rising numbers below ",
                     config.experts, " outside its own [", own.begin, ", ", own.end, ")");
        }
      }
    }
  }
  return absl::OkStatus();
}

LayerShard ShardLayer(const ModelConfig& config, const LayerConfig& layer, int tp, int tp_index) {
  LayerShard shard;
  shard.heads = Part(config.heads, 1, tp_index, tp);
  const int64_t group = config.heads / layer.kv_heads;
  shard.kv_heads = {shard.heads.begin / group, (shard.heads.end + group - 1) / group};
  return shard;
}

// The plan of the file where it is laid out for one.
absl::StatusOr<ShardPlan> PlanFor(const Checkpoint& checkpoint, const Sharding& sharding, WeightType weights) {
  const ShardPlan* layout = checkpoint.layout();
  if (layout == nullptr) {
    ASSIGN_OR_RETURN(const int64_t unit, ColumnUnit(checkpoint, weights));
    return MakeShardPlan(checkpoint.config(), sharding, unit);
  }
  if (layout->tp != sharding.tp || layout->ep != sharding.ep || sharding.mode != ExpertMode::kFused ||
      !sharding.replicas.empty()) {
    return absl::InvalidArgumentError(Text(checkpoint.path(), " is laid out for tp ", layout->tp, ", ep ", layout->ep,
                                           ", fused, not for tp ", sharding.tp, ", ep ", sharding.ep, ", ",
                                           ExpertModeName(sharding.mode),
                                           sharding.replicas.empty() ? "" : ", with copies of experts",
                                           "; give those degrees, or the checkpoint that it was converted from"));
  }
  return *layout;
}

void HashRange(const Range& range, FieldHash* hash) {
  hash->Add(range.begin);
  hash->Add(range.end);
}

}  // namespace

std::string_view ExpertModeName(ExpertMode mode) {
  return mode == ExpertMode::kWide ? "wide" : "fused";
}

absl::StatusOr<ExpertMode> ParseExpertMode(std::string_view name) {
  for (const ExpertMode mode : {ExpertMode::kFused, ExpertMode::kWide}) {
    if (name == ExpertModeName(mode)) {
      return mode;
    }
  }
  return absl::InvalidArgumentError(Text("expert mode \"", name, "\": want fused or wide"));
}

int DefaultEp(const ModelConfig& config, int tp) {
  return config.experts > 0 ? tp : 1;
}

absl::StatusOr<ShardPlan> MakeShardPlan(const ModelConfig& config, const Sharding& sharding, int64_t column_unit) {
  RETURN_IF_ERROR(config.Validate());
  RETURN_IF_ERROR(CheckDegrees(config, sharding, column_unit));
  RETURN_IF_ERROR(CheckReplicas(config, sharding));
  const int tp = sharding.tp;
  const int ep = sharding.ep;
  const int ranks = std::max(tp, ep);
  const int per_attention = ranks / tp;  // ranks that share an attention shard
  const int per_set = ranks / ep;        // ranks that share an expert set
  ShardPlan plan;
  plan.tp = tp;
  plan.ep = ep;
  plan.mode = sharding.mode;
  for (int rank = 0; rank < ranks; ++rank) {
    RankShard& shard = plan.ranks.emplace_back();
    const int tp_index = rank / per_attention;
    shard.rank = rank;
    shard.adds_dense = plan.wide() || rank % per_attention == 0;
    shard.vocab = Part(config.vocab, kVocabUnit, tp_index, tp);
    for (const LayerConfig& layer : config.layers) {
      LayerShard& part = shard.layers.emplace_back(ShardLayer(config, layer, tp, tp_index));
      part.mlp = Part(layer.mlp_width, column_unit, tp_index, tp);
      if (config.experts > 0) {
        part.experts = OwnExperts(config, rank / per_set, ep);
        part.expert_columns = Part(config.expert_width, column_unit, rank % per_set, per_set);
        if (!sharding.replicas.empty()) {
          part.replicas = sharding.replicas[shard.layers.size() - 1][static_cast<size_t>(rank)];
        }
      }
    }
  }
  return plan;
}

absl::StatusOr<int64_t> ColumnUnit(const Checkpoint& checkpoint, WeightType weights) {
  int64_t unit = 32;
  for (const TensorSpec& spec : Catalogue(checkpoint.config())) {
    if (spec.kind == TensorKind::kDown || spec.kind == TensorKind::kExpertDown) {
      ASSIGN_OR_RETURN(const kernels::DType type, checkpoint.TypeOf(spec.kind, spec.layer));
      ASSIGN_OR_RETURN(const kernels::DType held, HeldType(spec.kind, type, weights));
      unit = std::max<int64_t>(unit, kernels::Info(type).block_elements);
      unit = std::max<int64_t>(unit, kernels::Info(held).block_elements);
    }
  }
  return unit;
}

absl::StatusOr<ShardPlan> MakeShardPlan(const Checkpoint& checkpoint, const Sharding& sharding, WeightType weights) {
  RETURN_IF_ERROR(CheckWeightType(checkpoint, weights));
  ASSIGN_OR_RETURN(ShardPlan plan, PlanFor(checkpoint, sharding, weights));
  for (size_t i = 0; i < checkpoint.config().layers.size(); ++i) {
    const int layer = static_cast<int>(i);
    ASSIGN_OR_RETURN(const kernels::DType o_proj, checkpoint.TypeOf(TensorKind::kO, layer));
    ASSIGN_OR_RETURN(const kernels::DType held, HeldType(TensorKind::kO, o_proj, weights));
    if (checkpoint.layout() != nullptr && held == kernels::DType::kSFP8 && o_proj != held) {
      return absl::InvalidArgumentError(Text(checkpoint.path(), " holds parts of rows, and SFP8 takes its scales from ",
                                             "whole ones; use a file of convert --weights sfp8 --plan"));
    }
    const kernels::DType wider =
        kernels::Info(held).block_elements > kernels::Info(o_proj).block_elements ? held : o_proj;
    const int64_t block = kernels::Info(wider).block_elements;
    const int64_t head_dim = checkpoint.config().layers[i].head_dim;
    for (const RankShard& rank : plan.ranks) {
      if (rank.layers[i].heads.end * head_dim % block != 0) {
        return absl::InvalidArgumentError(
            Text("shard plan: tp ", sharding.tp, " ends a rank's heads at column ", rank.layers[i].heads.end * head_dim,
                 " of ", CanonicalName(TensorKind::kO, layer), ", within a block of ", block, " of its type ",
                 kernels::Info(wider).name, "; use a tp that gives each rank a multiple of ", block, " columns"));
      }
    }
  }
  return plan;
}

std::vector<std::vector<ExpertHome>> ExpertHomes(const ModelConfig& config, const ShardPlan& plan, int layer,
                                                 int rank) {
  std::vector<std::vector<ExpertHome>> homes(static_cast<size_t>(config.experts));
  const int per_set = static_cast<int>(plan.ranks.size()) / plan.ep;
  for (int set = 0; set < plan.ep; ++set) {
    const int holder = set == rank / per_set ? rank : set * per_set;
    const LayerShard& part = plan.ranks[static_cast<size_t>(holder)].layers[static_cast<size_t>(layer)];
    int32_t index = 0;
    for (int64_t e = part.experts.begin; e < part.experts.end; ++e) {
      homes[static_cast<size_t>(e)].push_back({.rank = holder, .index = index++});
    }
    for (const int32_t e : part.replicas) {
      homes[static_cast<size_t>(e)].push_back({.rank = holder, .index = index++});
    }
  }
  return homes;
}

std::string ShardPlan::Hash() const {
  FieldHash hash;
  hash.Add(int64_t{tp});
  hash.Add(int64_t{ep});
  hash.Add(static_cast<int64_t>(mode));
  for (const RankShard& rank : ranks) {
    hash.Add(int64_t{rank.rank});
    hash.Add(int64_t{rank.adds_dense});
    HashRange(rank.vocab, &hash);
    hash.Add(static_cast<int64_t>(rank.layers.size()));
    for (const LayerShard& layer : rank.layers) {
      for (const Range* range : {&layer.heads, &layer.kv_heads, &layer.mlp, &layer.experts, &layer.expert_columns}) {
        HashRange(*range, &hash);
      }
      hash.Add(static_cast<int64_t>(layer.replicas.size()));
      for (const int32_t expert : layer.replicas) {
        hash.Add(int64_t{expert});
      }
    }
  }
  return absl::StrFormat("%016x", hash.value());
}

}  // namespace alphecca::model

// Which rank holds what of a model. A plan is data: the coordinator makes it, workers load what it says and nothing
// else.
//
// A group has R = max(tp, ep) ranks; the smaller degree divides R. Attention, dense MLP and vocabulary split tp ways,
// experts form ep sets. With tp < ep, R / tp ranks share an attention shard: each computes it, and only the lowest of
// them adds it to a sum (adds_dense). With ep < tp, R / ep ranks share an expert set and slice each expert's columns.
//
// Wide expert parallelism (tp 1): every rank holds the whole of attention, dense MLP and vocabulary and computes them
// for the sequences that it owns; rows travel to the experts and back.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/range.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/expert_replicas.h"
#include "model/weight_type.h"

namespace alphecca::model {

struct LayerShard {
  Range heads;           // query heads
  Range kv_heads;        // those the query heads read (replicated where fewer than ranks)
  Range mlp;             // columns of the dense MLP, in units of 32 or the weight block
  Range experts;         // whole experts
  Range expert_columns;  // of each of them, and of the replicas
  // Experts of other ranks that this one holds a copy of, rising; as many in every layer and rank.
  std::vector<int32_t> replicas;

  int64_t held_experts() const { return experts.size() + static_cast<int64_t>(replicas.size()); }
};

struct RankShard {
  int rank = 0;
  Range vocab;             // rows of the embedding and head
  bool adds_dense = true;  // this rank's attention, dense MLP and embedding parts count in sums
  std::vector<LayerShard> layers;
};

// How a layer's experts meet the rows of a step.
enum class ExpertMode : uint8_t {
  kFused,  // every rank sees all rows and runs its own experts; one sum of dense and expert parts
  kWide,   // a rank sees the rows of its own sequences; rows are exchanged with the ranks that hold their experts
};
std::string_view ExpertModeName(ExpertMode mode);
// InvalidArgument: neither "fused" nor "wide".
absl::StatusOr<ExpertMode> ParseExpertMode(std::string_view name);

// The expert parallel degree where none is given: tp for a model with experts, else 1.
int DefaultEp(const ModelConfig& config, int tp);

// What a plan is made for.
struct Sharding {
  int tp = 1;
  int ep = 1;
  ExpertMode mode = ExpertMode::kFused;
  ExpertReplicas replicas = {};  // empty: none
};

struct ShardPlan {
  int tp = 1;
  int ep = 1;
  ExpertMode mode = ExpertMode::kFused;
  std::vector<RankShard> ranks;

  bool wide() const { return mode == ExpertMode::kWide; }
  // Ranks that sequences are spread over, each of which computes its own ones' attention.
  int owners() const { return wide() ? static_cast<int>(ranks.size()) : 1; }
  // Of so many sequences of a group: the most that one owner has.
  int64_t SequencesOfOwner(int64_t sequences) const { return (sequences + owners() - 1) / owners(); }
  std::string Hash() const;  // 16 hex digits
};

// Heads, units of columns, units of 32 vocabulary rows and experts are spread as evenly as contiguous ranges allow.
// Column units: what a split of mlp and expert columns must be a multiple of, from the types in the checkpoint.
// InvalidArgument where the shape does not allow it: says which and what would.
absl::StatusOr<ShardPlan> MakeShardPlan(const ModelConfig& config, const Sharding& sharding, int64_t column_unit);
// The largest of 32 and the block sizes (in the file and as held) of the checkpoint's column-split matrices.
absl::StatusOr<int64_t> ColumnUnit(const Checkpoint& checkpoint, WeightType weights = WeightType::kAsFile);
// MakeShardPlan with the checkpoint's own column unit; also checks that the weights can be held so and that the split
// of heads ends on blocks of o_proj.
absl::StatusOr<ShardPlan> MakeShardPlan(const Checkpoint& checkpoint, const Sharding& sharding,
                                        WeightType weights = WeightType::kAsFile);

// Where the router's choices are computed. With copies, a row takes the one that its position says (position modulo
// their number), which no other row and no load can change.
struct ExpertHome {
  int32_t rank = 0;
  int32_t index = 0;  // among the experts that the rank holds: its range, then its replicas
};
// Of each expert of the layer, by rank. Where ranks slice each expert's columns between them, `rank` stands for its own
// set and the lowest rank for others.
std::vector<std::vector<ExpertHome>> ExpertHomes(const ModelConfig& config, const ShardPlan& plan, int layer, int rank);

}  // namespace alphecca::model

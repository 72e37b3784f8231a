// Which rank holds what of a model. A plan is data: the coordinator makes it, workers load what it says and nothing
// else.
//
// A group has R = max(tp, ep) ranks; the smaller degree divides R. Attention, dense MLP and vocabulary split tp ways,
// experts form ep sets. With tp < ep, R / tp ranks share an attention shard: each computes it, and only the lowest of
// them adds it to a sum (adds_dense). With ep < tp, R / ep ranks share an expert set and slice each expert's columns.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/range.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/weight_type.h"

namespace alphecca::model {

struct LayerShard {
  Range heads;           // query heads
  Range kv_heads;        // those the query heads read (replicated where fewer than ranks)
  Range mlp;             // columns of the dense MLP, in units of 32 or the weight block
  Range experts;         // whole experts
  Range expert_columns;  // of each of them
};

struct RankShard {
  int rank = 0;
  Range vocab;             // rows of the embedding and head
  bool adds_dense = true;  // this rank's attention, dense MLP and embedding parts count in sums
  std::vector<LayerShard> layers;
};

struct ShardPlan {
  int tp = 1;
  int ep = 1;
  std::vector<RankShard> ranks;
  std::string Hash() const;  // 16 hex digits
};

// Heads, units of columns, units of 32 vocabulary rows and experts are spread as evenly as contiguous ranges allow.
// Column units: what a split of mlp and expert columns must be a multiple of, from the types in the checkpoint.
// InvalidArgument where the shape does not allow it: says which and what would.
absl::StatusOr<ShardPlan> MakeShardPlan(const ModelConfig& config, int tp, int ep, int64_t column_unit);
// The largest of 32 and the block sizes (in the file and as held) of the checkpoint's column-split matrices.
absl::StatusOr<int64_t> ColumnUnit(const Checkpoint& checkpoint, WeightType weights = WeightType::kAsFile);
// MakeShardPlan with the checkpoint's own column unit; also checks that the weights can be held so and that the split
// of heads ends on blocks of o_proj.
absl::StatusOr<ShardPlan> MakeShardPlan(const Checkpoint& checkpoint, int tp, int ep,
                                        WeightType weights = WeightType::kAsFile);

}  // namespace alphecca::model

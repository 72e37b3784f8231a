// Files laid out for one shard plan: the bytes of each rank lie together, so that a rank reads its own pages and no
// others.
//
// Such a file is an ordinary GGUF or safetensors file. A tensor that some rank holds in part is stored as the slices
// that ranks hold, each a tensor NAME[items,rows,cols] of its own, with the slice's ranges; a tensor that is held whole
// keeps its name. What all ranks hold comes first, then what is rank 0's, and so on. The metadata says the plan under
// kPlanKey.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/shard_plan.h"
#include "model/shard_slices.h"

namespace alphecca::model {

inline constexpr std::string_view kPlanKey = "alphecca.plan";

// From what the plan is made again, with the configuration of the file: a fused plan without copies of experts. Parts
// are named by their ranges, so that a plan that comes out another way is refused for the parts that it lacks.
struct PlanLayout {
  int tp = 1;
  int ep = 1;
  int64_t column_unit = 32;
  int64_t vocab = 0;  // rows of the embedding, which no single tensor of the file tells
};

// "tp=4,ep=2,columns=32,vocab=262144".
std::string LayoutText(const PlanLayout& layout);
// InvalidArgument for text of another form.
absl::StatusOr<PlanLayout> ParseLayout(std::string_view text);

// A tensor of such a file.
struct PlanPart {
  TensorSlice slice;
  bool whole = false;  // all of the catalogue's tensor
  int section = 0;     // the lowest rank that holds it; -1 where all do
};

// The tensors of the file in its order. A slice that several ranks hold is there once.
std::vector<PlanPart> PartsOf(const ModelConfig& config, const ShardPlan& plan);

// What follows the tensor's name: "[0:1,64:128,0:2816]", nothing where it is whole.
std::string PartSuffix(const PlanPart& part);

}  // namespace alphecca::model

// The ways in which a model may be shared among a group's ranks, and what each asks of a worker.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/cluster/types.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"

namespace alphecca::coordinator {

struct SplitOptions {
  int tp = 0;  // 0: any
  int ep = 0;  // 0: model::DefaultEp
  std::string weights = "as-file";
  bool resident_tables = false;
  std::string kv_type = "bf16";
  int64_t context = 0;  // tokens
  int64_t max_sequences = 64;
  model::ExpertMode expert_mode = model::ExpertMode::kFused;
  std::string expert_load = "";  // file of a recorded load (model::ReadExpertRows); empty: none
  int hot_experts = 0;           // copies of other ranks' experts on each rank, chosen by expert_load
};

// One split if tp is given, else all the model's shapes allow, fewest ranks first. What a shard takes is its weights,
// the activations of a step, and KV: at least a little where tp is given (the operator knows), else one sequence of the
// whole context. InvalidArgument: the shapes do not allow it. Errors of the file of a load.
absl::StatusOr<std::vector<Split>> AllowedSplits(const model::Checkpoint& checkpoint, const SplitOptions& options);

}  // namespace alphecca::coordinator

// Which devices hold a model, how it is split over them, and what of their memory is left for KV. Pure: no file, device
// or clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "model/config.h"
#include "model/planner/devices.h"
#include "model/planner/footprint.h"
#include "model/planner/roofline.h"
#include "model/shard_plan.h"

namespace alphecca::model {

struct PlanRequest {
  std::string name;  // of the model, for messages
  ModelConfig config;
  // Of matrices and tables: BF16, SFP8 or Q4_0. Norms, scales and scalars are F32.
  kernels::DType weights = kernels::DType::kBF16;
  bool resident_tables = false;  // tables that are only looked up are weights, not mapped
  std::vector<DevicePool> devices;
  int64_t context = 0;        // tokens of one sequence; 0: the model's limit
  int64_t concurrency = 16;   // sequences at once
  int64_t drafter_bytes = 0;  // of a drafter beside rank 0's shard
  // Of a device's memory. The rest is for the driver's context, libraries, communicators' buffers and fragmentation.
  double memory_share = 0.93;
  kernels::DType kv_type = kernels::DType::kBF16;  // or F32, Q8_0
  int block_tokens = 16;                           // of a KV block
  int64_t step_rows = 256;                         // of a step at most
  ExpertMode expert_mode = ExpertMode::kFused;
  ExpertRows expert_load = {};  // recorded; empty: no copies
  int hot_experts = 0;          // copies of other ranks' experts on each rank of several; rules out ep < tp
};

struct RankBudget {
  Footprint footprint;          // with the drafter's weights on rank 0
  int64_t needed_kv_bytes = 0;  // the least that fits: see Plan::fits
  int64_t kv_bytes = 0;         // of both pools, as planned
  int64_t missing_bytes = 0;    // of weights, workspace and needed KV
};

struct Plan {
  // Every rank has room for its weights, its workspace, sliding windows for `concurrency` sequences, and one sequence
  // of `context` tokens in the full-attention pool. Wide: windows for its share of the sequences.
  bool fits = false;
  std::string reason;         // why these devices, or what is missing and what would help
  int64_t missing_bytes = 0;  // on the rank that misses most
  // One group. Where nothing fits: the split that misses least.
  Device device;
  ShardPlan shards;
  std::vector<RankBudget> ranks;
  int replicas = 0;                // such groups that the devices of this kind make; 0 where it does not fit
  int64_t total_weight_bytes = 0;  // each parameter once, tables and drafter included
  // Blocks of the pools, the same on every rank; 0 where it does not fit.
  int64_t full_blocks = 0;
  int64_t sliding_blocks = 0;
  int64_t kv_tokens = 0;  // that the full-attention pool of a rank holds; wide: each rank has others
  Bound bound;            // of one group; zeros where it does not fit
};

// Groups are of devices of one kind, at most 64. The fewest that hold the model win, then the split with the shortest
// decode step; ties go to the highest expert parallelism. KV takes what weights and workspace leave. A model that does
// not fit is no error.
// InvalidArgument: no device, a number out of range, a context beyond the model's, a weight type that does not divide
// the model's columns, an expert mode or a number of copies that no number of the devices allows.
absl::StatusOr<Plan> MakePlan(const PlanRequest& request);

}  // namespace alphecca::model

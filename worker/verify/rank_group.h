// A shard group within one process: each rank a thread with a backend, a communicator and a KV cache of its own. Steps
// are given by hand and run on all ranks; for verification and tests, where a served model has the engine.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/sampling.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"
#include "worker/forward/gemma.h"

namespace alphecca::verify {

enum class Kernels { kCpu, kRef };
std::string_view KernelsName(Kernels kernels);  // "cpu", "ref"

struct GroupOptions {
  model::Sharding sharding = {};
  Kernels kernels = Kernels::kCpu;
  kernels::BackendOptions backend = {};  // threads 0: the machine's, shared among the ranks
  model::WeightType weights = model::WeightType::kAsFile;
  kernels::DType kv_type = kernels::DType::kF32;
  int slots = 1;
  int64_t context = 1024;  // tokens of a slot at most
  int block_tokens = 16;
  int64_t max_rows = 256;
  int64_t max_logit_rows = 256;
};

// One step as a caller writes it. Block tables are the group's business.
struct GroupStep {
  std::vector<int32_t> tokens;                 // [T], see kernels::StepInput
  std::vector<int32_t> positions;              // [T]
  std::vector<int32_t> slots;                  // [T]; empty: slot 0
  std::vector<kernels::KeyRange> sliding;      // [T]; empty: the window of each position
  std::vector<int32_t> logit_rows;             // [R], rising
  std::vector<kernels::SamplingRow> sampling;  // [R]; empty: greedy

  // Adds a row; its logits are wanted if `logits`.
  void Add(int32_t token, int32_t position, bool logits, int32_t slot = 0);
};

struct GroupResult {
  int64_t vocab = 0;
  std::vector<float> logits;             // [R, V], put together from the ranks' slices
  std::vector<float> hidden;             // [R, D], after the final norm
  std::vector<kernels::Choice> choices;  // [R], the same on every rank

  std::span<const float> logit_row(int64_t r) const {
    return std::span(logits).subspan(static_cast<size_t>(r * vocab), static_cast<size_t>(vocab));
  }
};

class RankGroup {
 public:
  virtual ~RankGroup() = default;

  // Loads every shard. The checkpoint must outlive the group. InvalidArgument where the plan is impossible.
  static absl::StatusOr<std::unique_ptr<RankGroup>> Create(const model::Checkpoint& checkpoint,
                                                           const GroupOptions& options);

  // InvalidArgument: rows, slots or positions beyond the group's limits. Internal: ranks disagree on a choice.
  virtual absl::StatusOr<GroupResult> Run(const GroupStep& step) = 0;
  // Rows that each expert has computed since the load, on all ranks together; empty without experts.
  virtual absl::StatusOr<model::ExpertRows> ReadExpertRows() = 0;

  // Sees inside a rank, called by that rank's thread; null: nobody does.
  virtual void set_probe(int rank, const forward::Probe* probe) = 0;
  // Positions [range) of a slot as rank 0 holds them, f32 [K, n, Hd]; `layer` counts within the pool.
  virtual absl::Status ExportKv(kernels::PoolKind kind, int layer, int32_t slot, Range positions, std::span<float> key,
                                std::span<float> value) = 0;
  virtual const model::ShardPlan& plan() const = 0;
};

}  // namespace alphecca::verify

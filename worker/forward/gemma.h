// Gemma's decoder on one rank: weights, buffers, and the forward pass over them. See gemma.cc for the equations.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"
#include "model/weight_type.h"
#include "worker/comm/communicator.h"

namespace alphecca::forward {

// Limits that size scratch memory.
struct GemmaOptions {
  int64_t max_rows = 256;       // T of a step at most
  int64_t max_logit_rows = 64;  // R of a step at most
  model::WeightType weights = model::WeightType::kAsFile;
};

// Values inside the pass, handed to whoever verifies or traces it; host copies, F32.
struct Probe {
  // name: "hidden" (layer -1: scaled embedding; else output of the layer), "attn_out", "mlp_out", "moe_out" (sums over
  // all ranks), "router_logits", "router_weights", "per_layer_inputs", "final_norm" (both
  // layer -1); values [rows, cols].
  std::function<void(const char* name, int layer, std::span<const float> values, int64_t rows, int64_t cols)> on_rows;
};

// What a step of a wide plan is for all ranks together: the same on each.
struct WideStep {
  int64_t rows = 0;             // of all ranks, at most max_rows
  int64_t most_logit_rows = 0;  // of the rank that has the most
};

// Rows that each expert of this rank has computed since the load, [layer][its own range, then copies]; the rows of all
// steps, prompts included. Without layers: the model or the rank has no experts.
using ExpertLoad = std::vector<std::vector<uint64_t>>;

class Gemma {
 public:
  virtual ~Gemma() = default;

  // Loads this rank's shard and allocates buffers. `progress` (may be null) gets bytes packed so far and in all.
  // The checkpoint must outlive the object (look-up tables stay mapped).
  static absl::StatusOr<std::unique_ptr<Gemma>> Create(
      const model::Checkpoint& checkpoint, const model::ShardPlan& plan, int rank, kernels::Backend& backend,
      comm::Communicator& comm, const GemmaOptions& options,
      const std::function<void(int64_t done, int64_t total)>& progress);

  // Specs of the two KV pools (full, sliding) of this rank: layers only; a pool may have none.
  virtual kernels::KvPoolSpec PoolSpec(kernels::PoolKind kind) const = 0;
  virtual int64_t weight_bytes() const = 0;  // resident

  // Runs one uploaded step and samples: choices lie at `choices`, ChoiceBytes(candidates) a logit row, when the
  // stream gets there. Fails only where a collective does.
  // Wide plans: `step` holds the rows of the sequences that this rank owns, perhaps none, and `all` says what the ranks
  // have together. Then choices lie rank by rank, all.most_logit_rows for each.
  virtual absl::Status Run(kernels::Stream& stream, const kernels::Step& step, kernels::KvPool* full,
                           kernels::KvPool* sliding, int candidates, const WideStep& all = {}) = 0;
  virtual const void* choices() const = 0;

  // This rank's slice of the logits of the last step, [R, vocab slice] (verification).
  virtual kernels::Tensor logits() const = 0;
  // Post-norm hidden rows of the last step's logit rows, [R, D].
  virtual kernels::Tensor final_hidden() const = 0;
  // Between steps, on their stream; waits for those before. At least once in 2^32 rows, or counts are lost.
  virtual absl::StatusOr<ExpertLoad> ReadExpertLoad(kernels::Stream& stream) = 0;
  // Set to see inside; null (default) costs nothing.
  virtual void set_probe(const Probe* probe) = 0;
};

}  // namespace alphecca::forward

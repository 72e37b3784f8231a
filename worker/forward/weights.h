// What one rank holds of a model: matrices packed by the shard plan, norms and scalars, rotary frequencies.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"

namespace alphecca::forward {

using MatrixPtr = std::unique_ptr<kernels::Matrix>;
using BufferPtr = std::unique_ptr<kernels::Buffer>;

// Letters as in kernels/backend.h; H, K, F, I and E here are this rank's share. Null where the rank has no share
// of the part, or the model no such part. Norm weights hold what multiplies (Gemma 3: 1 + the file's value).
struct LayerWeights {
  BufferPtr input_norm;           // [D]
  MatrixPtr qkv;                  // [(H + 2K) Hd, D]; (H + K) Hd where V is the raw key; H Hd where KV is shared
  BufferPtr q_norm;               // [Hd]
  BufferPtr k_norm;               // [Hd]
  MatrixPtr o;                    // [D, H Hd]
  BufferPtr post_attention_norm;  // [D]

  BufferPtr pre_ffn_norm;   // [D]
  MatrixPtr gate_up;        // [2F, D], gate rows first
  MatrixPtr down;           // [D, F]
  BufferPtr post_ffn_norm;  // [D]

  BufferPtr router_norm;        // [D]: router.scale * D^-1/2
  MatrixPtr router;             // [all E, D]
  BufferPtr expert_scale;       // [all E]
  BufferPtr pre_experts_norm;   // [D]
  MatrixPtr expert_gate_up;     // [E, 2I, D], gate rows first
  MatrixPtr expert_down;        // [E, D, I]
  BufferPtr post_dense_norm;    // [D]
  BufferPtr post_experts_norm;  // [D]

  MatrixPtr per_layer_gate;        // [d, D]
  MatrixPtr per_layer_projection;  // [D, d]
  BufferPtr post_per_layer_norm;   // [D]

  float layer_scalar = 1.0F;
};

struct Weights {
  MatrixPtr embedding;  // [vocabulary share, D]: look-up and head. Null if another rank stands for the share.
  BufferPtr final_norm;
  kernels::HostTensor per_layer_table;  // mapped; [V, L d]
  MatrixPtr per_layer_projection;       // [L d, D]
  BufferPtr per_layer_norm;             // [d]
  BufferPtr rope_full;                  // [Hd / 2] of full layers
  BufferPtr rope_sliding;
  std::vector<LayerWeights> layers;
  int64_t bytes = 0;  // resident

  const kernels::Buffer* rope(bool full) const { return full ? rope_full.get() : rope_sliding.get(); }
};

// Loads what the plan gives to `rank` (model::ShardSlices), converted to `held`. `progress` may be null.
// InvalidArgument: a slice cuts a weight block, or a vector is of an unexpected type; names the tensor.
absl::StatusOr<Weights> LoadWeights(const model::Checkpoint& checkpoint, const model::ShardPlan& plan, int rank,
                                    kernels::Backend& backend, model::WeightType held,
                                    const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace alphecca::forward

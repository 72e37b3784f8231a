// Every tensor of a model under one set of canonical names, whatever the file calls it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace alphecca::model {

// Shapes in [out, in] with D, H, K, Hd, F, d, E, I, V as in ModelConfig.
enum class TensorKind : uint8_t {
  kEmbedding,          // [V, D]; also the head
  kFinalNorm,          // [D]
  kPerLayerEmbedding,  // [V, L d]
  kPerLayerModelProj,  // [L d, D]
  kPerLayerProjNorm,   // [d]
  // By layer:
  kInputNorm,  // [D]
  kQ,
  kK,
  kV,  // [H Hd, D], [K Hd, D], [K Hd, D]
  kQNorm,
  kKNorm,              // [Hd]
  kO,                  // [D, H Hd]
  kPostAttentionNorm,  // [D]
  kPreFfnNorm,         // [D]
  kGate,
  kUp,                // [F, D]
  kDown,              // [D, F]
  kPostFfnNorm,       // [D]
  kLayerScalar,       // [1]
  kPerLayerGate,      // [d, D]
  kPerLayerProj,      // [D, d]
  kPostPerLayerNorm,  // [D]
  kRouter,            // [E, D]
  kRouterScale,       // [D]
  kExpertScale,       // [E]
  kExpertGateUp,      // [E, 2I, D], gate rows first
  kExpertGate,
  kExpertUp,    // [E, I, D]: the split form of some GGUF files
  kExpertDown,  // [E, D, I]
  kPreFfnNorm2,
  kPostFfnNorm1,
  kPostFfnNorm2,  // [D]
};

// Norms, scales and scalars; all others are matrices.
bool IsVector(TensorKind kind);

struct TensorSpec {
  TensorKind kind = TensorKind::kEmbedding;
  int layer = -1;  // -1: of the whole model
  int64_t items = 1;
  int64_t rows = 1;
  int64_t cols = 1;
  int64_t elements() const { return items * rows * cols; }
};

// The tensors that the forward pass of this configuration reads, each once, in model order (experts in the fused form;
// a vector is [1, 1, n]).
std::vector<TensorSpec> Catalogue(const ModelConfig& config);

// "layers.3.self_attn.q_proj.weight": the name in a text-only Hugging Face checkpoint without its prefix. Used in
// messages.
std::string CanonicalName(TensorKind kind, int layer);
// "blk.3.attn_q.weight".
std::string GgufName(TensorKind kind, int layer);

}  // namespace alphecca::model

// What a checkpoint's shapes and equations depend on, resolved per layer: Gemma 4 (dense, MoE, edge) and Gemma 3 text.
// Sources: spec gemma4-models (fields, defaults), gemma4-text (equations), gemma3-text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace alphecca::model {

enum class Family { kGemma3, kGemma4 };

// RoPE of one layer type: pair i turns by p * theta^(-2i/head_dim) / factor for i < rotating, else not at all.
struct RopeConfig {
  double theta = 10000.0;
  double factor = 1.0;
  int rotating = 0;  // pairs that turn, head_dim / 2 for ordinary RoPE
  friend bool operator==(const RopeConfig&, const RopeConfig&) = default;
};

struct LayerConfig {
  bool full_attention = false;
  int kv_heads = 0;
  int head_dim = 0;
  int mlp_width = 0;      // F, of the dense MLP
  bool v_from_k = false;  // no v_proj: V is the raw key
  int kv_source = 0;      // the layer whose K and V this one reads; itself unless KV is shared
  friend bool operator==(const LayerConfig&, const LayerConfig&) = default;
};

struct ModelConfig {
  Family family = Family::kGemma4;
  std::string name;        // general.name or the directory's
  int hidden = 0;          // D
  int heads = 0;           // H
  int64_t vocab = 0;       // V, rows of the embedding
  int sliding_window = 0;  // W; 0: no sliding layers
  int64_t context = 0;     // max_position_embeddings
  float rms_eps = 1e-6F;
  float attention_scale = 1.0F;  // Gemma 3: query_pre_attn_scalar^-1/2
  float softcap = 0.0F;          // 0: none
  int per_layer_width = 0;       // d of per-layer embeddings; 0: none
  int64_t per_layer_vocab = 0;
  int experts = 0;            // E; 0: no MoE
  int experts_per_token = 0;  // k
  int expert_width = 0;       // I
  bool bidirectional_images = false;
  RopeConfig rope_sliding;
  RopeConfig rope_full;
  std::vector<LayerConfig> layers;

  bool OwnsKv(int layer) const { return layers[static_cast<size_t>(layer)].kv_source == layer; }
  // Checks every size for sign, range and consistency. InvalidArgument names the field.
  absl::Status Validate() const;
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

// From the text of config.json (either form: global_head_dim or per_layer_config; text_config inside or at top level).
// Valid by Validate(). InvalidArgument names the key, and also refuses what the forward pass does not compute
// (assistants, other activations, untied heads, embedding models).
absl::StatusOr<ModelConfig> ConfigFromJson(std::string_view json);

class GgufFile;
// From the metadata of a gemma4 or gemma3 file, and from its tensors what the metadata does not say: vocabulary,
// turning pairs (rope_freqs.weight), V from K (no attn_v). Two-way image blocks have no key: bidirectional_images is
// false.
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);

}  // namespace alphecca::model

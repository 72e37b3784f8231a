#include "model/config.h"

#include <cmath>
#include <cstdlib>

#include "common/status_macros.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

// Far above every real model, and low enough that products of two of them fit 64 bits with room to spare.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxHeads = 1 << 12;
constexpr int64_t kMaxHeadDim = 1 << 14;
constexpr int64_t kMaxVocab = 1 << 26;
constexpr int64_t kMaxExperts = 1 << 16;
constexpr int64_t kMaxPositions = (int64_t{1} << 31) - 1;

absl::Status Bad(std::string_view field, std::string_view problem) {
  return absl::InvalidArgumentError(Text("model configuration: ", field, " ", problem));
}

absl::Status InRange(std::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    return Bad(field, Text("is ", value, "; ", low, " to ", high, " is allowed"));
  }
  return absl::OkStatus();
}

absl::Status CheckRope(std::string_view field, const RopeConfig& rope, int head_dim) {
  if (!(std::isfinite(rope.theta) && rope.theta >= 1.0)) {
    return Bad(field, Text("has theta ", rope.theta, "; a finite number from 1 is allowed"));
  }
  if (!(std::isfinite(rope.factor) && rope.factor > 0.0)) {
    return Bad(field, Text("has factor ", rope.factor, "; a finite number above 0 is allowed"));
  }
  return InRange(Text(field, "'s turning pairs"), rope.rotating, 0, head_dim / 2);
}

absl::Status CheckLayer(const ModelConfig& config, int index) {
  const LayerConfig& layer = config.layers[static_cast<size_t>(index)];
  const auto field = [index](std::string_view name) { return Text(name, " of layer ", index); };
  RETURN_IF_ERROR(InRange(field("num_key_value_heads"), layer.kv_heads, 1, config.heads));
  RETURN_IF_ERROR(InRange(field("head_dim"), layer.head_dim, 2, kMaxHeadDim));
  RETURN_IF_ERROR(InRange(field("intermediate_size"), layer.mlp_width, 1, kMaxWidth));
  if (layer.head_dim % 2 != 0) {
    return Bad(field("head_dim"), Text("is ", layer.head_dim, "; RoPE needs an even one"));
  }
  if (config.heads % layer.kv_heads != 0) {
    return Bad(field("num_key_value_heads"),
               Text("is ", layer.kv_heads, ", which does not divide the ", config.heads, " attention heads"));
  }
  if (!layer.full_attention && config.sliding_window < 1) {
    return Bad("sliding_window", Text("is ", config.sliding_window, ", but layer ", index, " slides"));
  }
  RETURN_IF_ERROR(InRange(field("the KV source"), layer.kv_source, 0, index));
  const LayerConfig& source = config.layers[static_cast<size_t>(layer.kv_source)];
  if (source.kv_source != layer.kv_source || source.full_attention != layer.full_attention ||
      source.kv_heads != layer.kv_heads || source.head_dim != layer.head_dim) {
    return Bad(field("the KV source"),
               Text("is layer ", layer.kv_source, ", which has no KV of its own or of another type or shape"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ModelConfig::Validate() const {
  RETURN_IF_ERROR(InRange("hidden_size", hidden, 1, kMaxWidth));
  RETURN_IF_ERROR(InRange("num_hidden_layers", static_cast<int64_t>(layers.size()), 1, kMaxLayers));
  RETURN_IF_ERROR(InRange("num_attention_heads", heads, 1, kMaxHeads));
  RETURN_IF_ERROR(InRange("vocab_size", vocab, 1, kMaxVocab));
  RETURN_IF_ERROR(InRange("sliding_window", sliding_window, 0, kMaxPositions));
  RETURN_IF_ERROR(InRange("max_position_embeddings", context, 1, kMaxPositions));
  RETURN_IF_ERROR(InRange("hidden_size_per_layer_input", per_layer_width, 0, kMaxWidth));
  RETURN_IF_ERROR(InRange("num_experts", experts, 0, kMaxExperts));
  if (!(rms_eps > 0.0F && rms_eps < 1.0F)) {
    return Bad("rms_norm_eps", Text("is ", rms_eps, "; a number between 0 and 1 is allowed"));
  }
  if (!(std::isfinite(attention_scale) && attention_scale > 0.0F)) {
    return Bad("the attention scale", Text("is ", attention_scale, "; a finite number above 0 is allowed"));
  }
  if (!(std::isfinite(softcap) && softcap >= 0.0F)) {
    return Bad("final_logit_softcapping", Text("is ", softcap, "; a finite number from 0 is allowed"));
  }
  if (per_layer_width > 0) {
    RETURN_IF_ERROR(InRange("vocab_size_per_layer_input", per_layer_vocab, 1, kMaxVocab));
    // PLE rows are looked up by the same ids as embeddings.
    RETURN_IF_ERROR(InRange("vocab_size_per_layer_input", per_layer_vocab, vocab, kMaxVocab));
  }
  if (experts > 0) {
    RETURN_IF_ERROR(InRange("top_k_experts", experts_per_token, 1, experts));
    RETURN_IF_ERROR(InRange("moe_intermediate_size", expert_width, 1, kMaxWidth));
  }
  const LayerConfig* first_of_type[2] = {nullptr, nullptr};
  for (int i = 0; i < static_cast<int>(layers.size()); ++i) {
    RETURN_IF_ERROR(CheckLayer(*this, i));
    const LayerConfig& layer = layers[static_cast<size_t>(i)];
    const LayerConfig*& first = first_of_type[layer.full_attention ? 1 : 0];
    if (first == nullptr) {
      first = &layer;
      RETURN_IF_ERROR(
          CheckRope(layer.full_attention ? "rope_parameters.full_attention" : "rope_parameters.sliding_attention",
                    layer.full_attention ? rope_full : rope_sliding, layer.head_dim));
    } else if (first->head_dim != layer.head_dim) {  // one RoPE serves all layers of a type
      return Bad(Text("head_dim of layer ", i),
                 Text("is ", layer.head_dim, "; an earlier layer of the same type has ", first->head_dim));
    }
  }
  return absl::OkStatus();
}

}  // namespace alphecca::model

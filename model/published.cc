#include "model/published.h"

#include "absl/status/status.h"
#include "model/messages.h"
#include "nlohmann/json.hpp"

namespace alphecca::model {
namespace {

using nlohmann::json;

struct Shape {
  int hidden, layers, period, heads, kv_heads, global_kv_heads, width, window, shared, per_layer, context;
  bool k_eq_v, double_wide, moe, two_way_images;
};

Shape ShapeOf(Published model) {
  switch (model) {
    case Published::kE2B:
      return {1536, 35, 5, 8, 1, 0, 6144, 512, 20, 256, 131072, false, true, false, false};
    case Published::kE4B:
      return {2560, 42, 6, 8, 2, 0, 10240, 512, 18, 256, 131072, false, false, false, false};
    case Published::k26B:
      return {2816, 30, 6, 16, 8, 2, 2112, 1024, 0, 0, 262144, true, false, true, true};
    case Published::k31B:
      return {5376, 60, 6, 32, 16, 4, 21504, 1024, 0, 0, 262144, true, false, false, true};
    case Published::k12B:
      return {3840, 48, 6, 16, 8, 1, 15360, 1024, 0, 0, 262144, true, false, false, true};
  }
  return {};
}

}  // namespace

std::string_view PublishedName(Published model) {
  switch (model) {
    case Published::kE2B:
      return "e2b";
    case Published::kE4B:
      return "e4b";
    case Published::k12B:
      return "12b";
    case Published::k26B:
      return "26b-a4b";
    case Published::k31B:
      return "31b";
  }
  return "?";
}

absl::StatusOr<Published> ParsePublished(std::string_view name) {
  std::string names;
  for (const Published model : kAllPublished) {
    if (PublishedName(model) == name) {
      return model;
    }
    names += Text(names.empty() ? "" : ", ", PublishedName(model));
  }
  return absl::InvalidArgumentError(Text("model ", Quoted(name), " is not known; there are ", names));
}

absl::StatusOr<ModelConfig> PublishedConfig(Published model) {
  return ConfigFromJson(PublishedConfigJson(model));
}

std::string PublishedConfigJson(Published model) {
  const Shape shape = ShapeOf(model);
  json types = json::array();
  for (int i = 0; i < shape.layers; ++i) {
    types.push_back((i + 1) % shape.period == 0 ? "full_attention" : "sliding_attention");
  }
  const json null = nullptr;
  json text = {{"model_type", "gemma4_text"},
               {"hidden_size", shape.hidden},
               {"num_hidden_layers", shape.layers},
               {"layer_types", types},
               {"num_attention_heads", shape.heads},
               {"num_key_value_heads", shape.kv_heads},
               {"num_global_key_value_heads", shape.global_kv_heads != 0 ? json(shape.global_kv_heads) : null},
               {"head_dim", 256},
               {"global_head_dim", 512},
               {"attention_k_eq_v", shape.k_eq_v},
               {"intermediate_size", shape.width},
               {"use_double_wide_mlp", shape.double_wide},
               {"num_kv_shared_layers", shape.shared},
               {"hidden_size_per_layer_input", shape.per_layer},
               {"vocab_size", 262144},
               {"vocab_size_per_layer_input", 262144},
               {"enable_moe_block", shape.moe},
               {"num_experts", shape.moe ? json(128) : null},
               {"top_k_experts", shape.moe ? json(8) : null},
               {"moe_intermediate_size", shape.moe ? json(704) : null},
               {"sliding_window", shape.window},
               {"max_position_embeddings", shape.context},
               {"use_bidirectional_attention", shape.two_way_images ? json("vision") : null},
               {"final_logit_softcapping", 30.0},
               {"rms_norm_eps", 1e-6},
               {"hidden_activation", "gelu_pytorch_tanh"},
               {"tie_word_embeddings", true},
               {"attention_bias", false},
               {"rope_parameters",
                {{"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 10000.0}}},
                 {"full_attention",
                  {{"rope_type", "proportional"}, {"rope_theta", 1000000.0}, {"partial_rotary_factor", 0.25}}}}}};
  const json config = {{"model_type", model == Published::k12B ? "gemma4_unified" : "gemma4"},
                       {"text_config", text},
                       {"vision_config", {{"hidden_size", 768}}},
                       {"audio_config", null},
                       {"tie_word_embeddings", true},
                       {"eos_token_id", {1, 106}}};
  return config.dump();
}

}  // namespace alphecca::model

// config.json of Hugging Face checkpoints. Fields and defaults: spec gemma4-models section 1, gemma3-text.
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "common/status_macros.h"
#include "model/config.h"
#include "model/config_common.h"
#include "model/json_fields.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = 16 << 20;

// What a field is when config.json leaves it out: the defaults of the configuration classes, which published Gemma 3
// files rely on.
struct Defaults {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t vocab;
  int64_t context;
  int64_t sliding_window;
};
constexpr Defaults kGemma4Defaults = {8, 4, 256, 262144, 131072, 512};
constexpr Defaults kGemma3Defaults = {8, 4, 256, 262208, 131072, 4096};

absl::StatusOr<Family> ReadFamily(const JsonFields& fields) {
  ASSIGN_OR_RETURN(const std::string type, fields.String("model_type", ""));
  if (type == "gemma4" || type == "gemma4_text" || type == "gemma4_unified" || type == "gemma4_unified_text") {
    return Family::kGemma4;
  }
  if (type == "gemma3" || type == "gemma3_text") {
    return Family::kGemma3;
  }
  return fields.Wrong("model_type", "gemma4, gemma4_text, gemma4_unified, gemma3 or gemma3_text");
}

// What would silently give other results than the checkpoint's own.
absl::Status RefuseUnsupported(const JsonFields& text, const JsonFields& top) {
  ASSIGN_OR_RETURN(const std::string activation, text.String("hidden_activation", "gelu_pytorch_tanh"));
  if (activation != "gelu_pytorch_tanh") {
    return text.Wrong("hidden_activation", "gelu_pytorch_tanh");
  }
  ASSIGN_OR_RETURN(const bool bias, text.Bool("attention_bias", false));
  if (bias) {
    return text.Wrong("attention_bias", "false");
  }
  ASSIGN_OR_RETURN(const bool outer_tied, top.Bool("tie_word_embeddings", true));
  ASSIGN_OR_RETURN(const bool tied, text.Bool("tie_word_embeddings", true));
  if (!tied || !outer_tied) {
    return (tied ? top : text).Wrong("tie_word_embeddings", "true");
  }
  if (text.Get("attn_logit_softcapping") != nullptr) {
    return text.Wrong("attn_logit_softcapping", "null");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> BidirectionalImages(const JsonFields& text) {
  const json* value = text.Get("use_bidirectional_attention");
  if (value == nullptr || (value->is_boolean() && !value->get<bool>())) {
    return false;
  }
  if (value->is_string() && value->get_ref<const std::string&>() == "vision") {
    return true;
  }
  return text.Wrong("use_bidirectional_attention", "null, false or \"vision\" (embedding models are not served)");
}

// True for each layer of full attention.
absl::StatusOr<std::vector<bool>> LayerTypes(const JsonFields& text, Family family, int64_t count) {
  std::vector<bool> full(static_cast<size_t>(count));
  const json* types = text.Get("layer_types");
  if (types == nullptr) {
    ASSIGN_OR_RETURN(const int64_t outer, text.Int("sliding_window_pattern", 6));
    ASSIGN_OR_RETURN(const int64_t pattern, text.Int("_sliding_window_pattern", outer));
    if (pattern < 1) {
      return text.Wrong("sliding_window_pattern", "an integer from 1");
    }
    for (int64_t i = 0; i < count; ++i) {
      full[static_cast<size_t>(i)] = (i + 1) % pattern == 0;
    }
  } else {
    if (!types->is_array() || types->size() != full.size()) {
      return text.Wrong("layer_types", Text("an array of ", count, " strings, one for each of num_hidden_layers"));
    }
    for (size_t i = 0; i < full.size(); ++i) {
      const json& type = (*types)[i];
      full[i] = type == "full_attention";
      if (!full[i] && type != "sliding_attention") {
        return text.Wrong("layer_types", Text("sliding_attention or full_attention at index ", i));
      }
    }
  }
  if (family == Family::kGemma4) {
    full.back() = true;
  }
  return full;
}

// One of rope_parameters.{sliding,full}_attention, or the older rope_scaling.
absl::Status ReadRope(const json& object, const std::string& where, int head_dim, double partial_default,
                      RopeConfig* rope) {
  const JsonFields fields(object, where + ".");
  ASSIGN_OR_RETURN(rope->theta, fields.Number("rope_theta", rope->theta));
  ASSIGN_OR_RETURN(const std::string older, fields.String("type", "default"));
  ASSIGN_OR_RETURN(const std::string type, fields.String("rope_type", older));
  rope->rotating = head_dim / 2;
  if (type == "linear" || type == "proportional") {
    ASSIGN_OR_RETURN(rope->factor, fields.Number("factor", 1.0));
  } else if (type != "default") {
    return fields.Wrong("rope_type", "default, linear or proportional");
  }
  if (type == "proportional") {
    ASSIGN_OR_RETURN(const double part, fields.Number("partial_rotary_factor", partial_default));
    if (!(part >= 0.0 && part <= 1.0)) {
      return fields.Wrong("partial_rotary_factor", "a number from 0 to 1");
    }
    rope->rotating = static_cast<int>(part * head_dim) / 2;
  }
  return absl::OkStatus();
}

// The four generations of this: nothing, Gemma 3's rope_theta with rope_local_base_freq, rope_parameters by layer type,
// and rope_parameters of one type for all.
absl::Status ReadRopes(const JsonFields& text, int sliding_dim, int full_dim, ModelConfig* config) {
  const bool gemma4 = config->family == Family::kGemma4;
  ASSIGN_OR_RETURN(config->rope_sliding.theta, text.Number("rope_local_base_freq", 10000.0));
  ASSIGN_OR_RETURN(config->rope_full.theta, text.Number("rope_theta", 1000000.0));
  config->rope_sliding.rotating = sliding_dim / 2;
  config->rope_full.rotating = gemma4 ? static_cast<int>(0.25 * full_dim) / 2 : full_dim / 2;
  ASSIGN_OR_RETURN(const json* parameters, text.Object("rope_parameters"));
  ASSIGN_OR_RETURN(const json* scaling, text.Object("rope_scaling"));
  if (parameters == nullptr) {
    return scaling == nullptr || gemma4
               ? absl::OkStatus()
               : ReadRope(*scaling, text.Name("rope_scaling"), full_dim, 1.0, &config->rope_full);
  }
  const JsonFields by_type(*parameters, text.Name("rope_parameters."));
  ASSIGN_OR_RETURN(const json* sliding, by_type.Object("sliding_attention"));
  ASSIGN_OR_RETURN(const json* full, by_type.Object("full_attention"));
  if (sliding == nullptr && full == nullptr && by_type.Has("rope_theta")) {
    return by_type.Wrong("rope_theta", "rope_parameters by layer type (sliding_attention, full_attention)");
  }
  if (sliding != nullptr) {
    RETURN_IF_ERROR(ReadRope(*sliding, by_type.Name("sliding_attention"), sliding_dim, 1.0, &config->rope_sliding));
  }
  if (full != nullptr) {
    RETURN_IF_ERROR(ReadRope(*full, by_type.Name("full_attention"), full_dim, 1.0, &config->rope_full));
  }
  return absl::OkStatus();
}

// Newer files: by layer index, the fields that differ from those at the top.
absl::Status ApplyPerLayerConfig(const JsonFields& text, const json& map, std::vector<LayerConfig>* layers) {
  for (const auto& [key, value] : map.items()) {
    int64_t index = -1;
    const std::string where = text.Name("per_layer_config.") + key.substr(0, 40);
    if (!absl::SimpleAtoi(key, &index) || index < 0 || index >= static_cast<int64_t>(layers->size())) {
      return absl::InvalidArgumentError(Text(where, ": no layer of this index"));
    }
    if (!value.is_object()) {
      return absl::InvalidArgumentError(Text(where, " is no object"));
    }
    LayerConfig& layer = (*layers)[static_cast<size_t>(index)];
    const JsonFields fields(value, where + ".");
    for (const auto& [name, unused] : value.items()) {
      int* target = name == "head_dim"              ? &layer.head_dim
                    : name == "num_key_value_heads" ? &layer.kv_heads
                    : name == "intermediate_size"   ? &layer.mlp_width
                                                    : nullptr;
      if (target == nullptr) {
        return fields.Wrong(name, "only head_dim, num_key_value_heads and intermediate_size to vary by layer");
      }
      ASSIGN_OR_RETURN(const int64_t number, fields.RequiredInt(name));
      RETURN_IF_ERROR(NarrowTo(fields.Name(name), number, target));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadMoe(const JsonFields& text, ModelConfig* config) {
  ASSIGN_OR_RETURN(const bool moe, text.Bool("enable_moe_block", false));
  if (!moe || config->family == Family::kGemma3) {
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const int64_t experts, text.RequiredInt("num_experts"));
  if (experts < 1) {
    return text.Wrong("num_experts", "at least 1 with enable_moe_block");
  }
  RETURN_IF_ERROR(NarrowTo(text.Name("num_experts"), experts, &config->experts));
  ASSIGN_OR_RETURN(const int64_t per_token, text.RequiredInt("top_k_experts"));
  RETURN_IF_ERROR(NarrowTo(text.Name("top_k_experts"), per_token, &config->experts_per_token));
  ASSIGN_OR_RETURN(const int64_t width, text.RequiredInt("moe_intermediate_size"));
  return NarrowTo(text.Name("moe_intermediate_size"), width, &config->expert_width);
}

// Sizes of the whole model.
absl::Status ReadScalars(const JsonFields& text, const Defaults& defaults, ModelConfig* config) {
  const auto read = [&](std::string_view key, int64_t fallback, int* to) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t value, text.Int(key, fallback));
    return NarrowTo(text.Name(key), value, to);
  };
  ASSIGN_OR_RETURN(const int64_t hidden, text.RequiredInt("hidden_size"));
  RETURN_IF_ERROR(NarrowTo(text.Name("hidden_size"), hidden, &config->hidden));
  RETURN_IF_ERROR(read("num_attention_heads", defaults.heads, &config->heads));
  RETURN_IF_ERROR(read("sliding_window", defaults.sliding_window, &config->sliding_window));
  ASSIGN_OR_RETURN(config->vocab, text.Int("vocab_size", defaults.vocab));
  ASSIGN_OR_RETURN(config->context, text.Int("max_position_embeddings", defaults.context));
  ASSIGN_OR_RETURN(const double eps, text.Number("rms_norm_eps", 1e-6));
  config->rms_eps = static_cast<float>(eps);
  ASSIGN_OR_RETURN(const double cap, text.Number("final_logit_softcapping", 0.0));
  config->softcap = static_cast<float>(cap);
  if (config->family == Family::kGemma4) {
    RETURN_IF_ERROR(read("hidden_size_per_layer_input", text.Has("hidden_size_per_layer_input") ? 0 : 256,
                         &config->per_layer_width));
    if (config->per_layer_width > 0) {
      ASSIGN_OR_RETURN(config->per_layer_vocab, text.Int("vocab_size_per_layer_input", config->vocab));
    }
    ASSIGN_OR_RETURN(config->bidirectional_images, BidirectionalImages(text));
  } else {
    ASSIGN_OR_RETURN(const bool images, BidirectionalImages(text));
    static_cast<void>(images);  // Gemma 3's image blocks are of another kind and no part of its text model
    ASSIGN_OR_RETURN(const double scalar, text.Number("query_pre_attn_scalar", 256.0));
    config->attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  }
  return ReadMoe(text, config);
}

// mlp width of each layer before doubling: one number or one for each layer.
absl::Status ReadMlpWidths(const JsonFields& text, std::vector<LayerConfig>* layers) {
  const json* value = text.Get("intermediate_size");
  if (value == nullptr || !value->is_array()) {
    ASSIGN_OR_RETURN(const int64_t width, text.RequiredInt("intermediate_size"));
    for (LayerConfig& layer : *layers) {
      RETURN_IF_ERROR(NarrowTo(text.Name("intermediate_size"), width, &layer.mlp_width));
    }
    return absl::OkStatus();
  }
  if (value->size() != layers->size()) {
    return text.Wrong("intermediate_size", Text("an integer or an array of ", layers->size()));
  }
  for (size_t i = 0; i < layers->size(); ++i) {
    const json& width = (*value)[i];
    if (!width.is_number_unsigned()) {
      return text.Wrong("intermediate_size", Text("a positive integer at index ", i));
    }
    const uint64_t number = std::min<uint64_t>(width.get<uint64_t>(), INT64_MAX);
    RETURN_IF_ERROR(NarrowTo(text.Name("intermediate_size"), static_cast<int64_t>(number), &(*layers)[i].mlp_width));
  }
  return absl::OkStatus();
}

absl::Status ReadLayers(const JsonFields& text, const Defaults& defaults, ModelConfig* config) {
  const bool gemma4 = config->family == Family::kGemma4;
  ASSIGN_OR_RETURN(const int64_t count, text.RequiredInt("num_hidden_layers"));
  if (count < 1 || count > kMaxLayerCount) {
    return text.Wrong("num_hidden_layers", Text("an integer from 1 to ", kMaxLayerCount));
  }
  ASSIGN_OR_RETURN(const std::vector<bool> full, LayerTypes(text, config->family, count));
  ASSIGN_OR_RETURN(const int64_t kv_heads, text.Int("num_key_value_heads", defaults.kv_heads));
  ASSIGN_OR_RETURN(const int64_t head_dim, text.Int("head_dim", defaults.head_dim));
  ASSIGN_OR_RETURN(const json* per_layer, text.Object("per_layer_config"));
  ASSIGN_OR_RETURN(const bool k_eq_v, text.Bool("attention_k_eq_v", false));
  int64_t full_dim = head_dim;
  int64_t full_kv_heads = kv_heads;
  if (gemma4 && per_layer == nullptr) {
    ASSIGN_OR_RETURN(full_dim, text.Int("global_head_dim", text.Has("global_head_dim") ? head_dim : 512));
    if (k_eq_v) {
      ASSIGN_OR_RETURN(full_kv_heads, text.Int("num_global_key_value_heads", kv_heads));
    }
  }
  config->layers.resize(full.size());
  for (size_t i = 0; i < full.size(); ++i) {
    LayerConfig& layer = config->layers[i];
    layer.full_attention = full[i];
    RETURN_IF_ERROR(NarrowTo(text.Name("head_dim"), full[i] ? full_dim : head_dim, &layer.head_dim));
    RETURN_IF_ERROR(NarrowTo(text.Name("num_key_value_heads"), full[i] ? full_kv_heads : kv_heads, &layer.kv_heads));
  }
  RETURN_IF_ERROR(ReadMlpWidths(text, &config->layers));
  if (gemma4) {
    ASSIGN_OR_RETURN(const int64_t shared, text.Int("num_kv_shared_layers", 0));
    RETURN_IF_ERROR(ShareKv(text.Name("num_kv_shared_layers"), shared, &config->layers));
    ASSIGN_OR_RETURN(const bool double_wide, text.Bool("use_double_wide_mlp", false));
    for (int i = 0; i < static_cast<int>(count); ++i) {
      LayerConfig& layer = config->layers[static_cast<size_t>(i)];
      layer.v_from_k = k_eq_v && layer.full_attention && config->OwnsKv(i);
      if (double_wide && !config->OwnsKv(i)) {
        RETURN_IF_ERROR(NarrowTo(text.Name("intermediate_size"), int64_t{2} * layer.mlp_width, &layer.mlp_width));
      }
    }
    if (per_layer != nullptr) {
      RETURN_IF_ERROR(ApplyPerLayerConfig(text, *per_layer, &config->layers));
    }
  } else {
    RETURN_IF_ERROR(ShareKv("num_kv_shared_layers", 0, &config->layers));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromJson(std::string_view text) {
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        Text("config.json has ", text.size(), " bytes (at most ", kMaxConfigBytes, " are read)"));
  }
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) {
    return absl::InvalidArgumentError("config.json holds no JSON object");
  }
  const JsonFields top(document, "");
  ModelConfig config;
  ASSIGN_OR_RETURN(config.family, ReadFamily(top));
  ASSIGN_OR_RETURN(const json* inner, top.Object("text_config"));
  const JsonFields fields(inner != nullptr ? *inner : document, inner != nullptr ? "text_config." : "");
  const Defaults& defaults = config.family == Family::kGemma4 ? kGemma4Defaults : kGemma3Defaults;
  RETURN_IF_ERROR(RefuseUnsupported(fields, top));
  RETURN_IF_ERROR(ReadScalars(fields, defaults, &config));
  RETURN_IF_ERROR(ReadLayers(fields, defaults, &config));
  const auto [sliding_dim, full_dim] = HeadDims(config.layers);
  RETURN_IF_ERROR(ReadRopes(fields, sliding_dim, full_dim, &config));
  RETURN_IF_ERROR(config.Validate());
  return config;
}

}  // namespace alphecca::model

// Configuration from GGUF metadata. Keys: spec gemma4-models section 4.2, gemma3-text.
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <string>

#include "common/status_macros.h"
#include "model/catalogue.h"
#include "model/config.h"
#include "model/config_common.h"
#include "model/gguf.h"
#include "model/messages.h"
#include "model/plan_layout.h"

namespace alphecca::model {
namespace {

// Keys of one architecture: "attention.head_count" is "gemma4.attention.head_count" in the file.
class Keys {
 public:
  Keys(const GgufFile& file, std::string_view architecture) : file_(file), prefix_(Text(architecture, ".")) {}

  std::string Name(std::string_view key) const { return prefix_ + std::string(key); }
  bool Has(std::string_view key) const { return file_.Has(Name(key)); }
  absl::Status Wrong(std::string_view key, std::string_view problem) const {
    return absl::InvalidArgumentError(Text(file_.path(), ": metadata key ", Name(key), " ", problem));
  }

  absl::StatusOr<int64_t> Int(std::string_view key, std::optional<int64_t> fallback = std::nullopt) const {
    if (fallback && !Has(key)) {
      return *fallback;
    }
    return file_.Int(Name(key));
  }
  absl::Status Int(std::string_view key, std::optional<int64_t> fallback, int* to) const {
    ASSIGN_OR_RETURN(const int64_t value, Int(key, fallback));
    return NarrowTo(Name(key), value, to);
  }
  absl::StatusOr<double> Float(std::string_view key, std::optional<double> fallback = std::nullopt) const {
    if (fallback && !Has(key)) {
      return *fallback;
    }
    return file_.Float(Name(key));
  }

  // One value a layer, from an array of that length or a number for all.
  absl::StatusOr<std::vector<int>> PerLayer(std::string_view key, size_t layers) const {
    std::vector<int> result(layers);
    if (!file_.IsArray(Name(key))) {
      int value = 0;
      RETURN_IF_ERROR(Int(key, std::nullopt, &value));
      result.assign(layers, value);
      return result;
    }
    ASSIGN_OR_RETURN(const std::vector<int64_t> values, file_.Ints(Name(key)));
    if (values.size() != layers) {
      return Wrong(key, Text("is an array of ", values.size(), " for ", layers, " layers"));
    }
    for (size_t i = 0; i < layers; ++i) {
      RETURN_IF_ERROR(NarrowTo(Text(Name(key), "[", i, "]"), values[i], &result[i]));
    }
    return result;
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

// True for each full layer. The key holds true for sliding layers, or n: each n-th layer is full.
absl::StatusOr<std::vector<bool>> LayerTypes(const GgufFile& file, const Keys& keys, Family family, size_t layers) {
  constexpr std::string_view kKey = "attention.sliding_window_pattern";
  std::vector<bool> full(layers);
  if (family == Family::kGemma3 && !keys.Has("attention.sliding_window")) {
    full.assign(layers, true);
    return full;
  }
  if (file.IsArray(keys.Name(kKey))) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> sliding, file.Ints(keys.Name(kKey)));
    if (sliding.size() != layers) {
      return keys.Wrong(kKey, Text("is an array of ", sliding.size(), " for ", layers, " layers"));
    }
    for (size_t i = 0; i < layers; ++i) {
      full[i] = sliding[i] == 0;
    }
  } else {
    ASSIGN_OR_RETURN(const int64_t period, keys.Int(kKey, 6));
    if (period < 1) {
      return keys.Wrong(kKey, Text("is ", period, "; expected an array of booleans or a number from 1"));
    }
    for (size_t i = 0; i < layers; ++i) {
      full[i] = (static_cast<int64_t>(i) + 1) % period == 0;
    }
  }
  if (family == Family::kGemma4) {
    full.back() = true;
  }
  return full;
}

// Counts the turning pairs of rope_freqs.weight, which divides angles: 1.0 where a pair turns, then 1e30 (no turn).
absl::StatusOr<int> TurningPairs(const GgufFile& file, const GgufTensor& tensor, int head_dim) {
  const int64_t pairs = head_dim / 2;
  const auto bad = [&](std::string_view problem) {
    return absl::InvalidArgumentError(Text(file.path(), ": tensor rope_freqs.weight ", problem));
  };
  if (tensor.type != kernels::DType::kF32 || tensor.dimensions != 1 || tensor.size[0] != pairs) {
    return bad(Text("is ", kernels::Info(tensor.type).name, " with ", tensor.dimensions, " dimensions, first of ",
                    tensor.size[0], "; expected F32 [", pairs, "], half the head of full-attention layers"));
  }
  int turning = 0;
  for (int64_t i = 0; i < pairs; ++i) {
    float value = 0.0F;
    std::memcpy(&value, tensor.data.data() + i * static_cast<int64_t>(sizeof(value)), sizeof(value));
    if (value == 1.0F && turning == i) {
      ++turning;
    } else if (!(value >= 1e29F && std::isfinite(value))) {
      return bad(Text("holds ", value, " at ", i, "; expected 1.0 for the pairs that turn, then 1e30"));
    }
  }
  return turning;
}

absl::Status ReadRopes(const GgufFile& file, const Keys& keys, ModelConfig* config) {
  const auto [sliding_dim, full_dim] = HeadDims(config->layers);
  ASSIGN_OR_RETURN(config->rope_full.theta, keys.Float("rope.freq_base", 1000000.0));
  ASSIGN_OR_RETURN(config->rope_sliding.theta, keys.Float("rope.freq_base_swa", 10000.0));
  config->rope_full.rotating = full_dim / 2;
  config->rope_sliding.rotating = sliding_dim / 2;
  if (keys.Has("rope.scaling.type")) {
    ASSIGN_OR_RETURN(const std::string_view type, file.String(keys.Name("rope.scaling.type")));
    if (type == "linear") {
      ASSIGN_OR_RETURN(config->rope_full.factor, keys.Float("rope.scaling.factor", 1.0));
    } else if (type != "none") {
      return keys.Wrong("rope.scaling.type", "is neither none nor linear");
    }
  }
  const GgufTensor* frequencies = file.FindTensor("rope_freqs.weight");
  if (frequencies != nullptr && config->family == Family::kGemma4) {
    ASSIGN_OR_RETURN(config->rope_full.rotating, TurningPairs(file, *frequencies, full_dim));
  }
  return absl::OkStatus();
}

absl::Status ReadLayers(const GgufFile& file, const Keys& keys, ModelConfig* config) {
  const bool gemma4 = config->family == Family::kGemma4;
  ASSIGN_OR_RETURN(const int64_t count, keys.Int("block_count"));
  if (count < 1 || count > kMaxLayerCount) {
    return keys.Wrong("block_count", Text("is ", count, "; 1 to ", kMaxLayerCount, " is allowed"));
  }
  const auto layers = static_cast<size_t>(count);
  ASSIGN_OR_RETURN(const std::vector<bool> full, LayerTypes(file, keys, config->family, layers));
  ASSIGN_OR_RETURN(const std::vector<int> heads, keys.PerLayer("attention.head_count", layers));
  ASSIGN_OR_RETURN(const std::vector<int> kv_heads, keys.PerLayer("attention.head_count_kv", layers));
  ASSIGN_OR_RETURN(const std::vector<int> widths, keys.PerLayer("feed_forward_length", layers));
  config->heads = heads[0];
  for (size_t i = 0; i < layers; ++i) {
    if (heads[i] != heads[0]) {
      return keys.Wrong("attention.head_count", Text("varies by layer (", heads[0], ", ", heads[i], ")"));
    }
  }
  int full_dim = 0;
  int sliding_dim = 0;
  RETURN_IF_ERROR(keys.Int("attention.key_length", std::nullopt, &full_dim));
  RETURN_IF_ERROR(keys.Int("attention.key_length_swa", full_dim, &sliding_dim));
  for (const auto& [key, expected] :
       {std::pair("attention.value_length", full_dim), std::pair("attention.value_length_swa", sliding_dim)}) {
    ASSIGN_OR_RETURN(const int64_t value, keys.Int(key, expected));
    if (value != expected) {
      return keys.Wrong(key, Text("is ", value, ", but keys have ", expected));
    }
  }
  config->layers.resize(layers);
  for (size_t i = 0; i < layers; ++i) {
    config->layers[i].full_attention = full[i];
    config->layers[i].head_dim = full[i] ? full_dim : sliding_dim;
    config->layers[i].kv_heads = kv_heads[i];
    config->layers[i].mlp_width = widths[i];
  }
  ASSIGN_OR_RETURN(const int64_t shared, keys.Int("attention.shared_kv_layers", 0));
  RETURN_IF_ERROR(ShareKv(keys.Name("attention.shared_kv_layers"), gemma4 ? shared : 0, &config->layers));
  std::set<std::string, std::less<>> names;  // of parts: of the tensor that they are of
  for (const GgufTensor& tensor : file.tensors()) {
    names.emplace(tensor.name.substr(0, tensor.name.find('[')));
  }
  for (int i = 0; gemma4 && i < static_cast<int>(count); ++i) {
    LayerConfig& layer = config->layers[static_cast<size_t>(i)];
    layer.v_from_k = config->OwnsKv(i) && !names.contains(GgufName(TensorKind::kV, i));
  }
  return absl::OkStatus();
}

absl::Status ReadMoe(const Keys& keys, ModelConfig* config) {
  RETURN_IF_ERROR(keys.Int("expert_count", 0, &config->experts));
  if (config->experts == 0) {
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(keys.Int("expert_used_count", std::nullopt, &config->experts_per_token));
  return keys.Int("expert_feed_forward_length", std::nullopt, &config->expert_width);
}

// Gemma 3 scales by 1/sqrt(head_dim), except the 27B (62 layers), which scales by 1/sqrt(D/H) and has no key to say so.
float Gemma3Scale(const ModelConfig& config) {
  constexpr size_t kLayersOf27B = 62;
  const double width = config.layers.size() == kLayersOf27B && config.heads > 0
                           ? static_cast<double>(config.hidden) / config.heads
                           : config.layers[0].head_dim;
  return static_cast<float>(1.0 / std::sqrt(width));
}

absl::StatusOr<int64_t> Rows(const GgufFile& file, std::string_view name) {
  const GgufTensor* tensor = file.FindTensor(name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(Text(file.path(), ": tensor ", name, " is missing"));
  }
  return tensor->size[1];
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string_view architecture, file.String("general.architecture"));
  ModelConfig config;
  if (architecture == "gemma4") {
    config.family = Family::kGemma4;
  } else if (architecture == "gemma3") {
    config.family = Family::kGemma3;
  } else {
    return absl::InvalidArgumentError(Text(file.path(), ": general.architecture is '", architecture.substr(0, 40),
                                           "'; gemma4 and gemma3 are served"));
  }
  const Keys keys(file, architecture);
  if (file.Has("general.name")) {
    ASSIGN_OR_RETURN(const std::string_view name, file.String("general.name"));
    config.name = std::string(name);
  }
  RETURN_IF_ERROR(keys.Int("embedding_length", std::nullopt, &config.hidden));
  ASSIGN_OR_RETURN(config.context, keys.Int("context_length"));
  RETURN_IF_ERROR(keys.Int("attention.sliding_window", 0, &config.sliding_window));
  ASSIGN_OR_RETURN(const double eps, keys.Float("attention.layer_norm_rms_epsilon", 1e-6));
  config.rms_eps = static_cast<float>(eps);
  ASSIGN_OR_RETURN(const double cap, keys.Float("final_logit_softcapping", 0.0));
  config.softcap = static_cast<float>(cap);
  RETURN_IF_ERROR(ReadLayers(file, keys, &config));
  RETURN_IF_ERROR(ReadRopes(file, keys, &config));
  if (!file.Has(kPlanKey)) {  // else the plan says what parts of the embedding there are
    ASSIGN_OR_RETURN(config.vocab, Rows(file, GgufName(TensorKind::kEmbedding, -1)));
  } else {
    ASSIGN_OR_RETURN(const std::string_view text, file.String(kPlanKey));
    ASSIGN_OR_RETURN(const PlanLayout layout, ParseLayout(text));
    config.vocab = layout.vocab;
  }
  if (config.family == Family::kGemma4) {
    RETURN_IF_ERROR(keys.Int("embedding_length_per_layer_input", 0, &config.per_layer_width));
    if (config.per_layer_width > 0) {
      ASSIGN_OR_RETURN(config.per_layer_vocab, Rows(file, GgufName(TensorKind::kPerLayerEmbedding, -1)));
    }
    RETURN_IF_ERROR(ReadMoe(keys, &config));
  } else {
    config.attention_scale = Gemma3Scale(config);
  }
  if (const absl::Status valid = config.Validate(); !valid.ok()) {
    return absl::InvalidArgumentError(Text(file.path(), ": ", valid.message()));
  }
  return config;
}

}  // namespace alphecca::model

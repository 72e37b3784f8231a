#include "model/gguf_writer.h"

#include <algorithm>

#include "model/config_common.h"
#include "model/messages.h"
#include "model/plan_layout.h"

namespace alphecca::model {
namespace {

template <typename T>
void Put(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutText(std::string& to, std::string_view text) {
  Put<uint64_t>(to, text.size());
  to.append(text);
}

void Pad(std::string& to) {
  to.resize((to.size() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment, '\0');
}

// The format's own numbers (ggml_type).
uint32_t TypeId(kernels::DType type) {
  switch (type) {
    case kernels::DType::kBF16:
      return 30;
    case kernels::DType::kQ4_0:
      return 2;
    case kernels::DType::kQ8_0:
      return 8;
    case kernels::DType::kQ4_K:
      return 12;
    case kernels::DType::kQ5_K:
      return 13;
    case kernels::DType::kQ6_K:
      return 14;
    default:
      return 0;
  }
}

// One number where all layers agree, as other writers do, else an array.
template <typename Get>
void PerLayer(GgufMetadata& metadata, const std::string& key, const ModelConfig& config, Get get) {
  std::vector<int32_t> values;
  for (const LayerConfig& layer : config.layers) {
    values.push_back(get(layer));
  }
  if (std::all_of(values.begin(), values.end(), [&](int32_t v) { return v == values[0]; })) {
    metadata.U32(key, static_cast<uint32_t>(values[0]));
  } else {
    metadata.I32s(key, values);
  }
}

}  // namespace

void GgufMetadata::Key(std::string_view key, GgufType type) {
  ++count_;
  PutText(bytes_, key);
  Put(bytes_, static_cast<uint32_t>(type));
}

void GgufMetadata::ArrayKey(std::string_view key, GgufType element, size_t count) {
  Key(key, GgufType::kArray);
  Put(bytes_, static_cast<uint32_t>(element));
  Put<uint64_t>(bytes_, count);
}

void GgufMetadata::U32(std::string_view key, uint32_t value) {
  Key(key, GgufType::kU32);
  Put(bytes_, value);
}

void GgufMetadata::F32(std::string_view key, float value) {
  Key(key, GgufType::kF32);
  Put(bytes_, value);
}

void GgufMetadata::Bool(std::string_view key, bool value) {
  Key(key, GgufType::kBool);
  Put(bytes_, value);
}

void GgufMetadata::String(std::string_view key, std::string_view value) {
  Key(key, GgufType::kString);
  PutText(bytes_, value);
}

void GgufMetadata::Strings(std::string_view key, const std::vector<std::string>& values) {
  ArrayKey(key, GgufType::kString, values.size());
  for (const std::string& value : values) {
    PutText(bytes_, value);
  }
}

void GgufMetadata::I32s(std::string_view key, const std::vector<int32_t>& values) {
  ArrayKey(key, GgufType::kI32, values.size());
  for (const int32_t value : values) {
    Put(bytes_, value);
  }
}

void GgufMetadata::F32s(std::string_view key, const std::vector<float>& values) {
  ArrayKey(key, GgufType::kF32, values.size());
  for (const float value : values) {
    Put(bytes_, value);
  }
}

void GgufMetadata::Bools(std::string_view key, const std::vector<bool>& values) {
  ArrayKey(key, GgufType::kBool, values.size());
  for (const bool value : values) {
    Put(bytes_, value);
  }
}

void GgufMetadata::CopyFrom(const GgufFile& file) {
  for (const std::string_view key : file.keys()) {
    if (key == "general.alignment" || key == "general.file_type" || key == "general.quantization_version" ||
        key == kPlanKey || key.starts_with("split.")) {
      continue;
    }
    const GgufFile::Value* found = file.Raw(key);
    if (found == nullptr) {
      continue;
    }
    const GgufFile::Value& value = *found;
    if (value.type == GgufType::kArray) {
      ArrayKey(key, value.array.element, value.array.count);
      bytes_.append(reinterpret_cast<const char*>(value.array.data.data()), value.array.data.size());
      continue;
    }
    Key(key, value.type);
    if (value.type == GgufType::kString) {
      Put<uint64_t>(bytes_, value.data.size());
    }
    bytes_.append(reinterpret_cast<const char*>(value.data.data()), value.data.size());
  }
}

void GgufMetadata::Append(const GgufMetadata& other) {
  count_ += other.count_;
  bytes_ += other.bytes_;
}

void ConfigToGguf(const ModelConfig& config, GgufMetadata& metadata) {
  const bool gemma4 = config.family == Family::kGemma4;
  const std::string architecture = gemma4 ? "gemma4" : "gemma3";
  const auto key = [&](std::string_view name) { return Text(architecture, ".", name); };
  const auto u32 = [&](std::string_view name, int64_t value) { metadata.U32(key(name), static_cast<uint32_t>(value)); };
  const auto [sliding_dim, full_dim] = HeadDims(config.layers);
  metadata.String("general.architecture", architecture);
  metadata.String("general.type", "model");
  metadata.String("general.name", config.name);
  u32("block_count", static_cast<int64_t>(config.layers.size()));
  u32("context_length", config.context);
  u32("embedding_length", config.hidden);
  u32("vocab_size", config.vocab);
  PerLayer(metadata, key("feed_forward_length"), config, [](const LayerConfig& l) { return l.mlp_width; });
  u32("attention.head_count", config.heads);
  PerLayer(metadata, key("attention.head_count_kv"), config, [](const LayerConfig& l) { return l.kv_heads; });
  u32("attention.key_length", full_dim);
  u32("attention.value_length", full_dim);
  metadata.F32(key("attention.layer_norm_rms_epsilon"), config.rms_eps);
  metadata.F32(key("rope.freq_base"), static_cast<float>(config.rope_full.theta));
  metadata.F32(key("rope.freq_base_swa"), static_cast<float>(config.rope_sliding.theta));
  if (config.rope_full.factor != 1.0) {
    metadata.String(key("rope.scaling.type"), "linear");
    metadata.F32(key("rope.scaling.factor"), static_cast<float>(config.rope_full.factor));
  }
  if (config.softcap != 0.0F) {
    metadata.F32(key("final_logit_softcapping"), config.softcap);
  }
  const bool slides = std::any_of(config.layers.begin(), config.layers.end(),
                                  [](const LayerConfig& layer) { return !layer.full_attention; });
  if (gemma4 || slides) {
    u32("attention.sliding_window", config.sliding_window);
    std::vector<bool> sliding;
    for (const LayerConfig& layer : config.layers) {
      sliding.push_back(!layer.full_attention);
    }
    metadata.Bools(key("attention.sliding_window_pattern"), sliding);
  }
  if (!gemma4) {
    return;
  }
  u32("attention.key_length_swa", sliding_dim);
  u32("attention.value_length_swa", sliding_dim);
  u32("rope.dimension_count", full_dim);
  u32("rope.dimension_count_swa", sliding_dim);
  int64_t shared = 0;
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer) {
    shared += config.OwnsKv(layer) ? 0 : 1;
  }
  u32("attention.shared_kv_layers", shared);
  u32("embedding_length_per_layer_input", config.per_layer_width);
  if (config.experts > 0) {
    u32("expert_count", config.experts);
    u32("expert_used_count", config.experts_per_token);
    u32("expert_feed_forward_length", config.expert_width);
  }
}

std::vector<float> RopeFactors(const ModelConfig& config) {
  const int pairs = HeadDims(config.layers).second / 2;
  if (config.family != Family::kGemma4 || config.rope_full.rotating >= pairs) {
    return {};
  }
  std::vector<float> factors(static_cast<size_t>(pairs), 1e30F);
  std::fill_n(factors.begin(), config.rope_full.rotating, 1.0F);
  return factors;
}

std::string GgufHead(const GgufMetadata& metadata, std::vector<GgufTensorSpec>& tensors) {
  std::string head = "GGUF";
  Put<uint32_t>(head, 3);
  Put<uint64_t>(head, tensors.size());
  Put<uint64_t>(head, metadata.count());
  head += metadata.bytes();
  uint64_t offset = 0;
  for (GgufTensorSpec& tensor : tensors) {
    PutText(head, tensor.name);
    Put(head, static_cast<uint32_t>(tensor.size.size()));
    for (const int64_t size : tensor.size) {
      Put<uint64_t>(head, static_cast<uint64_t>(size));
    }
    Put(head, TypeId(tensor.type));
    Put(head, offset);
    tensor.offset = offset;
    offset += (static_cast<uint64_t>(tensor.bytes) + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
  }
  Pad(head);
  for (GgufTensorSpec& tensor : tensors) {
    tensor.offset += head.size();
  }
  return head;
}

}  // namespace alphecca::model

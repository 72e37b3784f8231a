#include "tests/golden/generated_checkpoint.h"

#include <span>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::golden {
namespace {

uint32_t Fnv1a(std::string_view text) {
  uint32_t hash = 2166136261U;
  for (const char c : text) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 16777619U;
  }
  return hash;
}

}  // namespace

float GeneratedValue(std::string_view name, uint32_t i) {
  uint32_t u = Fnv1a(name) + i * 0x9E3779B1U;
  u ^= u >> 16;
  u *= 0x85EBCA6BU;
  u ^= u >> 13;
  u *= 0xC2B2AE35U;
  u ^= u >> 16;
  const double v = static_cast<double>(u) / 4294967296.0 * 2.0 - 1.0;
  if (name.find("norm") != std::string_view::npos) {
    return static_cast<float>(1.0 + 0.5 * v);
  }
  if (name.ends_with("layer_scalar") || name.ends_with("router.scale") || name.ends_with("per_expert_scale")) {
    return static_cast<float>(1.0 + 0.2 * v);
  }
  return static_cast<float>((name.find("embed_tokens") != std::string_view::npos ? 0.5 : 0.25) * v);
}

absl::StatusOr<std::unique_ptr<GeneratedCheckpoint>> GeneratedCheckpoint::Create(std::string_view config_json) {
  auto checkpoint = std::make_unique<GeneratedCheckpoint>();
  ASSIGN_OR_RETURN(checkpoint->config_, model::ConfigFromJson(config_json));
  for (const model::TensorSpec& spec : model::Catalogue(checkpoint->config_)) {
    const std::string name = absl::StrCat("model.", model::CanonicalName(spec.kind, spec.layer));
    std::vector<float> values(static_cast<size_t>(spec.elements()));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = GeneratedValue(name, static_cast<uint32_t>(i));
    }
    checkpoint->tensors_[{spec.kind, spec.layer}] = {spec, std::move(values)};
  }
  return checkpoint;
}

absl::StatusOr<kernels::HostTensor> GeneratedCheckpoint::Find(model::TensorKind kind, int layer) const {
  const auto found = tensors_.find({kind, layer});
  if (found == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("no tensor ", model::CanonicalName(kind, layer)));
  }
  const auto& [spec, values] = found->second;
  return kernels::HostTensor{.type = kernels::DType::kF32,
                             .data = std::as_bytes(std::span(values)).data(),
                             .items = spec.items,
                             .rows = spec.rows,
                             .cols = spec.cols};
}

}  // namespace alphecca::golden

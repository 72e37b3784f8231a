#include "model/weight_type.h"

#include <array>
#include <utility>

#include "common/status_macros.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

using kernels::DType;

constexpr std::array<std::pair<WeightType, std::string_view>, 5> kNames = {{
    {WeightType::kAsFile, "as-file"},
    {WeightType::kF32, "f32"},
    {WeightType::kBF16, "bf16"},
    {WeightType::kSFP8, "sfp8"},
    {WeightType::kQ4_0, "q4_0"},
}};

DType TargetOf(WeightType weights) {
  switch (weights) {
    case WeightType::kBF16:
      return DType::kBF16;
    case WeightType::kSFP8:
      return DType::kSFP8;
    case WeightType::kQ4_0:
      return DType::kQ4_0;
    default:
      return DType::kF32;
  }
}

// Calls visit(spec, tensor, held type) for each matrix that ranks pack.
template <typename Visit>
absl::Status ForEachHeld(const Checkpoint& checkpoint, WeightType weights, Visit visit) {
  for (const TensorSpec& spec : TensorsOf(checkpoint)) {
    if (IsVector(spec.kind) || spec.kind == TensorKind::kPerLayerEmbedding) {
      continue;
    }
    ASSIGN_OR_RETURN(const DType type, checkpoint.TypeOf(spec.kind, spec.layer));
    const auto held = HeldType(spec.kind, type, weights);
    if (!held.ok()) {
      return absl::InvalidArgumentError(
          Text(checkpoint.path(), ": ", CanonicalName(spec.kind, spec.layer), ": ", held.status().message()));
    }
    RETURN_IF_ERROR(visit(spec, *held));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view WeightTypeName(WeightType weights) {
  for (const auto& [type, name] : kNames) {
    if (type == weights) {
      return name;
    }
  }
  return "?";
}

absl::StatusOr<WeightType> ParseWeightType(std::string_view name) {
  if (name.empty()) {
    return WeightType::kAsFile;
  }
  for (const auto& [type, known] : kNames) {
    if (known == name) {
      return type;
    }
  }
  return absl::InvalidArgumentError(Text("weights ", Quoted(name), ": want ", kWeightTypeNames));
}

DType RuntimeType(DType file_type) {
  if (kernels::IsRuntimeType(file_type)) {
    return file_type;
  }
  switch (file_type) {
    case DType::kQ5_0:    // d * (q5 - 16): the same d, q5 - 16 fits 8 bits
    case DType::kIQ4_NL:  // d * T[q]: so does every T
      return DType::kQ8_0;
    default:
      return DType::kF32;
  }
}

DType CommonType(DType a, DType b) {
  if (a == b) {
    return a;
  }
  const auto is_q8_or_q4 = [](DType type) { return type == DType::kQ8_0 || type == DType::kQ4_0; };
  return is_q8_or_q4(a) && is_q8_or_q4(b) ? DType::kQ8_0 : DType::kF32;
}

absl::StatusOr<DType> HeldType(TensorKind kind, DType file_type, WeightType weights) {
  const bool quantises = weights == WeightType::kSFP8 || weights == WeightType::kQ4_0;
  if (weights == WeightType::kAsFile || (quantises && kind == TensorKind::kRouter)) {
    return RuntimeType(file_type);
  }
  const DType target = TargetOf(weights);
  const bool plain = file_type == DType::kF32 || file_type == DType::kF16 || file_type == DType::kBF16;
  if (!plain && target != DType::kF32 && file_type != target) {
    return absl::InvalidArgumentError(Text("the file has it as ", kernels::Info(file_type).name, ", which ",
                                           WeightTypeName(weights),
                                           " would round a second time; use weights as-file or f32, or a checkpoint in "
                                           "F32 or BF16"));
  }
  return target;
}

absl::Status CheckWeightType(const Checkpoint& checkpoint, WeightType weights) {
  return ForEachHeld(checkpoint, weights, [&](const TensorSpec& spec, DType held) -> absl::Status {
    const int block = kernels::Info(held).block_elements;
    if (spec.cols % block != 0) {
      return absl::InvalidArgumentError(Text(checkpoint.path(), ": ", CanonicalName(spec.kind, spec.layer),
                                             " has rows of ", spec.cols, " weights, no whole number of ",
                                             kernels::Info(held).name, " blocks of ", block,
                                             "; use other weights than ", WeightTypeName(weights)));
    }
    return absl::OkStatus();
  });
}

}  // namespace alphecca::model

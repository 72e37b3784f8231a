// In which type a model's weights are held: as the file has them, or converted while loading.
//
// Vectors (norms, scalars) are F32 always. A conversion to SFP8 or Q4_0 leaves routers as the file has them: a rounded
// router picks other experts, and its bytes are few. Look-up tables that stay mapped (per-layer embeddings) cannot be
// converted at load; `alphecca convert` does it in the file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "model/catalogue.h"
#include "model/checkpoint.h"

namespace alphecca::model {

enum class WeightType { kAsFile, kF32, kBF16, kSFP8, kQ4_0 };

// "as-file", "f32", "bf16", "sfp8", "q4_0".
std::string_view WeightTypeName(WeightType weights);
inline constexpr std::string_view kWeightTypeNames = "as-file, f32, bf16, sfp8 or q4_0";
// Empty: as-file. InvalidArgument.
absl::StatusOr<WeightType> ParseWeightType(std::string_view name);

// Run-time type of a file type, unconverted: F32, BF16, SFP8, Q8_0, Q4_0, Q6_K stay; Q5_0 and IQ4_NL fit Q8_0 exactly;
// others F32.
kernels::DType RuntimeType(kernels::DType file_type);
// The run-time type in which rows of both kinds can be held together without error above that of RuntimeType.
kernels::DType CommonType(kernels::DType a, kernels::DType b);

// The type in which a matrix of this kind is held. InvalidArgument for a conversion that would round twice: only F32,
// F16 and BF16 become BF16, SFP8 or Q4_0 (which stay what they are); everything becomes F32.
absl::StatusOr<kernels::DType> HeldType(TensorKind kind, kernels::DType file_type, WeightType weights);

// Whether every matrix of the checkpoint can be held so. InvalidArgument: HeldType's, or rows that are no whole number
// of the type's blocks; names the tensor.
absl::Status CheckWeightType(const Checkpoint& checkpoint, WeightType weights);

}  // namespace alphecca::model

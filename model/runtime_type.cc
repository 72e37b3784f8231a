#include "model/shard_plan.h"

namespace alphecca::model {

using kernels::DType;

DType RuntimeType(DType file_type) {
  switch (file_type) {
    case DType::kF32:
    case DType::kBF16:
    case DType::kSFP8:
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ6_K:
      return file_type;
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

}  // namespace alphecca::model

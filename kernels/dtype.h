// Element types of tensors, in files and at run time. Sizes: spec/quantisation (GGUF block formats, SFP).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace alphecca::kernels {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kSFP8,  // gemma.cpp's switching floating point, one byte a weight, one f32 scale a row
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kI32,
  kI64,
};

struct DTypeInfo {
  std::string_view name;
  int block_elements;  // elements of one block; a row is a whole number of blocks
  int block_bytes;
};

constexpr DTypeInfo Info(DType type) {
  switch (type) {
    case DType::kF32:
      return {"F32", 1, 4};
    case DType::kF16:
      return {"F16", 1, 2};
    case DType::kBF16:
      return {"BF16", 1, 2};
    case DType::kSFP8:
      return {"SFP8", 1, 1};
    case DType::kQ4_0:
      return {"Q4_0", 32, 18};
    case DType::kQ4_1:
      return {"Q4_1", 32, 20};
    case DType::kQ5_0:
      return {"Q5_0", 32, 22};
    case DType::kQ5_1:
      return {"Q5_1", 32, 24};
    case DType::kQ8_0:
      return {"Q8_0", 32, 34};
    case DType::kQ4_K:
      return {"Q4_K", 256, 144};
    case DType::kQ5_K:
      return {"Q5_K", 256, 176};
    case DType::kQ6_K:
      return {"Q6_K", 256, 210};
    case DType::kIQ4_NL:
      return {"IQ4_NL", 32, 18};
    case DType::kI32:
      return {"I32", 1, 4};
    case DType::kI64:
      return {"I64", 1, 8};
  }
  return {"?", 1, 0};
}

// Types that a matrix may be held in (Backend::Pack).
constexpr bool IsRuntimeType(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kBF16:
    case DType::kSFP8:
    case DType::kQ4_0:
    case DType::kQ8_0:
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      return true;
    default:
      return false;
  }
}
// Run-time types that activations in int8 may meet (Activations::kDefault).
constexpr bool IsQuantised(DType type) {
  return IsRuntimeType(type) && type != DType::kSFP8 && Info(type).block_elements > 1;
}

// For messages: the distribution's absl does not take std::string_view.
inline std::string TypeName(DType type) {
  return std::string(Info(type).name);
}

// Bytes of `elements` values of one row; elements must be a whole number of blocks.
constexpr int64_t RowBytes(DType type, int64_t elements) {
  const DTypeInfo info = Info(type);
  return elements / info.block_elements * info.block_bytes;
}

}  // namespace alphecca::kernels

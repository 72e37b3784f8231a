// What the two halves of the GGUF reader share: loading values and their sizes.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>

#include "model/gguf.h"

namespace alphecca::model {

static_assert(std::endian::native == std::endian::little, "GGUF values are read in place");

// A value at any alignment.
template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// Bytes of a value of fixed size; 0 for strings, arrays and unknown types.
inline size_t GgufScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

}  // namespace alphecca::model

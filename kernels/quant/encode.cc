// F32 rows to encoded ones, by the rules of ggml's reference quantisers.
#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/quant/bytes.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels {
namespace {

// The integer part of x within [low, high]; NaN, which only bad weights give, becomes low.
int ClampToInt(float x, int low, int high) {
  const auto low_f = static_cast<float>(low);
  const auto high_f = static_cast<float>(high);
  return x > low_f ? static_cast<int>(std::min(x, high_f)) : low;
}

void EncodeQ40(const float* x, std::byte* block) {
  float largest = 0.0F;  // by magnitude, with its sign; the first of equals
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(x[i]) > std::fabs(largest)) {
      largest = x[i];
    }
  }
  const float d = largest / -8.0F;
  const float inverse = d != 0.0F ? 1.0F / d : 0.0F;
  const auto quantise = [&](float v) { return static_cast<uint32_t>(ClampToInt(v * inverse + 8.5F, 0, 15)); };
  StoreU16(block, F32ToF16(d));
  for (int j = 0; j < 16; ++j) {
    block[2 + j] = static_cast<std::byte>(quantise(x[j]) | (quantise(x[j + 16]) << 4));
  }
}

void EncodeQ80(const float* x, std::byte* block) {
  float largest = 0.0F;
  for (int i = 0; i < 32; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
  }
  const float d = largest / 127.0F;
  const float inverse = d != 0.0F ? 1.0F / d : 0.0F;
  StoreU16(block, F32ToF16(d));
  for (int i = 0; i < 32; ++i) {
    block[2 + i] = static_cast<std::byte>(ClampToInt(std::round(x[i] * inverse), -127, 127));
  }
}

void EncodeBlock(DType type, const float* x, float scale, std::byte* block) {
  switch (type) {
    case DType::kF32:
      std::memcpy(block, x, sizeof *x);
      return;
    case DType::kBF16:
      return StoreU16(block, F32ToBf16(*x));
    case DType::kSFP8:
      *block = static_cast<std::byte>(F32ToSfp8(*x / scale));
      return;
    case DType::kQ4_0:
      return EncodeQ40(x, block);
    case DType::kQ8_0:
      return EncodeQ80(x, block);
    default:
      Check(false, "EncodeRow of a type that is only read");
  }
}

}  // namespace

bool IsEncodable(DType type) {
  return type == DType::kF32 || type == DType::kBF16 || type == DType::kSFP8 || type == DType::kQ8_0 ||
         type == DType::kQ4_0;
}

void EncodeRow(DType type, std::span<const float> values, float scale, std::byte* out) {
  const DTypeInfo info = Info(type);
  const auto count = static_cast<int64_t>(values.size());
  Check(count % info.block_elements == 0, "EncodeRow of whole blocks");
  for (int64_t i = 0; i < count; i += info.block_elements, out += info.block_bytes) {
    EncodeBlock(type, values.data() + i, scale, out);
  }
}

}  // namespace alphecca::kernels

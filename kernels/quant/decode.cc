// Encoded rows to F32. Blocks of 32 keep element j in the low nibble of byte j and element j + 16 in the high one.
#include "kernels/check.h"
#include "kernels/quant/bytes.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels {
namespace {

// Calls put(i, q) with the 4-bit number of each of a block's 32 elements.
template <typename Put>
void ForNibbles(const std::byte* qs, Put put) {
  for (int j = 0; j < 16; ++j) {
    put(j, Byte(qs, j) & 15U);
    put(j + 16, Byte(qs, j) >> 4);
  }
}

void DecodeQ40(const std::byte* block, float* out) {
  const float d = F16ToF32(LoadU16(block));
  ForNibbles(block + 2, [&](int i, uint32_t q) { out[i] = d * static_cast<float>(static_cast<int>(q) - 8); });
}

void DecodeQ41(const std::byte* block, float* out) {
  const float d = F16ToF32(LoadU16(block));
  const float m = F16ToF32(LoadU16(block + 2));
  ForNibbles(block + 4, [&](int i, uint32_t q) { out[i] = d * static_cast<float>(q) + m; });
}

void DecodeQ50(const std::byte* block, float* out) {
  const float d = F16ToF32(LoadU16(block));
  const uint32_t high = LoadU32(block + 2);
  ForNibbles(block + 6, [&](int i, uint32_t q) {
    const uint32_t q5 = q | (((high >> i) & 1U) << 4);
    out[i] = d * static_cast<float>(static_cast<int>(q5) - 16);
  });
}

void DecodeQ51(const std::byte* block, float* out) {
  const float d = F16ToF32(LoadU16(block));
  const float m = F16ToF32(LoadU16(block + 2));
  const uint32_t high = LoadU32(block + 4);
  ForNibbles(block + 8, [&](int i, uint32_t q) {
    const uint32_t q5 = q | (((high >> i) & 1U) << 4);
    out[i] = d * static_cast<float>(q5) + m;
  });
}

void DecodeQ80(const std::byte* block, float* out) {
  const float d = F16ToF32(LoadU16(block));
  for (int i = 0; i < 32; ++i) {
    out[i] = d * static_cast<float>(SignedByte(block + 2, i));
  }
}

void DecodeIQ4NL(const std::byte* block, float* out) {
  const float d = F16ToF32(LoadU16(block));
  ForNibbles(block + 2, [&](int i, uint32_t q) { out[i] = d * static_cast<float>(kIq4NlValues[q]); });
}

// Scale and minimum of sub-block s, six bits each, of the twelve bytes that Q4_K and Q5_K share.
struct ScaleMin {
  float scale;
  float min;
};
ScaleMin KScale(const std::byte* scales, int s) {
  if (s < 4) {
    return {static_cast<float>(Byte(scales, s) & 63U), static_cast<float>(Byte(scales, s + 4) & 63U)};
  }
  const uint32_t scale = (Byte(scales, s + 4) & 15U) | ((Byte(scales, s - 4) >> 6) << 4);
  const uint32_t min = (Byte(scales, s + 4) >> 4) | ((Byte(scales, s) >> 6) << 4);
  return {static_cast<float>(scale), static_cast<float>(min)};
}

// Q4_K; Q5_K if `high` (the fifth bits, one byte for each l, one bit for each sub-block) is not null.
void DecodeK(const std::byte* block, const std::byte* high, const std::byte* qs, float* out) {
  const float d = F16ToF32(LoadU16(block));
  const float dmin = F16ToF32(LoadU16(block + 2));
  for (int s = 0; s < 8; ++s) {
    const ScaleMin k = KScale(block + 4, s);
    const float scale = d * k.scale;
    const float min = dmin * k.min;
    for (int l = 0; l < 32; ++l) {
      uint32_t q = (Byte(qs, 32 * (s / 2) + l) >> (s % 2 == 0 ? 0 : 4)) & 15U;
      if (high != nullptr) {
        q |= ((Byte(high, l) >> s) & 1U) << 4;
      }
      out[32 * s + l] = scale * static_cast<float>(q) - min;
    }
  }
}

void DecodeQ6K(const std::byte* block, float* out) {
  const std::byte* scales = block + 192;
  const float d = F16ToF32(LoadU16(block + 208));
  for (int half = 0; half < 2; ++half) {
    const std::byte* ql = block + 64 * half;
    const std::byte* qh = block + 128 + 32 * half;
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int l = 0; l < 32; ++l) {
        const uint32_t low = (Byte(ql, l + 32 * (quarter % 2)) >> (quarter < 2 ? 0 : 4)) & 15U;
        const uint32_t q = low | (((Byte(qh, l) >> (2 * quarter)) & 3U) << 4);
        const int e = 128 * half + 32 * quarter + l;
        out[e] = d * static_cast<float>(SignedByte(scales, e / 16)) * static_cast<float>(static_cast<int>(q) - 32);
      }
    }
  }
}

void DecodeBlock(DType type, const std::byte* block, float* out) {
  switch (type) {
    case DType::kF32:
      *out = LoadF32(block);
      return;
    case DType::kF16:
      *out = F16ToF32(LoadU16(block));
      return;
    case DType::kBF16:
      *out = Bf16ToF32(LoadU16(block));
      return;
    case DType::kSFP8:
      *out = Sfp8ToF32(std::to_integer<uint8_t>(*block));
      return;
    case DType::kQ4_0:
      return DecodeQ40(block, out);
    case DType::kQ4_1:
      return DecodeQ41(block, out);
    case DType::kQ5_0:
      return DecodeQ50(block, out);
    case DType::kQ5_1:
      return DecodeQ51(block, out);
    case DType::kQ8_0:
      return DecodeQ80(block, out);
    case DType::kQ4_K:
      return DecodeK(block, nullptr, block + 16, out);
    case DType::kQ5_K:
      return DecodeK(block, block + 16, block + 48, out);
    case DType::kQ6_K:
      return DecodeQ6K(block, out);
    case DType::kIQ4_NL:
      return DecodeIQ4NL(block, out);
    case DType::kI32:
    case DType::kI64:
      break;
  }
  Check(false, "DecodeRow of an index type");
}

}  // namespace

bool IsDecodable(DType type) {
  return type != DType::kI32 && type != DType::kI64;
}

void DecodeRow(DType type, const std::byte* row, Range elements, float scale, float* out) {
  const DTypeInfo info = Info(type);
  Check(elements.begin >= 0 && elements.begin % info.block_elements == 0 && elements.end % info.block_elements == 0,
        "DecodeRow between blocks");
  const std::byte* block = row + RowBytes(type, elements.begin);
  for (int64_t i = 0; i < elements.size(); i += info.block_elements, block += info.block_bytes) {
    DecodeBlock(type, block, out + i);
  }
  if (scale != 1.0F) {
    for (int64_t i = 0; i < elements.size(); ++i) {
      out[i] *= scale;
    }
  }
}

}  // namespace alphecca::kernels

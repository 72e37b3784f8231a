// Conversions of single values.
#include <bit>
#include <cmath>

#include "kernels/quant/quant.h"

namespace alphecca::kernels {

float F16ToF32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1FU;
  const uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0) {
    // Subnormal: mantissa * 2^-24, exact in F32.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) {
    return std::bit_cast<float>(sign | 0x7F800000U | (mantissa << 13));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t F32ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {
    return static_cast<uint16_t>(sign | 0x7E00U);
  }
  if (magnitude < 0x38800000U) {
    // Below the smallest normal half: units of 2^-24. The magic sum rounds to nearest even in the adder.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000U));
  }
  const uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
  if (rounded >= 0x47800000U) {
    return static_cast<uint16_t>(sign | 0x7C00U);
  }
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

float Bf16ToF32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

uint16_t F32ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) {
    return static_cast<uint16_t>((bits >> 16) | 0x0040U);
  }
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

float Sfp8ToF32(uint8_t code) {
  // Every value is a BF16: its high byte from the range that the code is in, its low byte the mantissa.
  const uint32_t v = code & 0x7FU;
  if (v == 0) {
    return 0.0F;
  }
  const bool small = v < 64;
  const uint32_t high = small ? 0x34U + (v >> 3) : 0x38U + (v >> 4);
  const uint32_t low = (v << (small ? 5 : 4)) & 0xFFU;
  const uint32_t sign = static_cast<uint32_t>(code & 0x80U) << 8;
  return Bf16ToF32(static_cast<uint16_t>(sign | (high << 8) | low));
}

uint8_t F32ToSfp8(float value) {
  if (std::isnan(value)) {
    return 0;
  }
  const float magnitude = std::fmin(std::fabs(value), kSfp8Max);
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  // Two ranges: 3 mantissa bits from 2^-7 up, 2 below. A value is rounded with the mantissa of the range it lies nearer
  // to (thresholds 1.1111b * 2^-8), and one that the coarse rounding carries up to 2^-7 belongs to the upper range.
  bool large = magnitude >= 0.007568359375F;
  const int round_bits = large ? 3 : 2;
  const uint32_t rounded = bits + ((bits >> (23 - round_bits)) & 1U) + (1U << (22 - round_bits)) - 1;
  large = large || magnitude >= 0.00732421875F;
  const int mantissa_bits = large ? 3 : 2;
  uint32_t mantissa = (rounded & 0x7FFFFFU) >> (23 - mantissa_bits);
  const int exponent = static_cast<int>(rounded >> 23) - 127;
  if (exponent < -23) {
    return 0;
  }
  if (exponent == -23 && mantissa == 0) {
    mantissa = 1;  // code 0 is taken by zero
  }
  const uint32_t code = (static_cast<uint32_t>(exponent + (large ? 15 : 23)) << mantissa_bits) | mantissa;
  return static_cast<uint8_t>((std::signbit(value) ? 0x80U : 0U) | code);
}

float Sfp8Scale(float max_abs) {
  return max_abs > kSfp8Max ? max_abs / kSfp8Max : 1.0F;
}

}  // namespace alphecca::kernels

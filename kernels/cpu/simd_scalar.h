// The vector operations that the kernels are written in, as plain loops over eight lanes: what runs where the machine
// has no AVX2, and the definition of what the other simd_*.h do.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/quant/quant.h"

namespace alphecca::kernels::cpu {
namespace {

inline constexpr int kLanes = 8;
// Rows and vectors of a product of F32 matrices whose sums fit the registers. Where registers are few, few rows: so
// that even the two queries of a small group keep the multipliers busy.
inline constexpr int kTileRows = 4;
inline constexpr int kTileVectors = 2;

struct F {
  float v[kLanes];
};
// A lane is a 32-bit number, or four bytes.
struct I {
  int32_t v[kLanes];
};
struct Mask {
  bool v[kLanes];
};

template <typename Out, typename Function>
inline Out Each(Function f) {
  Out out;
  for (int i = 0; i < kLanes; ++i) {
    out.v[i] = f(i);
  }
  return out;
}

inline F Set(float x) {
  return Each<F>([&](int) { return x; });
}
inline F Zero() {
  return Set(0.0F);
}
inline F Load(const float* p) {
  return Each<F>([&](int i) { return p[i]; });
}
// The first n lanes, 0 in the others.
inline F LoadN(const float* p, int n) {
  return Each<F>([&](int i) { return i < n ? p[i] : 0.0F; });
}
inline void StoreN(float* p, F x, int n) {
  for (int i = 0; i < n; ++i) {
    p[i] = x.v[i];
  }
}
inline void Store(float* p, F x) {
  StoreN(p, x, kLanes);
}
inline F Add(F a, F b) {
  return Each<F>([&](int i) { return a.v[i] + b.v[i]; });
}
inline F Sub(F a, F b) {
  return Each<F>([&](int i) { return a.v[i] - b.v[i]; });
}
inline F Mul(F a, F b) {
  return Each<F>([&](int i) { return a.v[i] * b.v[i]; });
}
inline F Div(F a, F b) {
  return Each<F>([&](int i) { return a.v[i] / b.v[i]; });
}
// a b + c, rounded once where the instruction set can.
inline F Fma(F a, F b, F c) {
  return Each<F>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// b where either is NaN.
inline F Max(F a, F b) {
  return Each<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F Min(F a, F b) {
  return Each<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F Abs(F a) {
  return Each<F>([&](int i) { return std::fabs(a.v[i]); });
}
// magnitude must not be negative.
inline F WithSignOf(F magnitude, F sign) {
  return Each<F>([&](int i) { return std::copysign(magnitude.v[i], sign.v[i]); });
}
inline Mask Greater(F a, F b) {
  return Each<Mask>([&](int i) { return a.v[i] > b.v[i]; });
}
inline F Select(Mask m, F yes, F no) {
  return Each<F>([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}
inline uint32_t Bits(Mask m) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) {
    bits |= m.v[i] ? 1U << i : 0U;
  }
  return bits;
}
// Across lanes, in an order of the instruction set's own.
inline float Sum(F a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
inline float Largest(F a) {
  float x = a.v[0];
  for (int i = 1; i < kLanes; ++i) {
    x = a.v[i] > x ? a.v[i] : x;
  }
  return x;
}

// To the nearest, even on a tie; the smallest int32 for what does not fit one.
inline I Round(F a) {
  return Each<I>(
      [&](int i) { return std::fabs(a.v[i]) < 0x1p31F ? static_cast<int32_t>(std::nearbyint(a.v[i])) : INT32_MIN; });
}
inline F ToFloat(I a) {
  return Each<F>([&](int i) { return static_cast<float>(a.v[i]); });
}
// a 2^n, n in [-126, 127].
inline F TimesPowerOfTwo(F a, I n) {
  return Each<F>([&](int i) {
    const uint32_t bits = (static_cast<uint32_t>(n.v[i]) + 127U) << 23;
    float power = 0.0F;
    std::memcpy(&power, &bits, sizeof power);
    return a.v[i] * power;
  });
}

inline uint16_t U16At(const std::byte* p, int i) {
  uint16_t x = 0;
  std::memcpy(&x, p + 2 * i, sizeof x);
  return x;
}
inline F LoadF16(const std::byte* p) {
  return Each<F>([&](int i) { return F16ToF32(U16At(p, i)); });
}
// One number in every lane.
inline F SetF16(const std::byte* p) {
  return Set(F16ToF32(U16At(p, 0)));
}
inline F LoadBf16(const std::byte* p) {
  return Each<F>([&](int i) { return Bf16ToF32(U16At(p, i)); });
}
inline void StoreBf16(std::byte* p, F x) {
  for (int i = 0; i < kLanes; ++i) {
    const uint16_t bits = F32ToBf16(x.v[i]);
    std::memcpy(p + 2 * i, &bits, sizeof bits);
  }
}
inline F LoadI8(const std::byte* p) {
  return Each<F>([&](int i) { return static_cast<float>(std::to_integer<int8_t>(p[i])); });
}
// Sixteen codes, as 16 / kLanes vectors.
inline void LoadSfp8(const std::byte* p, F out[2]) {
  for (int half = 0; half < 2; ++half) {
    out[half] = Each<F>([&](int i) { return Sfp8ToF32(std::to_integer<uint8_t>(p[half * kLanes + i])); });
  }
}

// ---- Bytes, four to a lane ----------------------------------------------------------------------------------------

inline I LoadBytes(const std::byte* p) {
  I out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
// The same four in every lane.
inline I Four(const int8_t* p) {
  int32_t x = 0;
  std::memcpy(&x, p, sizeof x);
  return Each<I>([&](int) { return x; });
}
// Of every byte.
inline I And(I a, uint8_t mask) {
  return Each<I>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) & (mask * 0x01010101U)); });
}
// Makes the compiler finish a sum here. GCC may else put off the additions of unrolled loops and spill their terms.
inline void Settle(I&) {}
inline I Or(I a, I b) {
  return Each<I>([&](int i) { return a.v[i] | b.v[i]; });
}
// Of lanes; mask the bits that come from a neighbouring byte.
template <int kBits>
inline I ShiftRight(I a) {
  return Each<I>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> kBits); });
}
inline I ShiftRight(I a, int bits) {
  return Each<I>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> bits); });
}
template <int kBits>
inline I ShiftLeft(I a) {
  return Each<I>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << kBits); });
}
template <int kByte>
inline F UnsignedByte(I a) {
  return Each<F>([&](int i) { return static_cast<float>((static_cast<uint32_t>(a.v[i]) >> (8 * kByte)) & 0xFFU); });
}
template <int kByte>
inline F SignedByte(I a) {
  return Each<F>([&](int i) {
    return static_cast<float>(static_cast<int8_t>((static_cast<uint32_t>(a.v[i]) >> (8 * kByte)) & 0xFFU));
  });
}

// Sums of products of bytes begin with a correction for the offset of the weights (see QuantRows in kernel_table.h):
// one 32-bit number, or, where this is true, two 16-bit ones for the even and the odd pair of a lane's four.
inline constexpr bool kPairedCorrection = false;

inline I BeginSum(const int32_t* correction) {
  return Each<I>([&](int) { return *correction; });
}
// sum + w0 a0 + .. + w3 a3 in each lane; weights unsigned, at most 63. Up to 32 columns to a sum.
inline I DotUnsigned(I sum, I weights, I four) {
  return Each<I>([&](int i) {
    int32_t x = sum.v[i];
    for (int b = 0; b < 32; b += 8) {
      const auto w = static_cast<int32_t>((static_cast<uint32_t>(weights.v[i]) >> b) & 0xFFU);
      x += w * static_cast<int8_t>((static_cast<uint32_t>(four.v[i]) >> b) & 0xFFU);
    }
    return x;
  });
}
// The sum times a signed byte for each lane.
inline I EndScaledSum(I sum, const std::byte* scales) {
  return Each<I>([&](int i) { return sum.v[i] * std::to_integer<int8_t>(scales[i]); });
}

// Sums of eight columns, from four each of two vectors of weights at most 15, enter a sum times whole scales of up to
// kLargestScale.
inline I DotEight(I w0, I a0, I w1, I a1) {
  return DotUnsigned(DotUnsigned(Each<I>([](int) { return 0; }), w0, a0), w1, a1);
}
inline I AddScaled(I sum, I dot, const int32_t* scale) {
  return Each<I>([&](int i) { return sum.v[i] + dot.v[i] * *scale; });
}
// The words that AddScaled reads.
inline void PutScales(int32_t low, int32_t high, int32_t* to) {
  to[0] = low;
  to[1] = high;
}

// sum + w0 a0 + .. + w3 a3 of signed weights, any value.
inline I BeginSignedSum() {
  return Each<I>([&](int) { return 0; });
}
inline I DotSigned(I sum, I weights, I four) {
  return Each<I>([&](int i) {
    int32_t x = sum.v[i];
    for (int b = 0; b < 32; b += 8) {
      const auto w = static_cast<int8_t>((static_cast<uint32_t>(weights.v[i]) >> b) & 0xFFU);
      x += w * static_cast<int8_t>((static_cast<uint32_t>(four.v[i]) >> b) & 0xFFU);
    }
    return x;
  });
}

// Values in [-127, 127].
inline void StoreI8(int8_t* p, I a) {
  for (int i = 0; i < kLanes; ++i) {
    p[i] = static_cast<int8_t>(a.v[i]);
  }
}

}  // namespace
}  // namespace alphecca::kernels::cpu

// The vector operations that the kernels are written in, for AVX-512 (F, BW, VL, DQ), with VNNI where it is compiled
// in. simd_scalar.h says what each does.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace alphecca::kernels::cpu {
namespace {

inline constexpr int kLanes = 16;
inline constexpr int kTileRows = 8;
inline constexpr int kTileVectors = 2;

struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
struct Mask {
  __mmask16 v;
};

inline F Zero() {
  return {_mm512_setzero_ps()};
}
inline F Set(float x) {
  return {_mm512_set1_ps(x)};
}
inline F Load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
inline __mmask16 FirstLanes(int n) {
  return n >= kLanes ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1U << n) - 1U);
}
inline F LoadN(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(FirstLanes(n), p)};
}
inline void Store(float* p, F x) {
  _mm512_storeu_ps(p, x.v);
}
inline void StoreN(float* p, F x, int n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), x.v);
}
inline F Add(F a, F b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline F Sub(F a, F b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline F Mul(F a, F b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline F Div(F a, F b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline F Fma(F a, F b, F c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline F Max(F a, F b) {
  return {_mm512_max_ps(a.v, b.v)};
}
inline F Min(F a, F b) {
  return {_mm512_min_ps(a.v, b.v)};
}
inline F Abs(F a) {
  return {_mm512_abs_ps(a.v)};
}
inline F WithSignOf(F magnitude, F sign) {
  return {_mm512_or_ps(magnitude.v, _mm512_and_ps(_mm512_set1_ps(-0.0F), sign.v))};
}
inline Mask Greater(F a, F b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)};
}
inline F Select(Mask m, F yes, F no) {
  return {_mm512_mask_blend_ps(m.v, no.v, yes.v)};
}
inline uint32_t Bits(Mask m) {
  return m.v;
}
inline __m256 Upper(__m512 a) {
  return _mm512_extractf32x8_ps(a, 1);
}
inline float Sum(F a) {
  const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(a.v), Upper(a.v));
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float Largest(F a) {
  const __m256 y = _mm256_max_ps(_mm512_castps512_ps256(a.v), Upper(a.v));
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

inline I Round(F a) {
  return {_mm512_cvtps_epi32(a.v)};
}
inline F ToFloat(I a) {
  return {_mm512_cvtepi32_ps(a.v)};
}
inline F TimesPowerOfTwo(F a, I n) {
  return {
      _mm512_mul_ps(a.v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23)))};
}

inline __m256i LoadHalf(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline F LoadF16(const std::byte* p) {
  return {_mm512_cvtph_ps(LoadHalf(p))};
}
inline F SetF16(const std::byte* p) {
  uint16_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return {_mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))};
}
inline F LoadBf16(const std::byte* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(LoadHalf(p)), 16))};
}
inline void StoreBf16(std::byte* p, F x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i nearest =
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, nearest, quiet)));
}
inline F LoadI8(const std::byte* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
// Both ranges are linear in the code, and the right one is the smaller.
inline void LoadSfp8(const std::byte* p, F out[1]) {
  const __m512i c = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i m = _mm512_and_si512(c, _mm512_set1_epi32(0x7F));
  const __m512i low = _mm512_add_epi32(_mm512_slli_epi32(m, 21), _mm512_set1_epi32(0x34000000));
  const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(m, 20), _mm512_set1_epi32(0x38000000));
  const __m512i value = _mm512_maskz_min_epi32(_mm512_test_epi32_mask(m, m), low, high);
  const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(c, _mm512_set1_epi32(0x80)), 24);
  out[0] = {_mm512_castsi512_ps(_mm512_or_si512(value, sign))};
}

// ---- Bytes, four to a lane ----------------------------------------------------------------------------------------

inline I LoadBytes(const std::byte* p) {
  return {_mm512_loadu_si512(p)};
}
inline I Four(const int8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, sizeof x);
  return {_mm512_set1_epi32(x)};
}
inline I And(I a, uint8_t mask) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi8(static_cast<char>(mask)))};
}
inline void Settle(I& a) {
  asm("" : "+v"(a.v));
}
inline I Or(I a, I b) {
  return {_mm512_or_si512(a.v, b.v)};
}
template <int kBits>
inline I ShiftRight(I a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
inline I ShiftRight(I a, int bits) {
  return {_mm512_srl_epi32(a.v, _mm_cvtsi32_si128(bits))};
}
template <int kBits>
inline I ShiftLeft(I a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kByte>
inline F UnsignedByte(I a) {
  return ToFloat({_mm512_and_si512(_mm512_srli_epi32(a.v, 8 * kByte), _mm512_set1_epi32(0xFF))});
}
template <int kByte>
inline F SignedByte(I a) {
  return ToFloat({_mm512_srai_epi32(_mm512_slli_epi32(a.v, 24 - 8 * kByte), 24)});
}

inline I BeginSum(const int32_t* correction) {
  return {_mm512_set1_epi32(*correction)};
}
inline __m512i Scales(const std::byte* scales) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
}

#if defined(__AVX512VNNI__)

inline constexpr bool kPairedCorrection = false;

inline I DotUnsigned(I sum, I weights, I four) {
  return {_mm512_dpbusd_epi32(sum.v, weights.v, four.v)};
}
inline I EndScaledSum(I sum, const std::byte* scales) {
  return {_mm512_mullo_epi32(sum.v, Scales(scales))};
}

// For sliced_inl.h and tiles_inl.h, which only this path has.
inline I SetInt(int32_t x) {
  return {_mm512_set1_epi32(x)};
}
inline I AddInts(I a, I b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
inline I SubInts(I a, I b) {
  return {_mm512_sub_epi32(a.v, b.v)};
}
template <int kBits>
inline I ShiftRightSigned(I a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
inline int32_t SumInts(I a) {
  return _mm512_reduce_add_epi32(a.v);
}
inline I SubBytes(I a, int x) {
  return {_mm512_sub_epi8(a.v, _mm512_set1_epi8(static_cast<char>(x)))};
}
inline void StoreBytes(int8_t* p, I a) {
  _mm512_storeu_si512(p, a.v);
}

#else

// Sums of 16 bits wrap around between, which is harmless: the corrected sum of at most 32 columns fits them.
inline constexpr bool kPairedCorrection = true;

inline I DotUnsigned(I sum, I weights, I four) {
  return {_mm512_add_epi16(sum.v, _mm512_maddubs_epi16(weights.v, four.v))};
}
inline I EndScaledSum(I sum, const std::byte* scales) {
  const __m512i s = Scales(scales);  // the same number in both halves of a lane
  return {_mm512_madd_epi16(sum.v, _mm512_mask_blend_epi16(0xAAAAAAAAU, s, _mm512_slli_epi32(s, 16)))};
}

// A scale stands twice in its word, for both 16-bit sums of a lane.
inline I DotEight(I w0, I a0, I w1, I a1) {
  return {_mm512_add_epi16(_mm512_maddubs_epi16(w0.v, a0.v), _mm512_maddubs_epi16(w1.v, a1.v))};
}
inline I AddScaled(I sum, I dot, const int32_t* scale) {
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(dot.v, _mm512_set1_epi32(*scale)))};
}
inline void PutScales(int32_t low, int32_t high, int32_t* to) {
  to[0] = low | low << 16;
  to[1] = high | high << 16;
}

#endif

inline I BeginSignedSum() {
  return {_mm512_setzero_si512()};
}
// |w| * (a sign w): no pair of products passes 2 * 128 * 127, so nothing saturates.
inline I DotSigned(I sum, I weights, I four) {
  const __mmask64 negative = _mm512_movepi8_mask(weights.v);
  const __m512i a = _mm512_mask_sub_epi8(four.v, negative, _mm512_setzero_si512(), four.v);
#if defined(__AVX512VNNI__)
  return {_mm512_dpbusd_epi32(sum.v, _mm512_abs_epi8(weights.v), a)};
#else
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights.v), a);
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
#endif
}

inline void StoreI8(int8_t* p, I a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

}  // namespace
}  // namespace alphecca::kernels::cpu

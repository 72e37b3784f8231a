// The vector operations that the kernels are written in, for AVX2 with FMA and F16C. simd_scalar.h says what each does.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace alphecca::kernels::cpu {
namespace {

inline constexpr int kLanes = 8;
inline constexpr int kTileRows = 3;
inline constexpr int kTileVectors = 4;

struct F {
  __m256 v;
};
struct I {
  __m256i v;
};
struct Mask {
  __m256 v;
};

inline F Zero() {
  return {_mm256_setzero_ps()};
}
inline F Set(float x) {
  return {_mm256_set1_ps(x)};
}
inline F Load(const float* p) {
  return {_mm256_loadu_ps(p)};
}
inline __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline F LoadN(const float* p, int n) {
  return {_mm256_maskload_ps(p, FirstLanes(n))};
}
inline void Store(float* p, F x) {
  _mm256_storeu_ps(p, x.v);
}
inline void StoreN(float* p, F x, int n) {
  _mm256_maskstore_ps(p, FirstLanes(n), x.v);
}
inline F Add(F a, F b) {
  return {_mm256_add_ps(a.v, b.v)};
}
inline F Sub(F a, F b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
inline F Mul(F a, F b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
inline F Div(F a, F b) {
  return {_mm256_div_ps(a.v, b.v)};
}
inline F Fma(F a, F b, F c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
inline F Max(F a, F b) {
  return {_mm256_max_ps(a.v, b.v)};
}
inline F Min(F a, F b) {
  return {_mm256_min_ps(a.v, b.v)};
}
inline F Abs(F a) {
  return {_mm256_andnot_ps(_mm256_set1_ps(-0.0F), a.v)};
}
inline F WithSignOf(F magnitude, F sign) {
  return {_mm256_or_ps(magnitude.v, _mm256_and_ps(_mm256_set1_ps(-0.0F), sign.v))};
}
inline Mask Greater(F a, F b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)};
}
inline F Select(Mask m, F yes, F no) {
  return {_mm256_blendv_ps(no.v, yes.v, m.v)};
}
inline uint32_t Bits(Mask m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.v));
}
inline float Sum(F a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float Largest(F a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

inline I Round(F a) {
  return {_mm256_cvtps_epi32(a.v)};
}
inline F ToFloat(I a) {
  return {_mm256_cvtepi32_ps(a.v)};
}
inline F TimesPowerOfTwo(F a, I n) {
  return {
      _mm256_mul_ps(a.v, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.v, _mm256_set1_epi32(127)), 23)))};
}

inline F LoadF16(const std::byte* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline F SetF16(const std::byte* p) {
  uint16_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return {_mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))};
}
inline F LoadBf16(const std::byte* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))};
}
inline void StoreBf16(std::byte* p, F x) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}
inline F LoadI8(const std::byte* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}

// SFP8 in 16-bit arithmetic: both ranges are linear in the code, and the right one has the smaller magnitude. The code
// comes sign-extended, so that its sign already stands at the top.
inline void LoadSfp8(const std::byte* p, F out[2]) {
  const __m256i c = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i low =
      _mm256_add_epi16(_mm256_and_si256(_mm256_slli_epi16(c, 5), _mm256_set1_epi16(static_cast<int16_t>(0x8FE0))),
                       _mm256_set1_epi16(0x3400));
  const __m256i high =
      _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(c, 4), _mm256_set1_epi16(static_cast<int16_t>(0x87F0))),
                      _mm256_set1_epi16(0x3800));
  const __m256i zero = _mm256_cmpeq_epi16(c, _mm256_setzero_si256());  // 0x80, minus nothing, is never written
  const __m256i r = _mm256_permute4x64_epi64(_mm256_andnot_si256(zero, _mm256_min_epu16(low, high)), 0xD8);
  out[0] = {_mm256_castsi256_ps(_mm256_unpacklo_epi16(_mm256_setzero_si256(), r))};
  out[1] = {_mm256_castsi256_ps(_mm256_unpackhi_epi16(_mm256_setzero_si256(), r))};
}

// ---- Bytes, four to a lane ----------------------------------------------------------------------------------------

inline I LoadBytes(const std::byte* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
inline I Four(const int8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, sizeof x);
  return {_mm256_set1_epi32(x)};
}
inline I And(I a, uint8_t mask) {
  return {_mm256_and_si256(a.v, _mm256_set1_epi8(static_cast<char>(mask)))};
}
inline void Settle(I& a) {
  asm("" : "+x"(a.v));
}
inline I Or(I a, I b) {
  return {_mm256_or_si256(a.v, b.v)};
}
template <int kBits>
inline I ShiftRight(I a) {
  return {_mm256_srli_epi32(a.v, kBits)};
}
inline I ShiftRight(I a, int bits) {
  return {_mm256_srl_epi32(a.v, _mm_cvtsi32_si128(bits))};
}
template <int kBits>
inline I ShiftLeft(I a) {
  return {_mm256_slli_epi32(a.v, kBits)};
}
template <int kByte>
inline F UnsignedByte(I a) {
  return ToFloat({_mm256_and_si256(_mm256_srli_epi32(a.v, 8 * kByte), _mm256_set1_epi32(0xFF))});
}
template <int kByte>
inline F SignedByte(I a) {
  return ToFloat({_mm256_srai_epi32(_mm256_slli_epi32(a.v, 24 - 8 * kByte), 24)});
}

// Sums of 16 bits wrap around between, which is harmless: the corrected sum of at most 32 columns fits them.
inline constexpr bool kPairedCorrection = true;

inline I BeginSum(const int32_t* correction) {
  return {_mm256_set1_epi32(*correction)};
}
inline I DotUnsigned(I sum, I weights, I four) {
  return {_mm256_add_epi16(sum.v, _mm256_maddubs_epi16(weights.v, four.v))};
}
inline I EndScaledSum(I sum, const std::byte* scales) {
  const __m128i s = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales));
  return {_mm256_madd_epi16(sum.v, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(s, s)))};
}
// A scale stands twice in its word, for both 16-bit sums of a lane.
inline I DotEight(I w0, I a0, I w1, I a1) {
  return {_mm256_add_epi16(_mm256_maddubs_epi16(w0.v, a0.v), _mm256_maddubs_epi16(w1.v, a1.v))};
}
inline I AddScaled(I sum, I dot, const int32_t* scale) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(dot.v, _mm256_set1_epi32(*scale)))};
}
inline void PutScales(int32_t low, int32_t high, int32_t* to) {
  to[0] = low | low << 16;
  to[1] = high | high << 16;
}
inline I BeginSignedSum() {
  return {_mm256_setzero_si256()};
}
// |w| * (a sign w): no pair of products passes 2 * 128 * 127, so nothing saturates.
inline I DotSigned(I sum, I weights, I four) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights.v), _mm256_sign_epi8(four.v, weights.v));
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}

// Rounds 8 values already in [-127, 127].
inline void StoreI8(int8_t* p, I a) {
  const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(w, w));
}

}  // namespace
}  // namespace alphecca::kernels::cpu

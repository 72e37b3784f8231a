// Products of weights of 4 or 5 bits with activations that have a scale for every 8 columns, a whole multiple of one
// for their row: where sums of bytes are 16 bits wide, the multiplication that widens them takes it as its factor.
// Instruction sets without VNNI; the others have sliced_inl.h.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

struct Q4_0Eights {
  static constexpr int kBlock = 32;
  static constexpr int64_t kGroupBytes = Q4_0::kGroupBytes;

  // The sub-blocks 8 * half.. and 16 + 8 * half.., which two runs hold. Their sums enter that of the block times their
  // scales.
  template <int kTokens>
  static inline void Half(const std::byte* runs, const int8_t* const (&q)[kTokens],
                          const int32_t* const (&scales)[kTokens], I (&sum)[kTokens][kParts]) {
    I weights[2][kParts];
    for (int c = 0; c < 2; ++c) {
      for (int v = 0; v < kParts; ++v) {
        weights[c][v] = And(LoadBytes(runs + c * 4 * kGroupRows + v * 4 * kLanes), 0x0F);
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kParts; ++v) {
        const I dot = DotEight(weights[0][v], Four(q[t]), weights[1][v], Four(q[t] + 4));
        sum[t][v] = AddScaled(sum[t][v], dot, scales[t]);
      }
    }
    for (int c = 0; c < 2; ++c) {
      for (int v = 0; v < kParts; ++v) {
        weights[c][v] = And(ShiftRight<4>(LoadBytes(runs + c * 4 * kGroupRows + v * 4 * kLanes)), 0x0F);
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kParts; ++v) {
        const I dot = DotEight(weights[0][v], Four(q[t] + 16), weights[1][v], Four(q[t] + 20));
        sum[t][v] = AddScaled(sum[t][v], dot, scales[t] + 1);
      }
    }
  }

  template <int kTokens>
  static inline void Block(const std::byte* p, int64_t block, const QuantRow (&rows)[kTokens],
                           F (&total)[kTokens][kParts]) {
    I sum[kTokens][kParts];
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kParts; ++v) {
        sum[t][v] = BeginSum(rows[t].corrections + block);
      }
    }
// Not unrolled: GCC would then hold back the additions and spill their terms.
#pragma GCC unroll 1
    for (int half = 0; half < 2; ++half) {
      const int8_t* q[kTokens];
      const int32_t* scales[kTokens];
      for (int t = 0; t < kTokens; ++t) {
        q[t] = rows[t].q + block * 32 + 8 * half;
        scales[t] = rows[t].scales + block * 4 + 2 * half;
      }
      Half(p + 2 * kGroupRows + half * 8 * kGroupRows, q, scales, sum);
    }
    for (int v = 0; v < kParts; ++v) {
      const F d = LoadF16(p + v * 2 * kLanes);
      for (int t = 0; t < kTokens; ++t) {
        total[t][v] = Fma(ToFloat(sum[t][v]), d, total[t][v]);
      }
    }
  }
};

// A block's minimum meets the sum of its activations, which their record holds as a correction.
template <class Type>
struct MinimaEights {
  static constexpr int kBlock = 256;
  static constexpr int64_t kGroupBytes = Type::kGroupBytes;

  // Sixteen columns of a sub-block, which begin at run c.
  template <int kTokens>
  static inline void Half(const std::byte* block, int sub, int c, const int8_t* const (&q)[kTokens],
                          const int32_t* const (&scales)[kTokens], I (&sum)[kTokens][kParts]) {
    for (int eight = 0; eight < 2; ++eight) {
      I weights[2][kParts];
      for (int i = 0; i < 2; ++i) {
        for (int v = 0; v < kParts; ++v) {
          weights[i][v] = Type::Numbers(block, sub, c + 2 * eight + i, v);
        }
      }
      for (int t = 0; t < kTokens; ++t) {
        const int8_t* at = q[t] + 8 * eight;
        for (int v = 0; v < kParts; ++v) {
          const I dot = DotEight(weights[0][v], Four(at), weights[1][v], Four(at + 4));
          sum[t][v] = AddScaled(sum[t][v], dot, scales[t] + eight);
        }
      }
    }
  }

  template <int kTokens>
  static inline void SubBlock(const std::byte* p, int64_t block, int sub, const QuantRow (&rows)[kTokens],
                              const Minima& minima, F (&total)[kTokens][kParts]) {
    const int64_t at = 8 * block + sub;  // of the row's sub-blocks
    I sum[kTokens][kParts];
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kParts; ++v) {
        sum[t][v] = BeginSignedSum();
      }
    }
// Not unrolled: GCC would then hold back the additions and spill their terms.
#pragma GCC unroll 1
    for (int half = 0; half < 2; ++half) {
      const int8_t* q[kTokens];
      const int32_t* scales[kTokens];
      for (int t = 0; t < kTokens; ++t) {
        q[t] = rows[t].q + at * 32 + 16 * half;
        scales[t] = rows[t].scales + at * 4 + 2 * half;
      }
      Half(p, sub, 4 * half, q, scales, sum);
    }
    for (int t = 0; t < kTokens; ++t) {
      const F activations = Set(0.125F * static_cast<float>(rows[t].corrections[at]));  // minus their sum
      for (int v = 0; v < kParts; ++v) {
        total[t][v] = Fma(ToFloat(sum[t][v]), minima.scale[sub][v], total[t][v]);
        total[t][v] = Fma(activations, minima.minimum[sub][v], total[t][v]);
      }
    }
  }

  template <int kTokens>
  static inline void Block(const std::byte* p, int64_t block, const QuantRow (&rows)[kTokens],
                           F (&total)[kTokens][kParts]) {
    Minima minima;
    LoadMinima(p, minima);
#pragma GCC unroll 1
    for (int sub = 0; sub < 8; ++sub) {
      SubBlock(p, block, sub, rows, minima, total);
    }
  }
};

// ---- Activations --------------------------------------------------------------------------------------------------

inline F LoadEight(const float* x) {
  return kLanes == 8 ? Load(x) : LoadN(x, 8);
}

// q = x * factor of eight numbers, to the nearest. Returns their sum.
inline int32_t RoundEight(const float* x, float factor, int8_t* q) {
  const I rounded = Rounded(LoadEight(x), factor);
  int8_t bytes[kLanes];
  StoreI8(bytes, rounded);
  __builtin_memcpy(q, bytes, 8);
  return static_cast<int32_t>(Sum(ToFloat(rounded)));
}

// See QuantRows. Scales stand in the order in which they are read: first and third of 32 columns together for Q4_0.
void QuantiseFine(const float* in, int64_t cols, DType type, std::byte* record) {
  const QuantRecord at(cols);
  auto* q = reinterpret_cast<int8_t*>(record);
  auto* scales = reinterpret_cast<int32_t*>(record + at.scales);
  auto* corrections = reinterpret_cast<int32_t*>(record + at.corrections);
  float largest = 0.0F;
  for (int64_t eight = 0; eight < cols / 8; ++eight) {
    const float of_eight = Largest(Abs(LoadEight(in + 8 * eight)));
    largest = of_eight > largest ? of_eight : largest;
    __builtin_memcpy(scales + eight, &of_eight, sizeof of_eight);  // until its scale takes the place
  }
  // Below this the smallest steps would be denormal.
  const bool tiny = !(largest > 1e-30F);
  const auto top = static_cast<float>(kLargestScale);
  const float per_step = tiny ? 0.0F : top / largest;
  for (int64_t block = 0; block < cols / 32; ++block) {
    int32_t scale[4];
    int32_t sum = 0;
    for (int i = 0; i < 4; ++i) {
      const int64_t eight = 4 * block + i;
      float steps = 0.0F;
      __builtin_memcpy(&steps, scales + eight, sizeof steps);
      steps *= per_step;  // rounded up, so that no number passes 127
      scale[i] = steps < top ? static_cast<int32_t>(steps) : kLargestScale;
      scale[i] += static_cast<float>(scale[i]) < steps || scale[i] == 0 ? 1 : 0;
      const float factor = 127.0F * per_step / static_cast<float>(scale[i]);
      sum += scale[i] * RoundEight(in + 8 * eight, factor, q + 8 * eight);
    }
    const int second = type == DType::kQ4_0 ? 2 : 1;
    PutScales(scale[0], scale[second], scales + 4 * block);
    PutScales(scale[3 - second], scale[3], scales + 4 * block + 2);
    corrections[block] = -8 * sum;
  }
  const float row_scale = (tiny ? 0.0F : largest / (127.0F * top)) + Poison(in, cols);
  __builtin_memcpy(record + at.row_scale, &row_scale, sizeof row_scale);
}

constexpr void AddFinePanels(KernelTable& t) {
  t.panel_int8[static_cast<int>(DType::kQ4_0)] = Int8Panel<Q4_0Eights, 4>;
  t.panel_int8[static_cast<int>(DType::kQ4_K)] = Int8Panel<MinimaEights<Q4_K>, 4>;
  t.panel_int8[static_cast<int>(DType::kQ5_K)] = Int8Panel<MinimaEights<Q5_K>, 4>;
}

}  // namespace
}  // namespace alphecca::kernels::cpu

// Products of quantised weights with activations in signed bytes; Q4_0, Q4_K and Q5_K in eights_inl.h or sliced_inl.h.
// Integer sums are exact; a block's sum then enters an F32 total by one fused step, block after block, so a row's bits
// depend on nothing but the row.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

inline constexpr int kParts = kGroupRows / kLanes;

// What a panel needs of one row of activations: its record, see QuantRows.
struct QuantRow {
  const int8_t* q;
  const float* d;         // Q8_0, Q6_K
  const int32_t* scales;  // of eights
  const int32_t* corrections;
  float scale;
};
inline QuantRow RecordAt(const std::byte* record, int64_t cols) {
  const QuantRecord at(cols);
  return {reinterpret_cast<const int8_t*>(record), reinterpret_cast<const float*>(record + at.scales),
          reinterpret_cast<const int32_t*>(record + at.scales),
          reinterpret_cast<const int32_t*>(record + at.corrections),
          *reinterpret_cast<const float*>(record + at.row_scale)};
}

// Group layout per block of 32 columns: d f16 [16 rows], then 4 runs of [16 rows][4 bytes]: bytes of run c hold columns
// 4c..4c+3 in their low halves, 16 + 4c.. in their high ones.
struct Q4_0 {
  static constexpr int64_t kGroupBytes = 18 * kGroupRows;
};

// Per block of 32 columns: d f16 [16 rows], then 8 runs of [16 rows][4 columns].
struct Q8_0Int8 {
  static constexpr int kBlock = 32;
  static constexpr int64_t kGroupBytes = 34 * kGroupRows;

  template <int kTokens>
  static inline void Block(const std::byte* p, int64_t block, const QuantRow (&rows)[kTokens],
                           F (&total)[kTokens][kParts]) {
    I sum[kTokens][kParts];
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kParts; ++v) {
        sum[t][v] = BeginSignedSum();
      }
    }
    const std::byte* quads = p + 2 * kGroupRows;
// Not unrolled: GCC would then hold back the additions and spill their terms.
#pragma GCC unroll 1
    for (int c = 0; c < 8; ++c) {
      for (int v = 0; v < kParts; ++v) {
        const I weights = LoadBytes(quads + c * 4 * kGroupRows + v * 4 * kLanes);
        for (int t = 0; t < kTokens; ++t) {
          sum[t][v] = DotSigned(sum[t][v], weights, Four(rows[t].q + block * 32 + 4 * c));
        }
      }
    }
    for (int v = 0; v < kParts; ++v) {
      const F d = LoadF16(p + v * 2 * kLanes);
      for (int t = 0; t < kTokens; ++t) {
        total[t][v] = Fma(ToFloat(sum[t][v]), Mul(d, Set(rows[t].d[block])), total[t][v]);
      }
    }
  }
};

// Per block of 256 columns: d f16 [16 rows]; scales i8 [16 of a row][16 rows]; then for each half of 128 columns and
// k = 0..7 three runs of [16 rows][4 bytes], which give columns 4k.. of the half's four segments of 32: low and high
// halves of run 0 are segments 0 and 2, of run 1 segments 1 and 3, and run 2 holds two more bits for each.
struct Q6_KInt8 {
  static constexpr int kBlock = 256;
  static constexpr int64_t kGroupBytes = 210 * kGroupRows;
  static constexpr int kRun = 4 * kGroupRows;

  // Four columns of each segment, from the three runs of one k.
  static inline void Numbers(const std::byte* p, I (&numbers)[4]) {
    const I a = LoadBytes(p);
    const I b = LoadBytes(p + kRun);
    const I more = LoadBytes(p + 2 * kRun);
    numbers[0] = Or(And(a, 0x0F), And(ShiftLeft<4>(more), 0x30));
    numbers[1] = Or(And(b, 0x0F), And(ShiftLeft<2>(more), 0x30));
    numbers[2] = Or(And(ShiftRight<4>(a), 0x0F), And(more, 0x30));
    numbers[3] = Or(And(ShiftRight<4>(b), 0x0F), And(ShiftRight<2>(more), 0x30));
  }

  // Sixteen columns of each segment: k in [4 * quarter, 4 * quarter + 4).
  template <int kTokens>
  static inline void Quarter(const std::byte* runs, int v, const int8_t* const (&q)[kTokens], I (&sum)[kTokens][4]) {
// Not unrolled: GCC would then hold back the additions and spill their terms.
#pragma GCC unroll 1
    for (int k = 0; k < 4; ++k) {
      I weights[4];
      Numbers(runs + k * 3 * kRun + v * 4 * kLanes, weights);
      for (int t = 0; t < kTokens; ++t) {
        for (int s = 0; s < 4; ++s) {
          sum[t][s] = DotUnsigned(sum[t][s], weights[s], Four(q[t] + 32 * s + 4 * k));
        }
      }
    }
  }

  template <int kTokens>
  static inline void Block(const std::byte* p, int64_t block, const QuantRow (&rows)[kTokens],
                           F (&total)[kTokens][kParts]) {
    const std::byte* scales = p + 2 * kGroupRows;
    const std::byte* runs = scales + 16 * kGroupRows;
    for (int v = 0; v < kParts; ++v) {
      F part[kTokens];
      for (int t = 0; t < kTokens; ++t) {
        part[t] = Zero();
      }
      for (int quarter = 0; quarter < 4; ++quarter) {  // halves 0, 0, 1, 1; first and last 16 of each segment
        const int half = quarter / 2;
        const int which = quarter % 2;
        I sum[kTokens][4];
        const int8_t* q[kTokens];
        for (int t = 0; t < kTokens; ++t) {
          q[t] = rows[t].q + block * 256 + half * 128 + which * 16;
          for (int s = 0; s < 4; ++s) {
            sum[t][s] = BeginSum(rows[t].corrections + block * 16 + half * 8 + 2 * s + which);
          }
        }
        Quarter(runs + quarter * 12 * kRun, v, q, sum);
        for (int s = 0; s < 4; ++s) {
          const std::byte* scale = scales + (half * 8 + 2 * s + which) * kGroupRows + v * kLanes;
          for (int t = 0; t < kTokens; ++t) {
            const F d = Set(rows[t].d[block * 16 + half * 8 + 2 * s + which]);
            part[t] = Fma(ToFloat(EndScaledSum(sum[t][s], scale)), d, part[t]);
          }
        }
      }
      const F d = LoadF16(p + v * 2 * kLanes);
      for (int t = 0; t < kTokens; ++t) {
        total[t][v] = Fma(part[t], d, total[t][v]);
      }
    }
  }
};

// A block of Q6_K with its numbers a byte each: many rows of activations then share what it costs to put them together.
// Sixteens of columns stand in the order in which Q6_KInt8::Block adds up their sums.
struct Q6_KUnpacked {
  I numbers[16][4][kParts];
  const std::byte* scales;
  F d[kParts];
};
inline constexpr int kSixteens[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};

inline void Unpack(const std::byte* p, Q6_KUnpacked& to) {
  to.scales = p + 2 * kGroupRows;
  const std::byte* runs = to.scales + 16 * kGroupRows;
  for (int v = 0; v < kParts; ++v) {
    to.d[v] = LoadF16(p + v * 2 * kLanes);
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int k = 0; k < 4; ++k) {
        I numbers[4];
        Q6_KInt8::Numbers(runs + (4 * quarter + k) * 3 * Q6_KInt8::kRun + v * 4 * kLanes, numbers);
        for (int segment = 0; segment < 4; ++segment) {
          to.numbers[4 * quarter + segment][k][v] = numbers[segment];
        }
      }
    }
  }
}

// The sums of Q6_KInt8::Block, in its order.
template <int kTokens>
inline void UnpackedBlock(const Q6_KUnpacked& w, int64_t block, const QuantRow* rows, F (*total)[kParts]) {
  F part[kTokens][kParts];
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kParts; ++v) {
      part[t][v] = Zero();
    }
  }
#pragma GCC unroll 1
  for (int i = 0; i < 16; ++i) {
    const int64_t at = block * 16 + kSixteens[i];
    I sum[kTokens][kParts];
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kParts; ++v) {
        sum[t][v] = BeginSum(rows[t].corrections + at);
      }
    }
    for (int k = 0; k < 4; ++k) {
      for (int t = 0; t < kTokens; ++t) {
        const I four = Four(rows[t].q + at * 16 + 4 * k);
        for (int v = 0; v < kParts; ++v) {
          sum[t][v] = DotUnsigned(sum[t][v], w.numbers[i][k][v], four);
          Settle(sum[t][v]);
        }
      }
    }
    const std::byte* scales = w.scales + kSixteens[i] * kGroupRows;
    for (int t = 0; t < kTokens; ++t) {
      const F d = Set(rows[t].d[at]);
      for (int v = 0; v < kParts; ++v) {
        part[t][v] = Fma(ToFloat(EndScaledSum(sum[t][v], scales + v * kLanes)), d, part[t][v]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kParts; ++v) {
      total[t][v] = Fma(part[t][v], w.d[v], total[t][v]);
    }
  }
}

// Scales and writes one token's results.
inline void StoreResult(const PanelArgs& a, int64_t token, const F (&total)[kParts]) {
  float* out = a.out + token * a.out_stride;
  for (int v = 0; v < kParts; ++v) {
    F y = Mul(total[v], Set(a.scale));
    if (a.row_scales != nullptr) {
      y = Mul(y, Load(a.row_scales + v * kLanes));
    }
    const int width = a.width - v * kLanes;
    if (width >= kLanes) {
      Store(out + v * kLanes, y);
    } else if (width > 0) {
      StoreN(out + v * kLanes, y, width);
    }
  }
}

// Weights stream from memory faster if asked for well ahead of their use, across the ends of groups, which lie one
// behind another. The last tokens of a panel do so: those before them find the group in the caches.
inline void FetchAhead(const std::byte* block, int64_t bytes) {
  constexpr int64_t kAhead = 8192;
  for (int64_t line = 0; line < bytes; line += 64) {
    __builtin_prefetch(block + kAhead + line, 0, 3);
  }
}

template <class Weights, int kTokens>
void Int8Tokens(const PanelArgs& a, int64_t first) {
  const bool last = first + kTokens == a.tokens;
  QuantRow rows[kTokens];
  F total[kTokens][kParts];
  for (int t = 0; t < kTokens; ++t) {
    rows[t] = RecordAt(a.quant.data + (first + t) * a.quant.stride, a.cols);
    for (int v = 0; v < kParts; ++v) {
      total[t][v] = Zero();
    }
  }
  const std::byte* p = a.group;
  const int64_t blocks = a.cols / Weights::kBlock;
  for (int64_t block = 0; block < blocks; ++block, p += Weights::kGroupBytes) {
    if (last) {
      FetchAhead(p, Weights::kGroupBytes);
    }
    Weights::template Block<kTokens>(p, block, rows, total);
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kParts; ++v) {
      total[t][v] = Mul(total[t][v], Set(rows[t].scale));
    }
    StoreResult(a, first + t, total[t]);
  }
}

template <class Weights, int kMax>
void Int8Panel(const PanelArgs& a) {
  int64_t t = 0;
  for (; t + kMax <= a.tokens; t += kMax) {
    Int8Tokens<Weights, kMax>(a, t);
  }
  if constexpr (kMax > 2) {
    for (; t + 2 <= a.tokens; t += 2) {
      Int8Tokens<Weights, 2>(a, t);
    }
  }
  for (; t < a.tokens; ++t) {
    Int8Tokens<Weights, 1>(a, t);
  }
}

// Q6_K: few rows as other types; of more, slabs that share each block's unpacking.
void Q6_KPanel(const PanelArgs& a) {
  constexpr int kSlab = 32;
  if (a.tokens < 4) {
    Int8Panel<Q6_KInt8, 2>(a);
    return;
  }
  for (int64_t first = 0; first < a.tokens; first += kSlab) {
    const auto tokens = static_cast<int>(a.tokens - first < kSlab ? a.tokens - first : kSlab);
    QuantRow rows[kSlab];
    F total[kSlab][kParts];
    for (int t = 0; t < tokens; ++t) {
      rows[t] = RecordAt(a.quant.data + (first + t) * a.quant.stride, a.cols);
      for (int v = 0; v < kParts; ++v) {
        total[t][v] = Zero();
      }
    }
    const std::byte* p = a.group;
    for (int64_t block = 0; block < a.cols / Q6_KInt8::kBlock; ++block, p += Q6_KInt8::kGroupBytes) {
      Q6_KUnpacked unpacked;
      Unpack(p, unpacked);
      int t = 0;
      for (; t + 4 <= tokens; t += 4) {
        UnpackedBlock<4>(unpacked, block, rows + t, total + t);
      }
      for (; t < tokens; ++t) {
        UnpackedBlock<1>(unpacked, block, rows + t, total + t);
      }
    }
    for (int t = 0; t < tokens; ++t) {
      for (int v = 0; v < kParts; ++v) {
        total[t][v] = Mul(total[t][v], Set(rows[t].scale));
      }
      StoreResult(a, first + t, total[t]);
    }
  }
}

// ---- Activations --------------------------------------------------------------------------------------------------

inline int32_t Correction(const int8_t* q, int count, int offset) {
  int32_t pair[2] = {0, 0};
  for (int i = 0; i < count; ++i) {
    pair[i / 2 % 2] += q[i];
  }
  if constexpr (kPairedCorrection) {
    return static_cast<int32_t>((static_cast<uint32_t>(-offset * pair[0]) & 0xFFFFU) |
                                (static_cast<uint32_t>(-offset * pair[1]) << 16));
  }
  return -offset * (pair[0] + pair[1]);
}

// NaN or infinite if a value of n is, else 0.
inline float Poison(const float* x, int64_t n) {
  F poison = Zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    poison = Fma(Load(x + i), Zero(), poison);
  }
  return Sum(poison);
}

inline I Rounded(F x, float factor) {
  return Round(Min(Max(Mul(x, Set(factor)), Set(-127.0F)), Set(127.0F)));
}

// Q8_0, Q6_K: d = max |x| / 127, q = x / d to the nearest.
template <int kSize>
void QuantiseInBlocks(const float* in, int64_t cols, DType type, std::byte* record) {
  const QuantRecord at(cols);
  auto* q = reinterpret_cast<int8_t*>(record);
  auto* d = reinterpret_cast<float*>(record + at.scales);
  auto* corrections = reinterpret_cast<int32_t*>(record + at.corrections);
  for (int64_t block = 0; block < cols / kSize; ++block) {
    const float* x = in + block * kSize;
    F max = Zero();
    for (int i = 0; i < kSize; i += kLanes) {
      max = Max(max, Abs(Load(x + i)));
    }
    const float largest = Largest(max);
    const bool tiny = !(largest > 1e-36F);  // below this 127 / largest is not finite
    for (int i = 0; i < kSize; i += kLanes) {
      StoreI8(q + block * kSize + i, Rounded(Load(x + i), tiny ? 0.0F : 127.0F / largest));
    }
    d[block] = (tiny ? 0.0F : largest / 127.0F) + Poison(x, kSize);
    if (type == DType::kQ6_K) {
      corrections[block] = Correction(q + block * kSize, kSize, 32);
    }
  }
  const float one = 1.0F;
  __builtin_memcpy(record + at.row_scale, &one, sizeof one);
}

}  // namespace
}  // namespace alphecca::kernels::cpu

// Products of weights of 4 or 5 bits with activations of 12 or 11: two slices of signed bytes, x = d * (2^shift * high
// + low), d for a slab of 256 columns. The instructions for bytes then do twice the work of 8 bits for 16 (8) times
// finer steps, which costs nothing where memory, or the scales of the weights, set the pace; and steps so fine need no
// scale of their own every 32 columns, which would cost a third of what the sums of tiles (tiles_inl.h) take to scale.
//
// Record: SlicedRecord. Block of 32 columns: high [32], low [32], so that a row of a tile is one of it.
//
// For AVX-512 VNNI. A slab's part, from 0, over its blocks in rising order: Fma(sum, scale, part), then for types with
// minima Fma(sum of activations, -minimum, part). A row's total, over slabs in rising order: Fma(part, d, total). Sums
// are exact.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

// Blocks that are unpacked at a time.
inline constexpr int kSlabBlocks = kSlabCols / 32;

// What scales the sums of a slab's blocks.
struct SlabScales {
  F scale[kSlabBlocks];
  F least[kSlabBlocks];  // types with minima: -minimum
};

// Columns 4c.. of a block: numbers of 16 rows, four unsigned bytes each.
struct Q4_0Sliced {
  static constexpr int kShift = 4;
  static constexpr int kOffset = 8;  // weights are numbers less this
  static constexpr bool kMinima = false;
  static constexpr int64_t kSlabBytes = Q4_0::kGroupBytes * kSlabBlocks;  // of a whole slab
  static inline I Numbers(const std::byte* slab, int block, int c) {
    const std::byte* runs = slab + block * Q4_0::kGroupBytes + 2 * kGroupRows;
    return c < 4 ? And(LoadBytes(runs + c * kRunBytes), 0x0F)
                 : And(ShiftRight<4>(LoadBytes(runs + (c - 4) * kRunBytes)), 0x0F);
  }
  static inline void LoadScales(const std::byte* slab, int blocks, SlabScales& to) {
    for (int block = 0; block < blocks; ++block) {
      to.scale[block] = LoadF16(slab + block * Q4_0::kGroupBytes);
    }
  }
};

template <class Type, int kBits>
struct MinimaSliced {
  static constexpr int kShift = kBits;
  static constexpr int kOffset = 0;
  static constexpr bool kMinima = true;
  static constexpr int64_t kSlabBytes = Type::kGroupBytes;
  static inline I Numbers(const std::byte* slab, int block, int c) { return Type::Numbers(slab, block, c, 0); }
  static inline void LoadScales(const std::byte* slab, int, SlabScales& to) {
    Minima minima;
    LoadMinima(slab, minima);
    for (int block = 0; block < kSlabBlocks; ++block) {
      to.scale[block] = minima.scale[block][0];
      to.least[block] = Sub(Zero(), minima.minimum[block][0]);
    }
  }
};
using Q4_KSliced = MinimaSliced<Q4_K, 4>;
using Q5_KSliced = MinimaSliced<Q5_K, 3>;

struct SlicedRow {
  const int8_t* q;
  const int32_t* corrections;  // [cols / 32] -kOffset * sum of a block's numbers..
  const float* sums;           // ..or, of types with minima, that sum
  const float* d;              // [slabs]
};
inline SlicedRow SlicedRecordAt(const std::byte* record, int64_t cols) {
  const SlicedRecord at(cols);
  return {reinterpret_cast<const int8_t*>(record), reinterpret_cast<const int32_t*>(record + at.sums),
          reinterpret_cast<const float*>(record + at.sums), reinterpret_cast<const float*>(record + at.scales)};
}

template <class Type>
inline F AddBlock(I sum, const SlabScales& scales, int block, const float* sum_of, F part) {
  part = Fma(ToFloat(sum), scales.scale[block], part);
  if constexpr (Type::kMinima) {
    part = Fma(Set(*sum_of), scales.least[block], part);
  }
  return part;
}

template <class Type, int kTokens>
inline void SlicedBlock(const std::byte* slab, int block, int64_t at, const SlabScales& scales,
                        const SlicedRow (&rows)[kTokens], F (&part)[kTokens]) {
  // Neighbouring instructions add to different sums: long chains of waiting ones would fill the scheduler.
  constexpr int kChains = kTokens == 1 ? 2 : 1;
  I high[kTokens][kChains];
  I low[kTokens][kChains];
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kChains; ++i) {
      high[t][i] = BeginSignedSum();
      low[t][i] = Type::kOffset != 0 && i == 0 ? BeginSum(rows[t].corrections + at) : BeginSignedSum();
    }
  }
  for (int c = 0; c < 8; ++c) {
    const I numbers = Type::Numbers(slab, block, c);
    for (int t = 0; t < kTokens; ++t) {
      const int8_t* q = rows[t].q + at * 64 + 4 * c;
      high[t][c % kChains] = DotUnsigned(high[t][c % kChains], numbers, Four(q));
      low[t][c % kChains] = DotUnsigned(low[t][c % kChains], numbers, Four(q + 32));
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 1; i < kChains; ++i) {
      high[t][0] = AddInts(high[t][0], high[t][i]);
      low[t][0] = AddInts(low[t][0], low[t][i]);
    }
    const I sum = AddInts(ShiftLeft<Type::kShift>(high[t][0]), low[t][0]);
    part[t] = AddBlock<Type>(sum, scales, block, rows[t].sums + at, part[t]);
  }
}

// As Int8Tokens.
template <class Type, int kTokens>
void SlicedTokens(const PanelArgs& a, int64_t first) {
  const bool last = first + kTokens == a.tokens;
  const int64_t blocks = a.cols / 32;
  SlicedRow rows[kTokens];
  F total[kTokens][kParts];
  for (int t = 0; t < kTokens; ++t) {
    rows[t] = SlicedRecordAt(a.quant.data + (first + t) * a.quant.stride, a.cols);
    total[t][0] = Zero();
  }
  const std::byte* slab = a.group;
  for (int64_t at = 0; at < blocks; at += kSlabBlocks, slab += Type::kSlabBytes) {
    const int here = blocks - at < kSlabBlocks ? static_cast<int>(blocks - at) : kSlabBlocks;
    SlabScales scales;
    Type::LoadScales(slab, here, scales);
    F part[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      part[t] = Zero();
    }
#pragma GCC unroll 1
    for (int block = 0; block < here; ++block) {
      if (last) {
        constexpr int64_t kBlockBytes = Type::kSlabBytes / kSlabBlocks;
        FetchAhead(slab + block * kBlockBytes, kBlockBytes);
      }
      SlicedBlock<Type, kTokens>(slab, block, at + block, scales, rows, part);
    }
    for (int t = 0; t < kTokens; ++t) {
      total[t][0] = Fma(part[t], Set(rows[t].d[at / kSlabBlocks]), total[t][0]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    StoreResult(a, first + t, total[t]);
  }
}

template <class Type>
void SlicedPanel(const PanelArgs& a) {
  int64_t t = 0;
  for (; t + 4 <= a.tokens; t += 4) {
    SlicedTokens<Type, 4>(a, t);
  }
  for (; t + 2 <= a.tokens; t += 2) {
    SlicedTokens<Type, 2>(a, t);
  }
  for (; t < a.tokens; ++t) {
    SlicedTokens<Type, 1>(a, t);
  }
}

// Of a block: its slices, and the sum of its numbers.
template <int kShift>
inline int32_t SliceBlock(const float* in, float factor, int8_t* q) {
  constexpr auto kTop = static_cast<float>(127 << kShift);
  I sum = BeginSignedSum();
  for (int i = 0; i < 32; i += kLanes) {
    const I number = Round(Min(Max(Mul(Load(in + i), Set(factor)), Set(-kTop)), Set(kTop)));
    const I high = ShiftRightSigned<kShift>(AddInts(number, SetInt(1 << (kShift - 1))));
    StoreI8(q + i, high);
    StoreI8(q + 32 + i, SubInts(number, ShiftLeft<kShift>(high)));
    sum = AddInts(sum, number);
  }
  return SumInts(sum);
}

// A value that is not finite makes the scale of its slab NaN.
template <class Type>
void Slice(const float* in, int64_t cols, std::byte* record) {
  constexpr auto kTop = static_cast<float>(127 << Type::kShift);
  const SlicedRecord at(cols);
  auto* q = reinterpret_cast<int8_t*>(record);
  for (int64_t first = 0; first < cols; first += kSlabCols) {
    const int64_t end = first + kSlabCols < cols ? first + kSlabCols : cols;
    F max = Zero();
    for (int64_t i = first; i < end; i += kLanes) {
      max = Max(max, Abs(Load(in + i)));
    }
    const float largest = Largest(max);
    const bool tiny = !(largest > 1e-32F);  // below this kTop / largest is not finite
    const float factor = tiny ? 0.0F : kTop / largest;
    for (int64_t i = first; i < end; i += 32) {
      const int32_t sum = SliceBlock<Type::kShift>(in + i, factor, q + 2 * i);
      std::byte* to = record + at.sums + i / 32 * 4;
      if constexpr (Type::kMinima) {
        const auto value = static_cast<float>(sum);
        __builtin_memcpy(to, &value, sizeof value);
      } else {
        const int32_t correction = -Type::kOffset * sum;
        __builtin_memcpy(to, &correction, sizeof correction);
      }
    }
    const float d = (tiny ? 0.0F : largest / kTop) + Poison(in + first, end - first);
    __builtin_memcpy(record + at.scales + first / kSlabCols * 4, &d, sizeof d);
  }
}

void QuantiseFine(const float* in, int64_t cols, DType type, std::byte* record) {
  if (type == DType::kQ4_0) {
    Slice<Q4_0Sliced>(in, cols, record);
  } else if (type == DType::kQ4_K) {
    Slice<Q4_KSliced>(in, cols, record);
  } else {
    Slice<Q5_KSliced>(in, cols, record);
  }
}

constexpr void AddFinePanels(KernelTable& t) {
  t.panel_int8[static_cast<int>(DType::kQ4_0)] = SlicedPanel<Q4_0Sliced>;
  t.panel_int8[static_cast<int>(DType::kQ4_K)] = SlicedPanel<Q4_KSliced>;
  t.panel_int8[static_cast<int>(DType::kQ5_K)] = SlicedPanel<Q5_KSliced>;
}

}  // namespace
}  // namespace alphecca::kernels::cpu

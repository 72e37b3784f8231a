// The products of sliced_inl.h for many rows of activations, by AMX: 16 of them times 16 rows of a matrix, 32 columns
// in two slices, one instruction. Sums are exact, and what follows them is AddBlock, so the bits are those of
// SlicedPanel.
//
// A tile of weights has a row for each four columns, first times 2^shift, then as they are: [2][8][16 rows][4 bytes].
// It is made once for all tokens of a panel. Loops, from outside: groups by kMaxGroups; slabs; pairs of groups, whose
// weights the first-level cache holds; 16 tokens. Totals wait in between.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

inline constexpr int kTileTokens = 16;
inline constexpr int kPair = 2;

struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 and 1: sums, 2 and 3: activations, 4 and 5: weights; two of each, so that one product begins before the other
// is stored.
inline void ConfigureTiles(int tokens) {
  TileShapes shapes;
  for (int i = 0; i < 6; ++i) {
    shapes.row_bytes[i] = 64;
    shapes.rows[i] = static_cast<uint8_t>(i < 4 ? tokens : 16);
  }
  asm volatile("" : : "m"(shapes));  // GCC 12 thinks that 8 bytes are read
  _tile_loadconfig(&shapes);
}

struct SlabTiles {
  alignas(64) int8_t weights[kSlabBlocks][16][64];
  SlabScales scales;
};

template <class Type>
inline void MakeTiles(const std::byte* slab, int blocks, SlabTiles& to) {
  Type::LoadScales(slab, blocks, to.scales);
  for (int block = 0; block < blocks; ++block) {
    for (int c = 0; c < 8; ++c) {
      I numbers = Type::Numbers(slab, block, c);
      if constexpr (Type::kOffset != 0) {
        numbers = SubBytes(numbers, Type::kOffset);
      }
      StoreBytes(to.weights[block][8 + c], numbers);
      StoreBytes(to.weights[block][c],
                 And(ShiftLeft<Type::kShift>(numbers), static_cast<uint8_t>(0xFF << Type::kShift)));
    }
  }
}

using TileSums = int32_t[kTileTokens][kGroupRows];

// Begins the product of a block in sum tile kTile.
template <class Type, int kTile>
inline void BeginProduct(const SlabTiles& w, int block, const int8_t* activations, int64_t stride) {
  static_assert(kTile == 0 || kTile == 1);
  if constexpr (kTile == 0) {
    _tile_zero(0);
    _tile_loadd(2, activations + block * 64, stride);
    _tile_loadd(4, w.weights[block], 64);
    if constexpr (Type::kOffset != 0) {
      _tile_dpbssd(0, 2, 4);
    } else {
      _tile_dpbsud(0, 2, 4);
    }
  } else {
    _tile_zero(1);
    _tile_loadd(3, activations + block * 64, stride);
    _tile_loadd(5, w.weights[block], 64);
    if constexpr (Type::kOffset != 0) {
      _tile_dpbssd(1, 3, 5);
    } else {
      _tile_dpbsud(1, 3, 5);
    }
  }
}

template <class Type, int kTokens>
inline void AddSums(const SlabTiles& w, int block, const TileSums& sums, const float* const (&activations)[kTokens],
                    F (&part)[kTokens]) {
  for (int t = 0; t < kTokens; ++t) {
    const I sum = LoadBytes(reinterpret_cast<const std::byte*>(sums[t]));
    AddBlock<Type>(sum, w.scales, block, activations[t] + block, part[t]);
  }
}

// kTokens rows from `first` on times a slab: joins their totals.
template <class Type, int kTokens>
inline void TileSlab(const PanelArgs& a, const SlabTiles& w, int blocks, int64_t slab, int64_t first,
                     float (*total)[kGroupRows]) {
  const float* sums_of[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    sums_of[t] = SlicedAt(a, first + t).sums + slab * kSlabBlocks;
  }
  const int8_t* q = SlicedAt(a, first).q + slab * kSlabBlocks * 64;
  F part[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    part[t] = Zero();
  }
  // A product is stored once the next has begun, and added up while that one runs.
  alignas(64) TileSums even;
  alignas(64) TileSums odd;
  BeginProduct<Type, 0>(w, 0, q, a.quant.stride);
#pragma GCC unroll 1
  for (int block = 0; block < blocks; block += 2) {
    if (block + 1 < blocks) {
      BeginProduct<Type, 1>(w, block + 1, q, a.quant.stride);
    }
    _tile_stored(0, even, 64);
    if (block > 0) {
      AddSums<Type, kTokens>(w, block - 1, odd, sums_of, part);
    }
    if (block + 2 < blocks) {
      BeginProduct<Type, 0>(w, block + 2, q, a.quant.stride);
    }
    if (block + 1 < blocks) {
      _tile_stored(1, odd, 64);
    }
    AddSums<Type, kTokens>(w, block, even, sums_of, part);
  }
  if (blocks % 2 == 0) {
    AddSums<Type, kTokens>(w, blocks - 1, odd, sums_of, part);
  }
  for (int t = 0; t < kTokens; ++t) {
    const F d = Set(SlicedAt(a, first + t).d[slab]);
    Store(total[t], Fma(part[t], d, Load(total[t])));
  }
}

// TileSlab for a number that is known at run time only.
template <class Type, int kTokens = kTileTokens>
inline void TileSlabOf(int tokens, const PanelArgs& a, const SlabTiles& w, int blocks, int64_t slab, int64_t first,
                       float (*total)[kGroupRows]) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) {
      TileSlabOf<Type, kTokens - 1>(tokens, a, w, blocks, slab, first, total);
      return;
    }
  }
  TileSlab<Type, kTokens>(a, w, blocks, slab, first, total);
}

struct TileTotals {
  alignas(64) float of[kMaxGroups][kMaxTokens][kGroupRows];
};

// All of a panel's tokens times groups [begin, end), a pair at most, of one slab.
template <class Type>
void TilePair(const PanelArgs& a, int64_t begin, int64_t end, int64_t slab, SlabTiles* tiles, TileTotals& totals) {
  const int64_t blocks = a.cols / 32;
  const int64_t group_bytes = Type::kSlabBytes * blocks / kSlabBlocks;
  const int64_t left = blocks - slab * kSlabBlocks;
  const int here = left < kSlabBlocks ? static_cast<int>(left) : kSlabBlocks;
  for (int64_t group = begin; group < end; ++group) {
    const std::byte* at = a.group + group * group_bytes + slab * Type::kSlabBytes;
    for (int64_t line = 0; line < Type::kSlabBytes; line += 64) {
      __builtin_prefetch(at + Type::kSlabBytes + line, 0, 2);  // the slab that follows
    }
    MakeTiles<Type>(at, here, tiles[group - begin]);
  }
  const int64_t whole = a.tokens / kTileTokens * kTileTokens;
  const auto rest = static_cast<int>(a.tokens - whole);
  if (whole > 0) {
    ConfigureTiles(kTileTokens);
    for (int64_t first = 0; first < whole; first += kTileTokens) {
      for (int64_t group = begin; group < end; ++group) {
        TileSlab<Type, kTileTokens>(a, tiles[group - begin], here, slab, first, totals.of[group] + first);
      }
    }
  }
  if (rest > 0) {
    ConfigureTiles(rest);
    for (int64_t group = begin; group < end; ++group) {
      TileSlabOf<Type>(rest, a, tiles[group - begin], here, slab, whole, totals.of[group] + whole);
    }
  }
}

template <class Type>
void TilePanel(const PanelArgs& a) {
  SlabTiles tiles[kPair];
  TileTotals totals;
  for (int64_t group = 0; group < a.groups; ++group) {
    __builtin_memset(totals.of[group], 0, static_cast<size_t>(a.tokens) * sizeof totals.of[0][0]);
  }
  const int64_t slabs = (a.cols + kSlabCols - 1) / kSlabCols;
  for (int64_t slab = 0; slab < slabs; ++slab) {
    for (int64_t group = 0; group < a.groups; group += kPair) {
      const int64_t end = group + kPair < a.groups ? group + kPair : a.groups;
      TilePair<Type>(a, group, end, slab, tiles, totals);
    }
  }
  _tile_release();
  for (int64_t group = 0; group < a.groups; ++group) {
    PanelArgs one = a;
    one.out += group * kGroupRows;
    one.width = group + 1 < a.groups ? kGroupRows : a.width;
    for (int64_t t = 0; t < a.tokens; ++t) {
      const F total[kParts] = {Load(totals.of[group][t])};
      StoreResult(one, t, total);
    }
  }
}

constexpr KernelTable MakeTiledTable(const char* name) {
  KernelTable t = MakeTable(name);
  t.tiles_int8[static_cast<int>(DType::kQ4_0)] = TilePanel<Q4_0Sliced>;
  t.tiles_int8[static_cast<int>(DType::kQ4_K)] = TilePanel<Q4_KSliced>;
  t.tiles_int8[static_cast<int>(DType::kQ5_K)] = TilePanel<Q5_KSliced>;
  return t;
}

}  // namespace
}  // namespace alphecca::kernels::cpu

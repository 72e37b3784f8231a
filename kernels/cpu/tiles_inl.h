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

// Bits of each byte: bit i of the result is bit i of kFlip, inverted for each bit of x that row i of the matrix has;
// row 0 is the highest byte of `matrix`.
template <uint8_t kFlip>
inline I MapBitsAndFlip(I x, uint64_t matrix) {
  return {_mm512_gf2p8affine_epi64_epi8(x.v, _mm512_set1_epi64(static_cast<int64_t>(matrix)), kFlip)};
}

// Q4_0: w = number - 8, that is, the number's highest bit inverted, as the sign.
inline void MakeTile(Q4_0Sliced, const std::byte* slab, int block, int8_t (&to)[16][64]) {
  const std::byte* runs = slab + block * Q4_0::kGroupBytes + 2 * kGroupRows;
  for (int c = 0; c < 4; ++c) {
    const I both = LoadBytes(runs + c * kRunBytes);
    StoreBytes(to[c], MapBitsAndFlip<0x80>(both, 0x0000000001020408));       // low half, times 16
    StoreBytes(to[4 + c], MapBitsAndFlip<0x80>(both, 0x0000000010204080));   // high half, times 16
    StoreBytes(to[8 + c], MapBitsAndFlip<0xF8>(both, 0x0102040808080808));   // low half
    StoreBytes(to[12 + c], MapBitsAndFlip<0xF8>(both, 0x1020408080808080));  // high half
  }
}
template <class Type>
inline void MakeTile(Type, const std::byte* slab, int block, int8_t (&to)[16][64]) {
  for (int c = 0; c < 8; ++c) {
    const I numbers = Type::Numbers(slab, block, c);
    StoreBytes(to[c], ShiftLeft<Type::kShift>(numbers));  // of at most 7 - kShift bits: none reaches the next byte
    StoreBytes(to[8 + c], numbers);
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

// Where a panel stands.
template <class Type>
struct SlabOfGroup {
  const std::byte* weights;
  int64_t slab;
  int blocks;
};

// kTokens rows from `first` on times a slab: joins their totals. kMake: makes the tiles too, a little ahead of their
// use, so that all parts of the processor have work.
template <class Type, int kTokens, bool kMake>
inline void TileSlab(const PanelArgs& a, const SlabOfGroup<Type>& at, int64_t first, SlabTiles& w,
                     float (*total)[kGroupRows]) {
  constexpr int kAhead = 3;
  const auto make = [&](int block) {
    if (kMake && block < at.blocks) {
      MakeTile(Type(), at.weights, block, w.weights[block]);
    }
  };
  if constexpr (kMake) {
    Type::LoadScales(at.weights, at.blocks, w.scales);
  }
  const float* sums_of[kTokens];
  F part[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    sums_of[t] = SlicedAt(a, first + t).sums + at.slab * kSlabBlocks;
    part[t] = Zero();
  }
  const int8_t* q = SlicedAt(a, first).q + at.slab * kSlabBlocks * 64;
  for (int block = 0; block < kAhead; ++block) {
    make(block);
  }
  // A product is stored once the next has begun, and added up while that one runs.
  alignas(64) TileSums even;
  alignas(64) TileSums odd;
  BeginProduct<Type, 0>(w, 0, q, a.quant.stride);
#pragma GCC unroll 1
  for (int block = 0; block < at.blocks; block += 2) {
    if (block + 1 < at.blocks) {
      BeginProduct<Type, 1>(w, block + 1, q, a.quant.stride);
    }
    make(block + kAhead);
    _tile_stored(0, even, 64);
    if (block > 0) {
      AddSums<Type, kTokens>(w, block - 1, odd, sums_of, part);
    }
    if (block + 2 < at.blocks) {
      BeginProduct<Type, 0>(w, block + 2, q, a.quant.stride);
    }
    make(block + kAhead + 1);
    if (block + 1 < at.blocks) {
      _tile_stored(1, odd, 64);
    }
    AddSums<Type, kTokens>(w, block, even, sums_of, part);
  }
  if (at.blocks % 2 == 0) {
    AddSums<Type, kTokens>(w, at.blocks - 1, odd, sums_of, part);
  }
  for (int t = 0; t < kTokens; ++t) {
    const F d = Set(SlicedAt(a, first + t).d[at.slab]);
    Store(total[t], Fma(part[t], d, Load(total[t])));
  }
}

struct TileTotals {
  alignas(64) float of[kMaxGroups][kMaxTokens][kGroupRows];
};

// All of a panel's tokens, in tiles of kTokens, times groups [begin, end), a pair at most, of one slab.
template <class Type, int kTokens>
void TilePair(const PanelArgs& a, int64_t begin, int64_t end, int64_t slab, SlabTiles* tiles, TileTotals& totals) {
  const int64_t blocks = a.cols / 32;
  const int64_t group_bytes = Type::kSlabBytes * blocks / kSlabBlocks;
  const int64_t left = blocks - slab * kSlabBlocks;
  SlabOfGroup<Type> at[kPair];
  for (int64_t group = begin; group < end; ++group) {
    const std::byte* weights = a.group + group * group_bytes + slab * Type::kSlabBytes;
    at[group - begin] = {weights, slab, left < kSlabBlocks ? static_cast<int>(left) : kSlabBlocks};
    for (int64_t line = 0; line < Type::kSlabBytes; line += 64) {
      __builtin_prefetch(weights + Type::kSlabBytes + line, 0, 2);  // the slab that follows
    }
    TileSlab<Type, kTokens, true>(a, at[group - begin], 0, tiles[group - begin], totals.of[group]);
  }
  for (int64_t first = kTokens; first < a.tokens; first += kTokens) {
    for (int64_t group = begin; group < end; ++group) {
      TileSlab<Type, kTokens, false>(a, at[group - begin], first, tiles[group - begin], totals.of[group] + first);
    }
  }
}

template <class Type, int kTokens>
void TilesOf(const PanelArgs& a) {
  SlabTiles tiles[kPair];
  TileTotals totals;
  for (int64_t group = 0; group < a.groups; ++group) {
    __builtin_memset(totals.of[group], 0,
                     static_cast<size_t>(a.tokens + kTokens - 1) / kTokens * kTokens * sizeof totals.of[0][0]);
  }
  ConfigureTiles(kTokens);
  const int64_t slabs = (a.cols + kSlabCols - 1) / kSlabCols;
  for (int64_t slab = 0; slab < slabs; ++slab) {
    for (int64_t group = 0; group < a.groups; group += kPair) {
      const int64_t end = group + kPair < a.groups ? group + kPair : a.groups;
      TilePair<Type, kTokens>(a, group, end, slab, tiles, totals);
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

// Records that fill the last tile are read, whatever they hold, and what comes of them is dropped.
template <class Type>
void TilePanel(const PanelArgs& a) {
  if (a.tokens <= kTileTokens / 2) {
    TilesOf<Type, kTileTokens / 2>(a);
  } else {
    TilesOf<Type, kTileTokens>(a);
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

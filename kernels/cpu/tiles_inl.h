// Products for many rows of activations by AMX: 16 of them times a block of 16 rows of a matrix, one instruction. Sums
// are exact, and what follows them is what the panels for few rows do, in their order, so the bits are theirs.
//
// Weights are unpacked to tiles once for all tokens of a panel: a row for each four columns, [16 rows][4 bytes]. Loops,
// from outside: slabs; pairs of groups, whose tiles the first-level cache holds; tiles of tokens. Totals wait in
// between.
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
template <class Type>
inline void ConfigureTiles(int tokens) {
  TileShapes shapes;
  for (int i = 0; i < 6; ++i) {
    shapes.row_bytes[i] = i == 2 || i == 3 ? Type::kTileRows * 4 : 64;
    shapes.rows[i] = static_cast<uint8_t>(i < 4 ? tokens : Type::kTileRows);
  }
  asm volatile("" : : "m"(shapes));  // GCC 12 thinks that 8 bytes are read
  _tile_loadconfig(&shapes);
}

using TileSums = int32_t[kTileTokens][kGroupRows];
inline F SumsOf(const TileSums& sums, int t) {
  return ToFloat(LoadBytes(reinterpret_cast<const std::byte*>(sums[t])));
}

// ---- Types ----------------------------------------------------------------------------------------------------------
// kBlocks: of a slab, whose sums are scaled apart. kTileRows: of a block's tile of weights. kMakes: tiles that Make
// makes at once. kSigned: weights. kPart: a slab's sums gather in a part of their own, which Join adds to the total.

// Bits of each byte: bit i of the result is bit i of kFlip, inverted for each bit of x that row i of the matrix has;
// row 0 is the highest byte of `matrix`.
template <uint8_t kFlip>
inline I MapBitsAndFlip(I x, uint64_t matrix) {
  return {_mm512_gf2p8affine_epi64_epi8(x.v, _mm512_set1_epi64(static_cast<int64_t>(matrix)), kFlip)};
}

// The products of sliced_inl.h: columns first times 2^shift, then as they are, against both slices of activations.
// Q4_0: w = number - 8, that is, the number's highest bit inverted, as the sign.
inline void MakeTile(Q4_0Sliced, const std::byte* slab, int block, int8_t (*to)[64]) {
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
inline void MakeTile(Type, const std::byte* slab, int block, int8_t (*to)[64]) {
  for (int c = 0; c < 8; ++c) {
    const I numbers = Type::Numbers(slab, block, c);
    StoreBytes(to[c], ShiftLeft<Type::kShift>(numbers));  // of at most 8 - kShift bits: none reaches the next byte
    StoreBytes(to[8 + c], numbers);
  }
}

template <class Type>
struct SlicedTiles {
  static constexpr int64_t kSlabBytes = Type::kSlabBytes;
  static constexpr int kBlocks = kSlabBlocks;
  static constexpr int kTileRows = 16;
  static constexpr int kMakes = 1;
  static constexpr bool kSigned = Type::kOffset != 0;
  static constexpr bool kPart = false;
  using Scales = SlabScales;
  using Factor = BlockScale;
  static inline void LoadScales(const std::byte* slab, int blocks, Scales& to) { Type::LoadScales(slab, blocks, to); }
  static inline void Make(const std::byte* slab, int block, int8_t (*to)[64]) { MakeTile(Type(), slab, block, to); }
  static inline const int8_t* Activations(const PanelArgs& a, int64_t token, int64_t slab) {
    return SlicedAt(a, token).q + slab * kSlabBlocks * 64;
  }
  static constexpr int Place(int block) { return 64 * block; }
  static inline const BlockScale* Factors(const PanelArgs& a, int64_t token, int64_t slab) {
    return SlicedAt(a, token).scales + slab * kSlabBlocks;
  }
  static inline void Add(const TileSums& sums, int t, const Scales& scales, int block, const BlockScale* factors,
                         F& total) {
    const I sum = LoadBytes(reinterpret_cast<const std::byte*>(sums[t]));
    AddBlock<Type>(sum, scales, block, factors[block], total);
  }
};

struct Q8_0Tiles {
  static constexpr int64_t kSlabBytes = Q8_0Int8::kGroupBytes * kSlabBlocks;
  static constexpr int kBlocks = kSlabBlocks;
  static constexpr int kTileRows = 8;
  static constexpr int kMakes = 1;
  static constexpr bool kSigned = true;
  static constexpr bool kPart = false;
  using Scales = F[kBlocks];
  using Factor = float;
  static inline void LoadScales(const std::byte* slab, int blocks, Scales& to) {
    for (int block = 0; block < blocks; ++block) {
      to[block] = LoadF16(slab + block * Q8_0Int8::kGroupBytes);
    }
  }
  static inline void Make(const std::byte* slab, int block, int8_t (*to)[64]) {
    const std::byte* runs = slab + block * Q8_0Int8::kGroupBytes + 2 * kGroupRows;
    for (int c = 0; c < kTileRows; ++c) {
      StoreBytes(to[c], LoadBytes(runs + c * kRunBytes));
    }
  }
  static inline const int8_t* Activations(const PanelArgs& a, int64_t token, int64_t slab) {
    return RecordAt(a.quant.data + token * a.quant.stride, a.cols).q + slab * kSlabCols;
  }
  static constexpr int Place(int block) { return 32 * block; }
  static inline const float* Factors(const PanelArgs& a, int64_t token, int64_t slab) {
    return RecordAt(a.quant.data + token * a.quant.stride, a.cols).d + slab * kBlocks;
  }
  static inline void Add(const TileSums& sums, int t, const Scales& d, int block, const float* factors, F& total) {
    total = Fma(SumsOf(sums, t), Mul(d[block], Set(factors[block])), total);
  }
};

// Blocks of 16 columns, in the order of kSixteens.
struct Q6_KTiles {
  static constexpr int64_t kSlabBytes = Q6_KInt8::kGroupBytes;
  static constexpr int kBlocks = 16;
  static constexpr int kTileRows = 4;
  static constexpr int kMakes = 4;
  static constexpr bool kSigned = true;
  static constexpr bool kPart = true;
  struct Scales {
    F scale[kBlocks];
    F d;
  };
  using Factor = float;
  static inline void LoadScales(const std::byte* slab, int, Scales& to) {
    to.d = LoadF16(slab);
    for (int block = 0; block < kBlocks; ++block) {
      to.scale[block] = LoadI8(slab + (2 + kSixteens[block]) * kGroupRows);
    }
  }
  static inline void Make(const std::byte* slab, int block, int8_t (*to)[64]) {
    const std::byte* runs = slab + 18 * kGroupRows + block * 3 * Q6_KInt8::kRun;
    for (int c = 0; c < kTileRows; ++c) {
      I numbers[4];
      Q6_KInt8::Numbers(runs + c * 3 * Q6_KInt8::kRun, numbers);
      for (int segment = 0; segment < 4; ++segment) {
        StoreBytes(to[segment * kTileRows + c], SubBytes(numbers[segment], 32));
      }
    }
  }
  static inline const int8_t* Activations(const PanelArgs& a, int64_t token, int64_t slab) {
    return RecordAt(a.quant.data + token * a.quant.stride, a.cols).q + slab * kSlabCols;
  }
  static constexpr int Place(int block) { return 16 * kSixteens[block]; }
  static inline const float* Factors(const PanelArgs& a, int64_t token, int64_t slab) {
    return RecordAt(a.quant.data + token * a.quant.stride, a.cols).d + slab * kBlocks;
  }
  // A sum times its scale is below 2^24: exact in F32 as in the integers of Q6_KInt8.
  static inline void Add(const TileSums& sums, int t, const Scales& scales, int block, const float* factors, F& part) {
    part = Fma(Mul(SumsOf(sums, t), scales.scale[block]), Set(factors[kSixteens[block]]), part);
  }
  static inline F Join(const Scales& scales, F part, F total) { return Fma(part, scales.d, total); }
};

// ---- Panels ---------------------------------------------------------------------------------------------------------

template <class Type>
struct SlabTiles {
  alignas(64) int8_t weights[Type::kBlocks * Type::kTileRows][64];
  typename Type::Scales scales;
};

// Begins the product of a block in sum tile kTile.
template <class Type, int kTile>
inline void BeginProduct(const SlabTiles<Type>& w, int block, const int8_t* activations, int64_t stride) {
  static_assert(kTile == 0 || kTile == 1);
  const int8_t* of_block = activations + Type::Place(block);
  const auto* weights = w.weights + block * Type::kTileRows;
  if constexpr (kTile == 0) {
    _tile_zero(0);
    _tile_loadd(2, of_block, stride);
    _tile_loadd(4, weights, 64);
    if constexpr (Type::kSigned) {
      _tile_dpbssd(0, 2, 4);
    } else {
      _tile_dpbsud(0, 2, 4);
    }
  } else {
    _tile_zero(1);
    _tile_loadd(3, of_block, stride);
    _tile_loadd(5, weights, 64);
    if constexpr (Type::kSigned) {
      _tile_dpbssd(1, 3, 5);
    } else {
      _tile_dpbsud(1, 3, 5);
    }
  }
}

template <class Type, int kTokens>
inline void AddSums(const SlabTiles<Type>& w, int block, const TileSums& sums,
                    const typename Type::Factor* const (&factors)[kTokens], F (&part)[kTokens]) {
  for (int t = 0; t < kTokens; ++t) {
    Type::Add(sums, t, w.scales, block, factors[t], part[t]);
  }
}

// A slab of the weights of one group.
template <class Type>
struct SlabOfGroup {
  const std::byte* weights;
  int64_t slab;
  int blocks;
};

// kTokens rows from `first` on times a slab: joins their totals. kMake: makes the tiles too, a little ahead of their
// use, so that all parts of the processor have work.
template <class Type, int kTokens, bool kMake>
inline void TileSlab(const PanelArgs& a, const SlabOfGroup<Type>& at, int64_t first, SlabTiles<Type>& w,
                     float (*total)[kGroupRows]) {
  constexpr int kAhead = 4;
  const auto make = [&](int block) {
    if (kMake && block < at.blocks && block % Type::kMakes == 0) {
      Type::Make(at.weights, block, w.weights + block * Type::kTileRows);
    }
  };
  if constexpr (kMake) {
    Type::LoadScales(at.weights, at.blocks, w.scales);
  }
  const typename Type::Factor* factors[kTokens];
  F part[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    factors[t] = Type::Factors(a, first + t, at.slab);
    part[t] = Type::kPart ? Zero() : Load(total[t]);
  }
  const int8_t* q = Type::Activations(a, first, at.slab);
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
      AddSums<Type, kTokens>(w, block - 1, odd, factors, part);
    }
    if (block + 2 < at.blocks) {
      BeginProduct<Type, 0>(w, block + 2, q, a.quant.stride);
    }
    make(block + kAhead + 1);
    if (block + 1 < at.blocks) {
      _tile_stored(1, odd, 64);
    }
    AddSums<Type, kTokens>(w, block, even, factors, part);
  }
  if (at.blocks % 2 == 0) {
    AddSums<Type, kTokens>(w, at.blocks - 1, odd, factors, part);
  }
  for (int t = 0; t < kTokens; ++t) {
    if constexpr (Type::kPart) {
      part[t] = Type::Join(w.scales, part[t], Load(total[t]));
    }
    Store(total[t], part[t]);
  }
}

struct TileTotals {
  alignas(64) float of[kMaxGroups][kMaxTokens][kGroupRows];
};

// All of a panel's tokens, in tiles of kTokens, times groups [begin, end), a pair at most, of one slab.
template <class Type, int kTokens>
void TilePair(const PanelArgs& a, int64_t begin, int64_t end, int64_t slab, SlabTiles<Type>* tiles,
              TileTotals& totals) {
  constexpr int64_t kBlockCols = kSlabCols / Type::kBlocks;
  const int64_t blocks = a.cols / kBlockCols;
  const int64_t group_bytes = Type::kSlabBytes * blocks / Type::kBlocks;
  const int64_t left = blocks - slab * Type::kBlocks;
  SlabOfGroup<Type> at[kPair];
  for (int64_t group = begin; group < end; ++group) {
    const std::byte* weights = a.group + group * group_bytes + slab * Type::kSlabBytes;
    at[group - begin] = {weights, slab, left < Type::kBlocks ? static_cast<int>(left) : Type::kBlocks};
    for (int64_t line = 0; line < Type::kSlabBytes; line += 64) {
      __builtin_prefetch(weights + 2 * Type::kSlabBytes + line, 0, 2);  // the slab after the next
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
  SlabTiles<Type> tiles[kPair];
  TileTotals totals;
  for (int64_t group = 0; group < a.groups; ++group) {
    __builtin_memset(totals.of[group], 0,
                     static_cast<size_t>(a.tokens + kTokens - 1) / kTokens * kTokens * sizeof totals.of[0][0]);
  }
  ConfigureTiles<Type>(kTokens);
  const int64_t slabs = (a.cols + kSlabCols - 1) / kSlabCols;
  // Of few tokens memory sets the pace, and likes one group after another.
  const int64_t together = a.tokens > kTokens ? a.groups : 1;
  for (int64_t first = 0; first < a.groups; first += together) {
    for (int64_t slab = 0; slab < slabs; ++slab) {
      for (int64_t group = first; group < first + together; group += kPair) {
        const int64_t end = group + kPair < first + together ? group + kPair : first + together;
        TilePair<Type, kTokens>(a, group, end, slab, tiles, totals);
      }
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
  t.tiles_int8[static_cast<int>(DType::kQ4_0)] = TilePanel<SlicedTiles<Q4_0Sliced>>;
  t.tiles_int8[static_cast<int>(DType::kQ8_0)] = TilePanel<Q8_0Tiles>;
  t.tiles_int8[static_cast<int>(DType::kQ4_K)] = TilePanel<SlicedTiles<Q4_KSliced>>;
  t.tiles_int8[static_cast<int>(DType::kQ5_K)] = TilePanel<SlicedTiles<Q5_KSliced>>;
  t.tiles_int8[static_cast<int>(DType::kQ6_K)] = TilePanel<Q6_KTiles>;
  return t;
}

}  // namespace
}  // namespace alphecca::kernels::cpu

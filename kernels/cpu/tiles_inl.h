// Products for many rows of activations by AMX: 16 of them times a block of 16 rows of a matrix, one instruction. Sums
// are exact, and what follows them is what the panels for few rows do, in their order, so the bits are theirs.
//
// Weights are unpacked to tiles once for all tokens of a panel: a row for each four columns, [16 rows][4 bytes]. Loops,
// from outside: stretches of a few slabs; pairs of groups; pairs of tiles of tokens; blocks, four products of which
// share their loads. Totals wait in between, which costs less the longer the stretches are.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

inline constexpr int kPair = 2;  // groups, and tiles of tokens

// A tile of tokens: for each block of Type, in the order of its products, [16 tokens][kRowBytes of activations]; of
// types with minima, for each [16] sums; then for each kBlocksOfScale blocks [16] d. Tokens that there are not are
// zeros.
template <class Type>
struct TokenTile {
  static constexpr int64_t kBlockBytes = kTileTokens * Type::kRowBytes;
  std::byte* data;
  int64_t blocks;
  int8_t* q(int64_t block) const { return reinterpret_cast<int8_t*>(data + block * kBlockBytes); }
  float* sum(int64_t block) const {
    return reinterpret_cast<float*>(data + blocks * kBlockBytes) + block * kTileTokens;
  }
  float* d(int64_t block) const { return sum((Type::kSums ? blocks : 0) + block / Type::kBlocksOfScale); }
};

// Those blocks of a tile from `first` on.
template <class Type>
struct TokenBlocks {
  TokenTile<Type> tile;
  int64_t first;
  int8_t* q(int64_t block, int64_t token) const { return tile.q(first + block) + token * Type::kRowBytes; }
  float& d(int64_t block, int64_t token) const { return tile.d(first + block)[token]; }
  float& sum(int64_t block, int64_t token) const { return tile.sum(first + block)[token]; }
  void Clear(int64_t begin, int64_t end) const {
    for (int64_t block = begin; block < end; ++block) {
      __builtin_memset(q(block, 0), 0, TokenTile<Type>::kBlockBytes);
      if (block % Type::kBlocksOfScale == 0) {
        __builtin_memset(&d(block, 0), 0, kTileTokens * sizeof(float));
      }
      if constexpr (Type::kSums) {
        __builtin_memset(&sum(block, 0), 0, kTileTokens * sizeof(float));
      }
    }
  }
};

struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Registers: sums from 0, of each tile of tokens in turn with each group; activations from 4, weights from 6.
inline constexpr int kActivations = 4;
inline constexpr int kWeights = 6;

template <class Type>
inline void ConfigureTiles(int tokens) {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) {
    const bool activations = i == kActivations || i == kActivations + 1;
    shapes.row_bytes[i] = activations ? Type::kRowBytes : 64;
    shapes.rows[i] = static_cast<uint8_t>(i < kWeights ? tokens : Type::kTileRows);
  }
  asm volatile("" : : "m"(shapes));  // GCC 12 thinks that 8 bytes are read
  _tile_loadconfig(&shapes);
}

// The intrinsics of GCC 12 take no register number of a template, and do not say that they touch memory.
template <int kTile>
inline void LoadTile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void StoreTile(void* to) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(int64_t{64}), "i"(kTile) : "memory");
}
// Of signed weights, or of weights without a sign.
template <int kSum, int kA, int kB, bool kSigned>
inline void MultiplyTiles() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kSum));
  if constexpr (kSigned) {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  } else {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }
}

using TileSums = int32_t[kTileTokens][kGroupRows];

// ---- Types ----------------------------------------------------------------------------------------------------------
// kBlocks: of a slab, whose sums are scaled apart. kTileRows: of a block's tile of weights; kRowBytes: of a token in
// its tile of activations, as many columns. kBlocksOfScale: blocks for which activations have one d. kMakes: tiles of
// weights that Make makes at once. kSigned: weights. kPart: a slab's sums gather in a part of their own, which Join
// adds to the total. kSums: sums of activations are wanted.

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
  static constexpr int kRowBytes = 64;
  static constexpr int kBlocksOfScale = kBlocks;
  static constexpr int kMakes = 1;
  static constexpr bool kSigned = Type::kOffset != 0;
  static constexpr bool kPart = true;
  static constexpr bool kSums = Type::kMinima;
  using Scales = SlabScales;
  static inline void LoadScales(const std::byte* slab, int blocks, Scales& to) { Type::LoadScales(slab, blocks, to); }
  static inline void Make(const std::byte* slab, int block, int8_t (*to)[64]) { MakeTile(Type(), slab, block, to); }
  static inline void CopyToken(const std::byte* record, int64_t cols, int64_t block, int64_t token,
                               const TokenBlocks<SlicedTiles>& to) {
    const SlicedRow row = SlicedRecordAt(record, cols);
    __builtin_memcpy(to.q(block, token), row.q + block * kRowBytes, kRowBytes);
    if (block % kBlocks == 0) {
      to.d(block, token) = row.d[block / kBlocks];
    }
    if constexpr (kSums) {
      to.sum(block, token) = row.sums[block];
    }
  }
  template <int kTokens>
  static inline void Add(const TileSums& sums, const Scales& scales, int block, const float* /*d*/, const float* sum_of,
                         F (&part)[kTokens]) {
    for (int t = 0; t < kTokens; ++t) {
      const I sum = LoadBytes(reinterpret_cast<const std::byte*>(sums[t]));
      part[t] = AddBlock<Type>(sum, scales, block, sum_of + t, part[t]);
    }
  }
  static inline F Join(const Scales&, F part, float d, F total) { return Fma(part, Set(d), total); }
};

struct Q8_0Tiles {
  static constexpr int64_t kSlabBytes = Q8_0Int8::kGroupBytes * kSlabBlocks;
  static constexpr int kBlocks = kSlabBlocks;
  static constexpr int kTileRows = 8;
  static constexpr int kRowBytes = 32;
  static constexpr int kBlocksOfScale = 1;
  static constexpr int kMakes = 1;
  static constexpr bool kSigned = true;
  static constexpr bool kPart = false;
  static constexpr bool kSums = false;
  using Scales = F[kBlocks];
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
  static inline void CopyToken(const std::byte* record, int64_t cols, int64_t block, int64_t token,
                               const TokenBlocks<Q8_0Tiles>& to) {
    const QuantRow row = RecordAt(record, cols);
    __builtin_memcpy(to.q(block, token), row.q + block * kRowBytes, kRowBytes);
    to.d(block, token) = row.d[block];
  }
  template <int kTokens>
  static inline void Add(const TileSums& sums, const Scales& scales, int block, const float* d,
                         [[maybe_unused]] const float* sum_of, F (&total)[kTokens]) {
    const F scale = scales[block];
    for (int t = 0; t < kTokens; ++t) {
      const I sum = LoadBytes(reinterpret_cast<const std::byte*>(sums[t]));
      total[t] = Fma(ToFloat(sum), Mul(scale, Set(d[t])), total[t]);
    }
  }
};

// Blocks of 16 columns, in the order of kSixteens.
struct Q6_KTiles {
  static constexpr int64_t kSlabBytes = Q6_KInt8::kGroupBytes;
  static constexpr int kBlocks = 16;
  static constexpr int kTileRows = 4;
  static constexpr int kRowBytes = 16;
  static constexpr int kBlocksOfScale = 1;
  static constexpr int kMakes = 4;
  static constexpr bool kSigned = true;
  static constexpr bool kPart = true;
  static constexpr bool kSums = false;
  struct Scales {
    F scale[kBlocks];
    F d;
  };
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
  static inline void CopyToken(const std::byte* record, int64_t cols, int64_t block, int64_t token,
                               const TokenBlocks<Q6_KTiles>& to) {
    const QuantRow row = RecordAt(record, cols);
    const int64_t from = block / kBlocks * kBlocks + kSixteens[block % kBlocks];
    __builtin_memcpy(to.q(block, token), row.q + from * kRowBytes, kRowBytes);
    to.d(block, token) = row.d[from];
  }
  // A sum times its scale is below 2^24: exact in F32 as in the integers of Q6_KInt8.
  template <int kTokens>
  static inline void Add(const TileSums& sums, const Scales& scales, int block, const float* d, const float* /*sum*/,
                         F (&part)[kTokens]) {
    const F scale = scales.scale[block];
    for (int t = 0; t < kTokens; ++t) {
      const I sum = LoadBytes(reinterpret_cast<const std::byte*>(sums[t]));
      part[t] = Fma(Mul(ToFloat(sum), scale), Set(d[t]), part[t]);
    }
  }
  static inline F Join(const Scales& scales, F part, float /*d*/, F total) { return Fma(part, scales.d, total); }
};

// ---- Panels ---------------------------------------------------------------------------------------------------------

template <class Type>
inline constexpr int64_t kBlockCols = kSlabCols / Type::kBlocks;

template <class Type>
struct SlabTiles {
  alignas(64) int8_t weights[Type::kBlocks * Type::kTileRows][64];
  typename Type::Scales scales;
};

// Slabs that are computed at once.
inline constexpr int kStretch = 8;

// A stretch of the weights of one group, with the group's totals.
template <class Type>
struct StretchOfGroup {
  const std::byte* weights;
  const std::byte* next;        // what will be wanted soon, as many bytes
  SlabTiles<Type>* tiles;       // [kStretch]
  float (*totals)[kGroupRows];  // [tokens of the panel]

  inline void LoadScales(int blocks) const {
    for (int slab = 0; slab * Type::kBlocks < blocks; ++slab) {
      const int left = blocks - slab * Type::kBlocks;
      Type::LoadScales(weights + slab * Type::kSlabBytes, left < Type::kBlocks ? left : Type::kBlocks,
                       tiles[slab].scales);
    }
  }
  inline void Make(int block) const {
    const int slab = block / Type::kBlocks;
    Type::Make(weights + slab * Type::kSlabBytes, block % Type::kBlocks, Tile(block));
    constexpr int64_t kBytes = Type::kSlabBytes / Type::kBlocks * Type::kMakes;
    for (int64_t line = 0; line < kBytes; line += 64) {
      __builtin_prefetch(next + block / Type::kMakes * kBytes + line, 0, 2);
    }
  }
  inline int8_t (*Tile(int block) const)[64] {
    return tiles[block / Type::kBlocks].weights + block % Type::kBlocks * Type::kTileRows;
  }
  inline const typename Type::Scales& Scales(int block) const { return tiles[block / Type::kBlocks].scales; }
};

// A stretch of kGroups groups times kTiles tiles of tokens.
template <class Type, int kTokens, int kTiles, int kGroups>
class StretchProduct {
 public:
  using Groups = StretchOfGroup<Type>[kPair];

  // `first`: of the tokens, whose tiles lie `stride` bytes apart; `from`: the first of the blocks. Adds to the totals.
  // make: the tiles of weights too, a little ahead of their use, so that all parts of the processor have work.
  static inline void Run(const TokenTile<Type>& tile, int64_t stride, const Groups& groups, int64_t from, int64_t first,
                         int blocks, bool make) {
    constexpr int kAhead = 4;
    StretchProduct p;
    for (int i = 0; i < kTiles; ++i) {
      p.tiles_[i] = {{tile.data + i * stride, tile.blocks}, from};
    }
    if (make) {
      for (int g = 0; g < kGroups; ++g) {
        groups[g].LoadScales(blocks);
      }
      for (int block = 0; block < kAhead; ++block) {
        Make(groups, block, blocks);
      }
    }
    Sums sums;  // of registers, if they are few: so no member
    for (int i = 0; i < kProducts; ++i) {
      p.totals_[i] = groups[i % kGroups].totals + first + i / kGroups * kTokens;
      for (int t = 0; t < kTokens; ++t) {
        sums[i][t] = Type::kPart ? Zero() : Load(p.totals_[i][t]);
      }
    }
#pragma GCC unroll 1
    for (int block = 0; block < blocks; ++block) {
      p.LoadWeights(groups, block);
      if (make) {
        Make(groups, block + kAhead, blocks);
      }
      p.template Multiply<0>(groups, block, sums);
      if constexpr (Type::kPart) {
        if (block > 0 && block % Type::kBlocks == 0) {
          p.JoinParts(groups, block - 1, sums);
        }
      }
    }
    p.template AddFrom<0>(groups, blocks - 1, sums);
    if constexpr (Type::kPart) {
      p.JoinParts(groups, blocks - 1, sums);
      return;
    }
    for (int i = 0; i < kProducts; ++i) {
      for (int t = 0; t < kTokens; ++t) {
        Store(p.totals_[i][t], sums[i][t]);
      }
    }
  }

 private:
  static constexpr int kProducts = kTiles * kGroups;
  using Sums = F[kProducts][kTokens];  // parts, or the totals themselves

  static inline void Make(const Groups& groups, int block, int blocks) {
    if (block < blocks && block % Type::kMakes == 0) {
      for (int g = 0; g < kGroups; ++g) {
        groups[g].Make(block);
      }
    }
  }

  inline void LoadWeights(const Groups& groups, int block) {
    LoadTile<kWeights>(groups[0].Tile(block), 64);
    if constexpr (kGroups == 2) {
      LoadTile<kWeights + 1>(groups[1].Tile(block), 64);
    }
  }

  // Products i and on of a block. Each is stored once the next has begun, and added up at the next block.
  template <int i>
  inline void Multiply(const Groups& groups, int block, Sums& sums) {
    constexpr int kTile = i / kGroups;
    if constexpr (i % kGroups == 0) {
      LoadTile<kActivations + kTile>(tiles_[kTile].q(block, 0), Type::kRowBytes);
    }
    MultiplyTiles<i, kActivations + kTile, kWeights + i % kGroups, Type::kSigned>();
    if (block > 0) {
      Add<i>(groups, block - 1, sums);
    }
    if constexpr (kTiles == kPair && Type::kRowBytes == 64) {  // smaller blocks are in time without
      FetchActivations<i>(block + 1);
    }
    if constexpr (i > 0) {
      StoreTile<i - 1>(products_[block % 2][i - 1]);
    }
    if constexpr (i + 1 < kProducts) {
      Multiply<i + 1>(groups, block, sums);
    } else {
      StoreTile<i>(products_[block % 2][i]);
    }
  }

  // Product i's share of a block's: of many tokens they lie in the second-level cache.
  template <int i>
  inline void FetchActivations(int block) const {
    constexpr int64_t kShare = TokenTile<Type>::kBlockBytes / kGroups;
    const int8_t* from = tiles_[i / kGroups].q(block, 0) + i % kGroups * kShare;
    for (int64_t line = 0; line < kShare; line += 64) {
      __builtin_prefetch(from + line, 0, 3);
    }
  }

  template <int i>
  inline void Add(const Groups& groups, int block, Sums& sums) {
    const TokenBlocks<Type>& tile = tiles_[i / kGroups];
    Type::template Add<kTokens>(products_[block % 2][i], groups[i % kGroups].Scales(block), block % Type::kBlocks,
                                &tile.d(block, 0), &tile.sum(block, 0), sums[i]);
  }
  template <int i>
  inline void AddFrom(const Groups& groups, int block, Sums& sums) {
    Add<i>(groups, block, sums);
    if constexpr (i + 1 < kProducts) {
      AddFrom<i + 1>(groups, block, sums);
    }
  }

  // The parts of the slab of `block` to the totals.
  inline void JoinParts(const Groups& groups, int block, Sums& sums) {
    for (int i = 0; i < kProducts; ++i) {
      const float* d = &tiles_[i / kGroups].d(block, 0);
      for (int t = 0; t < kTokens; ++t) {
        float* total = totals_[i][t];
        Store(total, Type::Join(groups[i % kGroups].Scales(block), sums[i][t], d[t], Load(total)));
        sums[i][t] = Zero();
      }
    }
  }

  TokenBlocks<Type> tiles_[kTiles];
  float (*totals_[kProducts])[kGroupRows];
  alignas(64) TileSums products_[2][kProducts];  // of this block and the last
};

struct TileTotals {
  alignas(64) float of[kMaxGroups][kMaxTokens][kGroupRows];
};

// All of a panel's tokens, in tiles of kTokens, times `slabs` slabs of kGroups groups from `begin` on. What lies
// `ahead` bytes behind these weights comes soon.
template <class Type, int kTokens, int kGroups>
void TileStretch(const PanelArgs& a, int64_t begin, int64_t slab, int64_t slabs, int64_t ahead, SlabTiles<Type>* tiles,
                 TileTotals& totals) {
  const int64_t all_blocks = a.cols / kBlockCols<Type>;
  const int64_t group_bytes = Type::kSlabBytes * all_blocks / Type::kBlocks;
  const int64_t from = slab * Type::kBlocks;
  const int64_t left = all_blocks - from;
  const auto blocks = static_cast<int>(left < slabs * Type::kBlocks ? left : slabs * Type::kBlocks);
  StretchOfGroup<Type> groups[kPair] = {};
  for (int g = 0; g < kGroups; ++g) {
    const std::byte* weights = a.group + (begin + g) * group_bytes + slab * Type::kSlabBytes;
    groups[g] = {weights, weights + ahead, tiles + g * kStretch, totals.of[begin + g]};
  }
  const auto tile = [&](int64_t token) {
    return TokenTile<Type>{const_cast<std::byte*>(a.quant.data) + token / kTileTokens * a.quant.stride, all_blocks};
  };
  int64_t first = 0;
  if constexpr (kTokens == kTileTokens) {
    for (; first + kTokens < a.tokens; first += kPair * kTokens) {
      StretchProduct<Type, kTokens, kPair, kGroups>::Run(tile(first), a.quant.stride, groups, from, first, blocks,
                                                         first == 0);
    }
  }
  if (first < a.tokens) {
    StretchProduct<Type, kTokens, 1, kGroups>::Run(tile(first), a.quant.stride, groups, from, first, blocks,
                                                   first == 0);
  }
}

template <class Type, int kTokens>
void TilesOf(const PanelArgs& a) {
  SlabTiles<Type> tiles[kPair * kStretch];
  TileTotals totals;
  for (int64_t group = 0; group < a.groups; ++group) {
    __builtin_memset(totals.of[group], 0,
                     static_cast<size_t>(a.tokens + kTokens - 1) / kTokens * kTokens * sizeof totals.of[0][0]);
  }
  ConfigureTiles<Type>(kTokens);
  const int64_t slabs = (a.cols + kSlabCols - 1) / kSlabCols;
  // Of few tokens memory sets the pace, and likes one group after another.
  const bool few = a.tokens <= kTokens;
  const int64_t together = few ? 1 : a.groups;
  const int64_t stretch = few ? 1 : kStretch;
  const int64_t ahead = few ? 2 * Type::kSlabBytes : kPair * a.cols / kSlabCols * Type::kSlabBytes;
  for (int64_t first = 0; first < a.groups; first += together) {
    const int64_t end = first + together;
    for (int64_t slab = 0; slab < slabs; slab += stretch) {
      int64_t group = first;
      for (; group + kPair <= end; group += kPair) {
        TileStretch<Type, kTokens, kPair>(a, group, slab, stretch, ahead, tiles, totals);
      }
      if (group < end) {
        TileStretch<Type, kTokens, 1>(a, group, slab, stretch, ahead, tiles, totals);
      }
    }
  }
  _tile_release();
  PanelArgs each[kMaxGroups];
  for (int64_t group = 0; group < a.groups; ++group) {
    each[group] = a;
    each[group].out += group * kGroupRows;
    each[group].width = group + 1 < a.groups ? kGroupRows : a.width;
  }
  // Results of a token lie on one page, those of tokens on many.
  for (int64_t t = 0; t < a.tokens; ++t) {
    for (int64_t group = 0; group < a.groups; ++group) {
      const F total[kParts] = {Load(totals.of[group][t])};
      StoreResult(each[group], t, total);
    }
  }
}

template <class Type>
void TilePanel(const PanelArgs& a) {
  if (a.tokens <= kTileTokens / 2) {
    TilesOf<Type, kTileTokens / 2>(a);
  } else {
    TilesOf<Type, kTileTokens>(a);
  }
}

template <class Type>
void PackTokens(const PackArgs& a) {
  const TokenTile<Type> tile = {a.tile, a.all_cols / kBlockCols<Type>};
  const TokenBlocks<Type> to = {tile, a.first_col / kBlockCols<Type>};
  const int64_t blocks = a.cols / kBlockCols<Type>;
  // A few blocks at a time, so that what is written stays close together.
  for (int64_t begin = 0; begin < blocks; begin += Type::kBlocks) {
    const int64_t end = begin + Type::kBlocks < blocks ? begin + Type::kBlocks : blocks;
    if (a.tokens < kTileTokens) {
      to.Clear(begin, end);
    }
    for (int64_t token = 0; token < a.tokens; ++token) {
      const std::byte* record = a.records.data + token * a.records.stride;
      for (int64_t block = begin; block < end; ++block) {
        Type::CopyToken(record, a.cols, block, token, to);
      }
    }
  }
}

template <class Type>
constexpr TilePath PathOf() {
  return {TilePanel<Type>, PackTokens<Type>};
}

constexpr KernelTable MakeTiledTable(const char* name) {
  KernelTable t = MakeTable(name);
  t.tiles_int8[static_cast<int>(DType::kQ4_0)] = PathOf<SlicedTiles<Q4_0Sliced>>();
  t.tiles_int8[static_cast<int>(DType::kQ8_0)] = PathOf<Q8_0Tiles>();
  t.tiles_int8[static_cast<int>(DType::kQ4_K)] = PathOf<SlicedTiles<Q4_KSliced>>();
  t.tiles_int8[static_cast<int>(DType::kQ5_K)] = PathOf<SlicedTiles<Q5_KSliced>>();
  t.tiles_int8[static_cast<int>(DType::kQ6_K)] = PathOf<Q6_KTiles>();
  return t;
}

}  // namespace
}  // namespace alphecca::kernels::cpu

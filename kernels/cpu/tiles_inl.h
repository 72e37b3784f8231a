// Products for many rows of activations by AMX: 16 of them times a block of 16 rows of a matrix, one instruction. Sums
// are exact, and what follows them is what the panels for few rows do, in their order, so the bits are theirs.
//
// Weights are unpacked to tiles once for all tokens of a panel: a row for each four columns, [16 rows][4 bytes]. Loops,
// from outside: groups; stretches of a few slabs, whose tiles stay in the first-level cache; tiles of 16 tokens;
// blocks. So a product's sums stay in registers while its blocks pass. It uses few tiles at a time: those that a core
// has spare, fewer while its other hyperthread uses tiles too, are what lets loads and products run ahead.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

// Blocks that one product takes, each token having a row of the tile for each, which is zeros but for that block:
// where few tokens leave rows of the tile, and short blocks columns, it gives the sums of several at once.
template <class Type, int kTokens>
inline constexpr int kTogether = Type::kMostTogether < kTileTokens / kTokens ? Type::kMostTogether
                                                                             : static_cast<int>(kTileTokens) / kTokens;

// A tile of tokens: for each product, in their order, [kTogether][kTokens][kTogether * kRowBytes of activations]; of
// types with minima, for each block [kTokens] sums; then for each kBlocksOfScale blocks [kTokens] d. Tokens that there
// are not are zeros. Without gaps where there are few: a gap after each block would leave sets of the first-level cache
// unused.
template <class Type, int kTokens>
struct TokenTile {
  static constexpr int kBlocks = kTogether<Type, kTokens>;
  static constexpr int64_t kStride = kBlocks * Type::kRowBytes;
  static constexpr int64_t kBlockBytes = kTokens * kStride;
  std::byte* data;
  int64_t blocks;
  int8_t* q(int64_t block) const { return reinterpret_cast<int8_t*>(data + block * kBlockBytes); }
  float* sum(int64_t block) const { return reinterpret_cast<float*>(data + blocks * kBlockBytes) + block * kTokens; }
  float* d(int64_t block) const { return sum((Type::kSums ? blocks : 0) + block / Type::kBlocksOfScale); }
};

// Those blocks of a tile from `first` on.
template <class Type, int kTokens>
struct TokenBlocks {
  using Tile = TokenTile<Type, kTokens>;
  Tile tile;
  int64_t first;
  int8_t* q(int64_t block, int64_t token) const {
    const int64_t of_product = (first + block) % Tile::kBlocks;
    return tile.q(first + block) + token * Tile::kStride + of_product * Type::kRowBytes;
  }
  float& d(int64_t block, int64_t token) const { return tile.d(first + block)[token]; }
  float& sum(int64_t block, int64_t token) const { return tile.sum(first + block)[token]; }
  void Clear(int64_t begin, int64_t end) const {
    for (int64_t block = begin; block < end; ++block) {
      __builtin_memset(tile.q(first + block), 0, Tile::kBlockBytes);
      if (block % Type::kBlocksOfScale == 0) {
        __builtin_memset(&d(block, 0), 0, kTokens * sizeof(float));
      }
      if constexpr (Type::kSums) {
        __builtin_memset(&sum(block, 0), 0, kTokens * sizeof(float));
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

// Registers: sums 0 and 1, of every other block; activations; weights.
inline constexpr int kActivations = 2;
inline constexpr int kWeights = 3;
inline constexpr int kRegisters = 4;

template <class Type, int kTokens>
inline void ConfigureTiles() {
  constexpr int kBlocks = kTogether<Type, kTokens>;
  TileShapes shapes;
  for (int i = 0; i < kRegisters; ++i) {
    shapes.row_bytes[i] = i == kActivations ? kBlocks * Type::kRowBytes : 64;
    shapes.rows[i] = static_cast<uint8_t>(kBlocks * (i == kWeights ? Type::kTileRows : kTokens));
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
template <int kSum, bool kSigned>
inline void MultiplyTiles() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kSum));
  if constexpr (kSigned) {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kActivations), "i"(kWeights));
  } else {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kActivations), "i"(kWeights));
  }
}

using TileRow = int32_t[kGroupRows];
using TileSums = TileRow[kTileTokens];

// ---- Types ----------------------------------------------------------------------------------------------------------
// kBlocks: of a slab, whose sums are scaled apart. kTileRows: of a block's tile of weights; kRowBytes: of a token in
// its tile of activations, as many columns. kMostTogether: blocks that one product may take. kBlocksOfScale: blocks for
// which activations have one d. kMakes: tiles of weights that Make makes at once. kSigned: weights. kPart: a slab's
// sums gather in a part of their own, which Join adds to the total. kSums: sums of activations are wanted.

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
  static constexpr int kMostTogether = 1;
  static constexpr int kBlocksOfScale = kBlocks;
  static constexpr int kMakes = 1;
  static constexpr bool kSigned = Type::kOffset != 0;
  static constexpr bool kPart = true;
  static constexpr bool kSums = Type::kMinima;
  using Scales = SlabScales;
  static inline void LoadScales(const std::byte* slab, int blocks, Scales& to) { Type::LoadScales(slab, blocks, to); }
  static inline void Make(const std::byte* slab, int block, int8_t (*to)[64]) { MakeTile(Type(), slab, block, to); }
  template <int kTokens>
  static inline void CopyToken(const std::byte* record, int64_t cols, int64_t block, int64_t token,
                               const TokenBlocks<SlicedTiles, kTokens>& to) {
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
  static inline void Add(const TileRow* sums, const Scales& scales, int block, const float* /*d*/, const float* sum_of,
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
  static constexpr int kMostTogether = 1;
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
  template <int kTokens>
  static inline void CopyToken(const std::byte* record, int64_t cols, int64_t block, int64_t token,
                               const TokenBlocks<Q8_0Tiles, kTokens>& to) {
    const QuantRow row = RecordAt(record, cols);
    __builtin_memcpy(to.q(block, token), row.q + block * kRowBytes, kRowBytes);
    to.d(block, token) = row.d[block];
  }
  template <int kTokens>
  static inline void Add(const TileRow* sums, const Scales& scales, int block, const float* d,
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
  static constexpr int kMostTogether = 4;
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
    // Q6_KInt8::Numbers less 32: the highest of the 6 bits, inverted, is the sign.
    constexpr uint64_t kLow = 0x0102040800000000;
    constexpr uint64_t kHigh = 0x1020408000000000;
    constexpr uint64_t kMore = 0x0000000001020202;
    const std::byte* p = slab + 18 * kGroupRows + block * 3 * Q6_KInt8::kRun;
    for (int c = 0; c < kTileRows; ++c, p += 3 * Q6_KInt8::kRun) {
      const I a = LoadBytes(p);
      const I b = LoadBytes(p + Q6_KInt8::kRun);
      const I more = LoadBytes(p + 2 * Q6_KInt8::kRun);
      StoreBytes(to[c], Or(MapBitsAndFlip<0>(a, kLow), MapBitsAndFlip<0xE0>(more, kMore)));
      StoreBytes(to[4 + c], Or(MapBitsAndFlip<0>(b, kLow), MapBitsAndFlip<0xE0>(more, kMore << 2)));
      StoreBytes(to[8 + c], Or(MapBitsAndFlip<0>(a, kHigh), MapBitsAndFlip<0xE0>(more, kMore << 4)));
      StoreBytes(to[12 + c], Or(MapBitsAndFlip<0>(b, kHigh), MapBitsAndFlip<0xE0>(more, kMore << 6)));
    }
  }
  template <int kTokens>
  static inline void CopyToken(const std::byte* record, int64_t cols, int64_t block, int64_t token,
                               const TokenBlocks<Q6_KTiles, kTokens>& to) {
    const QuantRow row = RecordAt(record, cols);
    const int64_t from = block / kBlocks * kBlocks + kSixteens[block % kBlocks];
    __builtin_memcpy(to.q(block, token), row.q + from * kRowBytes, kRowBytes);
    to.d(block, token) = row.d[from];
  }
  // A sum times its scale is below 2^24: exact in F32 as in the integers of Q6_KInt8.
  template <int kTokens>
  static inline void Add(const TileRow* sums, const Scales& scales, int block, const float* d, const float* /*sum*/,
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

// Slabs whose tiles of weights are kept for further tokens, and those whose activations stay in the second-level cache
// while groups pass.
inline constexpr int kSlabsKept = 2;
inline constexpr int kSlabsOfSpan = 4;
// Blocks whose tiles are made ahead of their use, and those that are kept where there are no further tokens.
inline constexpr int kAhead = 3;
template <class Type>
inline constexpr int kFewKept = Type::kBlocks / 2;

// Weights of one group: packed, and the tiles last made.
template <class Type>
class GroupTiles {
 public:
  static_assert(kFewKept<Type> >= kAhead + Type::kMakes);
  // kept: tiles that are, a power of two; the fewer, the more of the first-level cache is left for activations.
  // What lies `ahead` bytes behind weights is wanted soon after them.
  void Begin(const std::byte* weights, int64_t blocks, int kept, int64_t ahead) {
    weights_ = weights;
    blocks_ = blocks;
    last_ = kept - 1;
    ahead_ = ahead;
  }
  // Makes the tiles from a block on, if it is one that Type::Make begins with, and scales with the first of a slab.
  inline void Make(int64_t block) {
    if (block % Type::kMakes != 0) {
      return;
    }
    const std::byte* slab = weights_ + block / Type::kBlocks * Type::kSlabBytes;
    const auto in_slab = static_cast<int>(block % Type::kBlocks);
    if (in_slab == 0) {
      const int64_t left = blocks_ - block;
      Type::LoadScales(slab, left < Type::kBlocks ? static_cast<int>(left) : Type::kBlocks,
                       scales_[block / Type::kBlocks % kSlabsKept]);
    }
    Type::Make(slab, in_slab, tiles_[block & last_]);
    constexpr int64_t kBytes = Type::kSlabBytes / Type::kBlocks * Type::kMakes;
    const std::byte* next = slab + ahead_ + in_slab / Type::kMakes * kBytes;
    for (int64_t line = 0; line < kBytes; line += 64) {
      __builtin_prefetch(next + line, 0, 2);
    }
  }
  inline const void* Tile(int64_t block) const { return tiles_[block & last_]; }
  inline const typename Type::Scales& Scales(int64_t block) const {
    return scales_[block / Type::kBlocks % kSlabsKept];
  }

 private:
  const std::byte* weights_ = nullptr;
  int64_t blocks_ = 0;
  int64_t last_ = 0;
  int64_t ahead_ = 0;
  alignas(64) int8_t tiles_[kSlabsKept * Type::kBlocks][Type::kTileRows][64];
  typename Type::Scales scales_[kSlabsKept];
};

// Some blocks of one group times one tile of tokens.
template <class Type, int kTokens>
class TileProduct {
 public:
  using Tile = TokenTile<Type, kTokens>;
  // Adds those of blocks [begin, end), whole slabs but for the last of a row, to the totals. make: the tiles of weights
  // too, a little ahead of their use, so that all parts of the processor have work.
  static inline void Run(const Tile& tile, GroupTiles<Type>& weights, int64_t begin, int64_t end, bool make,
                         float (*totals)[kGroupRows]) {
    TileProduct p = {tile, weights, totals};
    if (make) {
      for (int64_t block = begin; block < begin + kLead && block < end; ++block) {
        weights.Make(block);
      }
    }
    const int64_t make_end = make ? end : 0;
    Sums sums;
    for (int t = 0; t < kTokens; ++t) {
      sums[t] = Type::kPart ? Zero() : Load(totals[t]);
    }
    int64_t block = begin;
#pragma GCC unroll 1
    for (; block + 2 * kBlocks <= end; block += 2 * kBlocks) {
      p.template Multiply<0>(block, begin, make_end, sums);
      p.template Multiply<1>(block + kBlocks, begin, make_end, sums);
    }
    if (block < end) {
      p.template Multiply<0>(block, begin, make_end, sums);
      StoreTile<0>(p.products_[0]);
    } else {
      StoreTile<1>(p.products_[1]);
    }
    if (end - begin > kBlocks) {
      p.Add(end - 2 * kBlocks, p.products_[((end - begin) / kBlocks - 2) % 2], sums);
    }
    p.Add(end - kBlocks, p.products_[((end - begin) / kBlocks - 1) % 2], sums);
    if constexpr (Type::kPart) {
      if (end % Type::kBlocks != 0) {
        p.Join(end - 1, sums);
      }
    } else {
      for (int t = 0; t < kTokens; ++t) {
        Store(totals[t], sums[t]);
      }
    }
  }

 private:
  static constexpr int kBlocks = Tile::kBlocks;  // that a product takes
  static constexpr int kLead = kBlocks > 1 ? Type::kMakes : kAhead;
  static_assert(Type::kMakes % kBlocks == 0 || kBlocks == 1);
  using Sums = F[kTokens];  // parts, or the totals themselves

  TileProduct(const Tile& tile, GroupTiles<Type>& weights, float (*totals)[kGroupRows])
      : tile_(tile), weights_(weights), totals_(totals) {}

  // A product, of blocks from `block` on, is stored once the next has begun, and added up one later. Left to itself GCC
  // calls Add for some types, which costs them a tenth.
  template <int kSum>
  [[gnu::always_inline]] inline void Multiply(int64_t block, int64_t begin, int64_t make_end, Sums& sums) {
    LoadTile<kActivations>(tile_.q(block), Tile::kStride);
    LoadTile<kWeights>(weights_.Tile(block), 64);
    if (block + kLead < make_end) {  // while the loads are under way
      weights_.Make(block + kLead);
    }
    MultiplyTiles<kSum, Type::kSigned>();
    if (block > begin) {
      StoreTile<1 - kSum>(products_[1 - kSum]);
    }
    if (block > begin + kBlocks) {
      Add(block - 2 * kBlocks, products_[kSum], sums);
    }
  }

  [[gnu::always_inline]] inline void Add(int64_t first, const TileSums& product, Sums& sums) {
    for (int i = 0; i < kBlocks; ++i) {
      const int64_t block = first + i;
      Type::template Add<kTokens>(product + i * kTokens, weights_.Scales(block),
                                  static_cast<int>(block % Type::kBlocks), tile_.d(block), tile_.sum(block), sums);
      if constexpr (Type::kPart) {
        if (block % Type::kBlocks == Type::kBlocks - 1) {
          Join(block, sums);
        }
      }
    }
  }

  // The parts of the slab of `block` to the totals.
  inline void Join(int64_t block, Sums& sums) {
    const float* d = tile_.d(block);
    for (int t = 0; t < kTokens; ++t) {
      Store(totals_[t], Type::Join(weights_.Scales(block), sums[t], d[t], Load(totals_[t])));
      sums[t] = Zero();
    }
  }

  const Tile tile_;
  GroupTiles<Type>& weights_;
  float (*const totals_)[kGroupRows];
  alignas(64) TileSums products_[2];  // of this block and the last
};

struct TileTotals {
  alignas(64) float of[kMaxGroups][kMaxTokens][kGroupRows];
};

template <class Type, int kTokens>
void TilesOf(const PanelArgs& a) {
  TileTotals totals;
  for (int64_t group = 0; group < a.groups; ++group) {
    __builtin_memset(totals.of[group], 0,
                     static_cast<size_t>(a.tokens + kTokens - 1) / kTokens * kTokens * sizeof totals.of[0][0]);
  }
  ConfigureTiles<Type, kTokens>();
  const int64_t blocks = a.cols / kBlockCols<Type>;
  const int64_t group_bytes = Type::kSlabBytes / Type::kBlocks * blocks;
  // Tokens of one tile need no tile of weights twice, and all their activations stay in a cache.
  const bool few = a.tokens <= kTokens;
  const int64_t stretch = few ? blocks : kSlabsKept * Type::kBlocks;
  const int64_t span = few ? blocks : kSlabsOfSpan * Type::kBlocks;
  GroupTiles<Type> weights;
  for (int64_t from = 0; from < blocks; from += span) {
    const int64_t to = from + span < blocks ? from + span : blocks;
    for (int64_t group = 0; group < a.groups; ++group) {
      weights.Begin(a.group + group * group_bytes, blocks, few ? kFewKept<Type> : kSlabsKept * Type::kBlocks,
                    few ? 2 * Type::kSlabBytes : group_bytes);
      for (int64_t begin = from; begin < to; begin += stretch) {
        const int64_t end = begin + stretch < to ? begin + stretch : to;
        for (int64_t first = 0; first < a.tokens; first += kTokens) {
          const TokenTile<Type, kTokens> tile = {
              const_cast<std::byte*>(a.quant.data) + first / kTileTokens * a.quant.stride, blocks};
          TileProduct<Type, kTokens>::Run(tile, weights, begin, end, first == 0, totals.of[group] + first);
        }
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

// Calls f(CountOf<rows>()) of the least tile that the tokens of a panel fit in.
template <class Function>
inline void WithTileRows(int64_t panel_tokens, Function f) {
  if (panel_tokens <= kTileTokens / 4) {
    f(CountOf<kTileTokens / 4>());
  } else if (panel_tokens <= kTileTokens / 2) {
    f(CountOf<kTileTokens / 2>());
  } else {
    f(CountOf<kTileTokens>());
  }
}

template <class Type>
void TilePanel(const PanelArgs& a) {
  WithTileRows(a.tokens, [&](auto tokens) { TilesOf<Type, decltype(tokens)::kValue>(a); });
}

template <class Type, int kTokens>
void PackTile(const PackArgs& a) {
  using Tile = TokenTile<Type, kTokens>;
  const TokenBlocks<Type, kTokens> to = {Tile{a.tile, a.all_cols / kBlockCols<Type>}, a.first_col / kBlockCols<Type>};
  const int64_t blocks = a.cols / kBlockCols<Type>;
  // A few blocks at a time, so that what is written stays close together.
  for (int64_t begin = 0; begin < blocks; begin += Type::kBlocks) {
    const int64_t end = begin + Type::kBlocks < blocks ? begin + Type::kBlocks : blocks;
    if (a.tokens < kTokens || Tile::kBlocks > 1) {
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
void PackTokens(const PackArgs& a) {
  WithTileRows(a.panel_tokens, [&](auto tokens) { PackTile<Type, decltype(tokens)::kValue>(a); });
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

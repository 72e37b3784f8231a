// Weights that have a scale and a minimum for every 32 columns, Q4_K and Q5_K: w = scale * number - minimum; their
// products with F32 activations.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

// Group layout per block of 256 columns, eight sub-blocks: see cpu_matrix.h. Of a byte of run 8 * pair + c the low half
// belongs to sub-block 2 * pair, the high one to the next, columns 4c..4c+3.
inline constexpr int64_t kMinimaScales = 4 * kGroupRows;
inline constexpr int64_t kMinimaRuns = kMinimaScales + 12 * kGroupRows;
inline constexpr int64_t kRunBytes = 4 * kGroupRows;

// Columns 4c.. of a sub-block.
inline I HalfBytes(const std::byte* runs, int sub, int c, int v) {
  return And(ShiftRight(LoadBytes(runs + (sub / 2 * 8 + c) * kRunBytes + v * 4 * kLanes), sub % 2 * 4), 0x0F);
}

struct Q4_K {
  static constexpr int64_t kGroupBytes = 144 * kGroupRows;
  static inline I Numbers(const std::byte* block, int sub, int c, int v) {
    return HalfBytes(block + kMinimaRuns, sub, c, v);
  }
};

// Bit `sub` of a high byte is the fifth of the number at its place in that sub-block.
struct Q5_K {
  static constexpr int64_t kGroupBytes = 176 * kGroupRows;
  static inline I Numbers(const std::byte* block, int sub, int c, int v) {
    const std::byte* high = block + kMinimaRuns;
    const I half = HalfBytes(high + 8 * kRunBytes, sub, c, v);
    const I bits = ShiftLeft<4>(ShiftRight(LoadBytes(high + c * kRunBytes + v * 4 * kLanes), sub));
    return Or(half, And(bits, 0x10));
  }
};

struct Minima {
  F scale[8][kParts];
  F minimum[8][kParts];
};

// Six bits each; the upper two of the last four sub-blocks' stand above those of the first four.
inline void LoadMinima(const std::byte* block, Minima& to) {
  const auto* packed = reinterpret_cast<const uint8_t*>(block) + kMinimaScales;
  uint8_t scale[8][kGroupRows];
  uint8_t minimum[8][kGroupRows];
  for (int s = 0; s < 4; ++s) {
    for (int row = 0; row < kGroupRows; ++row) {
      const uint8_t a = packed[s * kGroupRows + row];
      const uint8_t b = packed[(s + 4) * kGroupRows + row];
      const uint8_t c = packed[(s + 8) * kGroupRows + row];
      scale[s][row] = a & 0x3FU;
      minimum[s][row] = b & 0x3FU;
      scale[s + 4][row] = (c & 0x0FU) | (a >> 2 & 0x30U);
      minimum[s + 4][row] = static_cast<uint8_t>(c >> 4) | (b >> 2 & 0x30U);
    }
  }
  for (int v = 0; v < kParts; ++v) {
    const F d = LoadF16(block + v * 2 * kLanes);
    const F d_min = LoadF16(block + 2 * kGroupRows + v * 2 * kLanes);
    for (int s = 0; s < 8; ++s) {
      to.scale[s][v] = Mul(d, LoadI8(reinterpret_cast<const std::byte*>(scale[s]) + v * kLanes));
      to.minimum[s][v] = Mul(d_min, LoadI8(reinterpret_cast<const std::byte*>(minimum[s]) + v * kLanes));
    }
  }
}

template <class Type>
struct MinimaF32 {
  // Not inlined: GCC 12 fails on it.
  [[gnu::noinline]] static void LoadNumbers(const std::byte* p, int sub, I (&numbers)[8][kParts]) {
    for (int c = 0; c < 8; ++c) {
      for (int v = 0; v < kParts; ++v) {
        numbers[c][v] = Type::Numbers(p, sub, c, v);
      }
    }
  }

  template <int kByte, int kTokens>
  static inline void Byte(const I (&numbers)[kParts], const F (&scale)[kParts], const F (&least)[kParts],
                          const float* const (&in)[kTokens], int64_t col, Sums<kTokens>& part) {
    F w[kParts];
    for (int v = 0; v < kParts; ++v) {
      w[v] = Fma(UnsignedByte<kByte>(numbers[v]), scale[v], least[v]);
    }
    Column<kTokens>(w, in, col + kByte, part);
  }

  template <int kTokens>
  static inline void SubBlock(const std::byte* p, int sub, const Minima& minima, const float* const (&in)[kTokens],
                              int64_t col, Sums<kTokens>& total) {
    const F(&scale)[kParts] = minima.scale[sub];
    F least[kParts];
    for (int v = 0; v < kParts; ++v) {
      least[v] = Sub(Zero(), minima.minimum[sub][v]);
    }
    Sums<kTokens> part;
    Clear<kTokens>(part);
    I numbers[8][kParts];
    LoadNumbers(p, sub, numbers);
    for (int c = 0; c < 8; ++c) {
      const int64_t at = col + 32 * sub + 4 * c;
      Byte<0, kTokens>(numbers[c], scale, least, in, at, part);
      Byte<1, kTokens>(numbers[c], scale, least, in, at, part);
      Byte<2, kTokens>(numbers[c], scale, least, in, at, part);
      Byte<3, kTokens>(numbers[c], scale, least, in, at, part);
    }
    AddUp<kTokens>(part, total);
  }

  template <int kTokens>
  static inline void All(const std::byte* p, int64_t cols, bool fetch, const float* const (&in)[kTokens],
                         Sums<kTokens>& total) {
    for (int64_t col = 0; col < cols; col += 256, p += Type::kGroupBytes) {
      if (fetch) {
        FetchAhead(p, Type::kGroupBytes);
      }
      Minima minima;
      LoadMinima(p, minima);
#pragma GCC unroll 1
      for (int sub = 0; sub < 8; ++sub) {
        SubBlock<kTokens>(p, sub, minima, in, col, total);
      }
    }
  }
};

}  // namespace
}  // namespace alphecca::kernels::cpu

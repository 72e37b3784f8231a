// Products of weights of any type with F32 activations. Columns gather in short runs that begin from zero and then join
// the total: more accurate than one long chain, and independent work for the processor. The order is the row's own.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

// ---- One value a column: [column][16 rows] ------------------------------------------------------------------------

struct ColumnF32 {
  static constexpr int64_t kBytes = 4 * kGroupRows;
  static constexpr int kRun = 16;  // columns summed before they join the total
  static inline void Load16(const std::byte* p, F (&w)[kParts]) {
    for (int v = 0; v < kParts; ++v) {
      w[v] = Load(reinterpret_cast<const float*>(p) + v * kLanes);
    }
  }
};
struct ColumnBf16 {
  static constexpr int64_t kBytes = 2 * kGroupRows;
  static constexpr int kRun = 16;
  static inline void Load16(const std::byte* p, F (&w)[kParts]) {
    for (int v = 0; v < kParts; ++v) {
      w[v] = LoadBf16(p + v * 2 * kLanes);
    }
  }
};
struct ColumnSfp8 {
  static constexpr int64_t kBytes = kGroupRows;
  static constexpr int kRun = 8;  // short, as so much work a column leaves few runs in flight
  static inline void Load16(const std::byte* p, F (&w)[kParts]) { LoadSfp8(p, w); }
};

template <int kTokens>
using Sums = F[kTokens][kParts];

template <int kTokens>
inline void Clear(Sums<kTokens>& sums) {
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kParts; ++v) {
      sums[t][v] = Zero();
    }
  }
}
template <int kTokens>
inline void AddUp(const Sums<kTokens>& part, Sums<kTokens>& total) {
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kParts; ++v) {
      total[t][v] = Add(total[t][v], part[t][v]);
    }
  }
}
// total += part * factor of a row of the matrix.
template <int kTokens>
inline void Join(const Sums<kTokens>& part, const F (&factor)[kParts], Sums<kTokens>& total) {
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kParts; ++v) {
      total[t][v] = Fma(part[t][v], factor[v], total[t][v]);
    }
  }
}
template <int kTokens>
inline void Column(const F (&w)[kParts], const float* const (&in)[kTokens], int64_t col, Sums<kTokens>& part) {
  for (int t = 0; t < kTokens; ++t) {
    const F x = Set(in[t][col]);
    for (int v = 0; v < kParts; ++v) {
      part[t][v] = Fma(w[v], x, part[t][v]);
    }
  }
}

template <class Type>
struct Columns {
  static constexpr int kRun = Type::kRun;

  template <int kTokens>
  static inline void All(const std::byte* group, int64_t cols, bool fetch, const float* const (&in)[kTokens],
                         Sums<kTokens>& total) {
    int64_t col = 0;
    while (col < cols) {
      if (fetch) {
        FetchAhead(group + col * Type::kBytes, kRun * Type::kBytes);
      }
      const int64_t end = col + kRun < cols ? col + kRun : cols;
      Sums<kTokens> part;
      Clear<kTokens>(part);
      for (; col < end; ++col) {
        F w[kParts];
        Type::Load16(group + col * Type::kBytes, w);
        Column<kTokens>(w, in, col, part);
      }
      AddUp<kTokens>(part, total);
    }
  }
};

// ---- Quantised: layouts as in dot_int8_inl.h ------------------------------------------------------------------------

inline void LoadScales(const std::byte* p, F (&d)[kParts]) {
  for (int v = 0; v < kParts; ++v) {
    d[v] = LoadF16(p + v * 2 * kLanes);
  }
}

struct Q4_0F32 {
  // Byte kByte of each lane.
  template <int kByte, int kTokens>
  static inline void Byte(const I (&numbers)[kParts], const float* const (&in)[kTokens], int64_t col,
                          Sums<kTokens>& part) {
    F w[kParts];
    for (int v = 0; v < kParts; ++v) {
      w[v] = Sub(UnsignedByte<kByte>(numbers[v]), Set(8.0F));
    }
    Column<kTokens>(w, in, col + kByte, part);
  }
  template <int kTokens>
  static inline void Quad(const I (&numbers)[kParts], const float* const (&in)[kTokens], int64_t col,
                          Sums<kTokens>& part) {
    Byte<0, kTokens>(numbers, in, col, part);
    Byte<1, kTokens>(numbers, in, col, part);
    Byte<2, kTokens>(numbers, in, col, part);
    Byte<3, kTokens>(numbers, in, col, part);
  }
  template <int kTokens>
  static inline void All(const std::byte* p, int64_t cols, bool fetch, const float* const (&in)[kTokens],
                         Sums<kTokens>& total) {
    for (int64_t col = 0; col < cols; col += 32, p += Q4_0::kGroupBytes) {
      if (fetch) {
        FetchAhead(p, Q4_0::kGroupBytes);
      }
      Sums<kTokens> part;
      Clear<kTokens>(part);
      for (int c = 0; c < 4; ++c) {
        I low[kParts];
        I high[kParts];
        for (int v = 0; v < kParts; ++v) {
          const I bytes = LoadBytes(p + 2 * kGroupRows + c * 4 * kGroupRows + v * 4 * kLanes);
          low[v] = And(bytes, 0x0F);
          high[v] = And(ShiftRight<4>(bytes), 0x0F);
        }
        Quad<kTokens>(low, in, col + 4 * c, part);
        Quad<kTokens>(high, in, col + 16 + 4 * c, part);
      }
      F d[kParts];
      LoadScales(p, d);
      Join<kTokens>(part, d, total);
    }
  }
};

struct Q8_0F32 {
  template <int kByte, int kTokens>
  static inline void Byte(const I (&numbers)[kParts], const float* const (&in)[kTokens], int64_t col,
                          Sums<kTokens>& part) {
    F w[kParts];
    for (int v = 0; v < kParts; ++v) {
      w[v] = SignedByte<kByte>(numbers[v]);
    }
    Column<kTokens>(w, in, col + kByte, part);
  }
  template <int kTokens>
  static inline void All(const std::byte* p, int64_t cols, bool fetch, const float* const (&in)[kTokens],
                         Sums<kTokens>& total) {
    for (int64_t col = 0; col < cols; col += 32, p += Q8_0Int8::kGroupBytes) {
      if (fetch) {
        FetchAhead(p, Q8_0Int8::kGroupBytes);
      }
      Sums<kTokens> part;
      Clear<kTokens>(part);
      for (int c = 0; c < 8; ++c) {
        I numbers[kParts];
        for (int v = 0; v < kParts; ++v) {
          numbers[v] = LoadBytes(p + 2 * kGroupRows + c * 4 * kGroupRows + v * 4 * kLanes);
        }
        Byte<0, kTokens>(numbers, in, col + 4 * c, part);
        Byte<1, kTokens>(numbers, in, col + 4 * c, part);
        Byte<2, kTokens>(numbers, in, col + 4 * c, part);
        Byte<3, kTokens>(numbers, in, col + 4 * c, part);
      }
      F d[kParts];
      LoadScales(p, d);
      Join<kTokens>(part, d, total);
    }
  }
};

struct Q6_KF32 {
  template <int kByte, int kTokens>
  static inline void Byte(const I (&numbers)[kParts], const float* const (&in)[kTokens], int64_t col,
                          Sums<kTokens>& part) {
    F w[kParts];
    for (int v = 0; v < kParts; ++v) {
      w[v] = Sub(UnsignedByte<kByte>(numbers[v]), Set(32.0F));
    }
    Column<kTokens>(w, in, col + kByte, part);
  }
  // The numbers of four columns of segment kSegment.
  template <int kSegment>
  static inline void Numbers(const std::byte* run, I (&numbers)[kParts]) {
    for (int v = 0; v < kParts; ++v) {
      const std::byte* p = run + v * 4 * kLanes;
      const I bytes = LoadBytes(p + kSegment % 2 * Q6_KInt8::kRun);
      const I more = LoadBytes(p + 2 * Q6_KInt8::kRun);
      if constexpr (kSegment == 0) {
        numbers[v] = Or(And(bytes, 0x0F), And(ShiftLeft<4>(more), 0x30));
      } else if constexpr (kSegment == 1) {
        numbers[v] = Or(And(bytes, 0x0F), And(ShiftLeft<2>(more), 0x30));
      } else if constexpr (kSegment == 2) {
        numbers[v] = Or(And(ShiftRight<4>(bytes), 0x0F), And(more, 0x30));
      } else {
        numbers[v] = Or(And(ShiftRight<4>(bytes), 0x0F), And(ShiftRight<2>(more), 0x30));
      }
    }
  }
  template <int kSegment, int kTokens>
  static inline void Segment(const std::byte* runs, const std::byte* scales, const float* const (&in)[kTokens],
                             int64_t col, Sums<kTokens>& total) {
    for (int which = 0; which < 2; ++which) {
      Sums<kTokens> part;
      Clear<kTokens>(part);
      for (int k = 4 * which; k < 4 * which + 4; ++k) {
        I numbers[kParts];
        Numbers<kSegment>(runs + k * 3 * Q6_KInt8::kRun, numbers);
        Byte<0, kTokens>(numbers, in, col + 4 * k, part);
        Byte<1, kTokens>(numbers, in, col + 4 * k, part);
        Byte<2, kTokens>(numbers, in, col + 4 * k, part);
        Byte<3, kTokens>(numbers, in, col + 4 * k, part);
      }
      F scale[kParts];
      for (int v = 0; v < kParts; ++v) {
        scale[v] = LoadI8(scales + (2 * kSegment + which) * kGroupRows + v * kLanes);
      }
      Join<kTokens>(part, scale, total);
    }
  }
  template <int kTokens>
  static inline void All(const std::byte* p, int64_t cols, bool fetch, const float* const (&in)[kTokens],
                         Sums<kTokens>& total) {
    for (int64_t col = 0; col < cols; col += 256, p += Q6_KInt8::kGroupBytes) {
      if (fetch) {
        FetchAhead(p, Q6_KInt8::kGroupBytes);
      }
      const std::byte* scales = p + 2 * kGroupRows;
      const std::byte* runs = scales + 16 * kGroupRows;
      Sums<kTokens> block;
      Clear<kTokens>(block);
      for (int half = 0; half < 2; ++half, scales += 8 * kGroupRows, runs += 24 * Q6_KInt8::kRun) {
        const int64_t begin = col + 128 * half;
        Segment<0, kTokens>(runs, scales, in, begin, block);
        Segment<1, kTokens>(runs, scales, in, begin + 32, block);
        Segment<2, kTokens>(runs, scales, in, begin + 64, block);
        Segment<3, kTokens>(runs, scales, in, begin + 96, block);
      }
      F d[kParts];
      LoadScales(p, d);
      Join<kTokens>(block, d, total);
    }
  }
};

template <class Weights, int kTokens>
void F32Tokens(const PanelArgs& a, int64_t first) {
  const float* in[kTokens];
  Sums<kTokens> total;
  Clear<kTokens>(total);
  for (int t = 0; t < kTokens; ++t) {
    in[t] = a.in + (first + t) * a.in_stride;
  }
  Weights::template All<kTokens>(a.group, a.cols, first + kTokens == a.tokens, in, total);
  for (int t = 0; t < kTokens; ++t) {
    StoreResult(a, first + t, total[t]);
  }
}

// From token t on, kTokens at a time; returns the first that is left.
template <class Weights, int kTokens>
int64_t F32Chunks(const PanelArgs& a, int64_t t) {
  for (; t + kTokens <= a.tokens; t += kTokens) {
    F32Tokens<Weights, kTokens>(a, t);
  }
  return t;
}

template <class Weights>
void F32Panel(const PanelArgs& a) {
  constexpr int kMax = 12 / kParts;
  int64_t t = F32Chunks<Weights, kMax>(a, 0);
  if constexpr (kMax > 8) {
    t = F32Chunks<Weights, 8>(a, t);
  }
  if constexpr (kMax > 4) {
    t = F32Chunks<Weights, 4>(a, t);
  }
  t = F32Chunks<Weights, 2>(a, t);
  F32Chunks<Weights, 1>(a, t);
}

}  // namespace
}  // namespace alphecca::kernels::cpu

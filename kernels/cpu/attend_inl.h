// Attention of a few query heads over one chunk of keys, and the merge of chunks.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

// Elements i.. of a stored key or value.
template <bool kBf16>
inline F LoadStored(const std::byte* p, int64_t i, int lanes) {
  constexpr int64_t kBytes = kBf16 ? 2 : 4;
  std::byte some[kBytes * kLanes] = {};
  const std::byte* from = p + kBytes * i;
  if (lanes < kLanes) {
    __builtin_memcpy(some, from, static_cast<size_t>(kBytes * lanes));
    from = some;
  }
  if constexpr (kBf16) {
    return LoadBf16(from);
  } else {
    return Load(reinterpret_cast<const float*>(from));
  }
}

using Scores = float[kAttendHeads][kAttendKeys];

template <bool kBf16, int kHeads, int kKeys>
inline void ScoreKeys(const AttendChunk& a, int first, Scores& scores) {
  F sum[kHeads][kKeys];
  for (int h = 0; h < kHeads; ++h) {
    for (int k = 0; k < kKeys; ++k) {
      sum[h][k] = Zero();
    }
  }
  ForEachVector(a.head_dim, [&](int64_t i, int lanes) {
    F key[kKeys];
    for (int k = 0; k < kKeys; ++k) {
      key[k] = LoadStored<kBf16>(a.key[first + k], i, lanes);
      // Values are read soon, a few columns of many keys at a time, which the processor would not foresee.
      __builtin_prefetch(a.value[first + k] + (kBf16 ? 2 : 4) * i, 0, 2);
    }
    for (int h = 0; h < kHeads; ++h) {
      const F q = LoadSome(a.q + int64_t{h} * a.head_dim + i, lanes);
      for (int k = 0; k < kKeys; ++k) {
        sum[h][k] = Fma(q, key[k], sum[h][k]);
      }
    }
  });
  for (int h = 0; h < kHeads; ++h) {
    for (int k = 0; k < kKeys; ++k) {
      scores[h][first + k] = Sum(sum[h][k]) * a.scale;
    }
  }
}

// Turns scores into exp(score - max); writes max and sum.
inline void Exponentials(const AttendChunk& a, int head, float* scores) {
  F max = Set(-__builtin_inff());
  ForEachVector(kAttendKeys, [&](int64_t i, int) { max = Max(max, Load(scores + i)); });
  const float largest = Largest(max);
  F sum = Zero();
  ForEachVector(kAttendKeys, [&](int64_t i, int) {
    const F p = Exp(Sub(Load(scores + i), Set(largest)));
    sum = Add(sum, p);
    Store(scores + i, p);
  });
  a.max[head] = largest;
  a.sum[head] = Sum(sum);
}

// Adds keys [first, last) to kVectors vectors of each head's sum.
template <bool kBf16, int kHeads, int kVectors>
inline void SumValues(const AttendChunk& a, const Scores& weights, int first, int last, int64_t begin, int lanes) {
  F sum[kHeads][kVectors];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVectors; ++v) {
      const float* so_far = a.out + int64_t{h} * a.head_dim + begin + v * kLanes;
      sum[h][v] = first == 0 ? Zero() : LoadSome(so_far, lanes);
    }
  }
  for (int k = first; k < last; ++k) {
    F value[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      value[v] = LoadStored<kBf16>(a.value[k], begin + v * kLanes, lanes);
    }
    for (int h = 0; h < kHeads; ++h) {
      const F w = Set(weights[h][k]);
      for (int v = 0; v < kVectors; ++v) {
        sum[h][v] = Fma(w, value[v], sum[h][v]);
      }
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVectors; ++v) {
      StoreSome(a.out + int64_t{h} * a.head_dim + begin + v * kLanes, sum[h][v], lanes);
    }
  }
}

template <bool kBf16, int kHeads>
void AttendHeads(const AttendChunk& a) {
  Scores scores;
  int k = 0;
  for (; k + 2 <= a.keys; k += 2) {
    ScoreKeys<kBf16, kHeads, 2>(a, k, scores);
  }
  if (k < a.keys) {
    ScoreKeys<kBf16, kHeads, 1>(a, k, scores);
  }
  for (int h = 0; h < kHeads; ++h) {
    for (k = a.keys; k < kAttendKeys; ++k) {
      scores[h][k] = -__builtin_inff();
    }
    Exponentials(a, h, scores[h]);
  }
  // A few keys at a time, all columns: rows of values lie a power of two apart, so few fit the first-level cache at
  // once.
  constexpr int kTogether = 16;
  for (int first = 0; first < a.keys; first += kTogether) {
    const int last = first + kTogether < a.keys ? first + kTogether : a.keys;
    int64_t i = 0;
    for (; i + 2 * kLanes <= a.head_dim; i += 2 * kLanes) {
      SumValues<kBf16, kHeads, 2>(a, scores, first, last, i, kLanes);
    }
    for (; i < a.head_dim; i += kLanes) {
      const int64_t left = a.head_dim - i;
      SumValues<kBf16, kHeads, 1>(a, scores, first, last, i, left < kLanes ? static_cast<int>(left) : kLanes);
    }
  }
}

template <bool kBf16>
void AttendStored(const AttendChunk& a) {
  switch (a.heads) {
    case 1:
      return AttendHeads<kBf16, 1>(a);
    case 2:
      return AttendHeads<kBf16, 2>(a);
    case 3:
      return AttendHeads<kBf16, 3>(a);
    default:
      return AttendHeads<kBf16, kAttendHeads>(a);
  }
}

void AttendOver(const AttendChunk& a) {
  if (a.bf16) {
    AttendStored<true>(a);
  } else {
    AttendStored<false>(a);
  }
}

inline float Exp1(float x) {
  float lanes[kLanes];
  Store(lanes, Exp(Set(x)));
  return lanes[0];
}

void MergeChunk(const float* chunk_out, float chunk_max, float chunk_sum, int head_dim, float* out, float* max,
                float* sum) {
  const float largest = *max > chunk_max ? *max : chunk_max;
  const float before = Exp1(*max - largest);
  const float now = Exp1(chunk_max - largest);
  ForEachVector(head_dim, [&](int64_t i, int lanes) {
    const F joined = Fma(LoadSome(chunk_out + i, lanes), Set(now), Mul(LoadSome(out + i, lanes), Set(before)));
    StoreSome(out + i, joined, lanes);
  });
  *sum = *sum * before + chunk_sum * now;
  *max = largest;
}

}  // namespace
}  // namespace alphecca::kernels::cpu

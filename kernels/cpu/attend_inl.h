// Attention of a tile of queries over one chunk of keys, as two products of small matrices, and the merge of parts.
//
// Scores have a key in each lane, summed over the head's elements in rising order; outputs have an element of the head
// in each lane, summed over the keys that the query sees in rising order. So no sum of a query knows which queries it
// is computed with.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

// Keys, or columns of values, that are turned into F32 at a time, once for all queries.
constexpr int kStripVectors = kTileVectors;
constexpr int kStrip = kStripVectors * kLanes;
static_assert(kStrip <= 32, "or kAttendScratch and AttendWidth are too small");
constexpr int kGroup = 16;  // HostKvPool's kKeyGroup
constexpr int kQ8Block = 32;

template <int kCount>
struct CountOf {
  static constexpr int kValue = kCount;
};
// f(CountOf<count>()), 1 <= count <= kMost.
template <int kMost, typename Function>
inline void WithCount(int count, Function f) {
  if constexpr (kMost > 1) {
    if (count < kMost) {
      return WithCount<kMost - 1>(count, f);
    }
  }
  f(CountOf<kMost>());
}

// Calls f(first, count) for tiles of queries, as even as can be.
template <typename Function>
inline void ForEachTile(int queries, Function f) {
  const int tiles = (queries + kTileRows - 1) / kTileRows;
  for (int tile = 0; tile < tiles; ++tile) {
    const int first = queries * tile / tiles;
    f(first, queries * (tile + 1) / tiles - first);
  }
}

// ---- Stored numbers to F32 ------------------------------------------------------------------------------------------

// kStrip numbers of type kType, read as they are needed, so that the processor computes while it waits for them.
template <DType kType>
inline F LoadStored(const std::byte* p) {
  if constexpr (kType == DType::kF32) {
    return Load(reinterpret_cast<const float*>(p));
  } else if constexpr (kType == DType::kBF16) {
    return LoadBf16(p);
  } else {
    return LoadI8(p);
  }
}
template <DType kType>
constexpr int kBytes = kType == DType::kF32    ? 4
                       : kType == DType::kBF16 ? 2
                                               : 1;

inline void StoreStrip(const F (&x)[kStripVectors], float* to) {
  for (int v = 0; v < kStripVectors; ++v) {
    Store(to + v * kLanes, x[v]);
  }
}

// Element `begin` + i of kStrip keys, from groups [Hd][16]; keeps what it reads as rows of a strip. Fetches the keys'
// values, which are read soon, a few columns of many rows at a time, which the processor would not foresee.
template <DType kType>
struct KeysFromGroups {
  static constexpr int kGroups = kStrip / kGroup;
  const std::byte* group[kGroups];
  const std::byte* values[kGroups];
  int head_dim;
  int begin;
  float* strip;
  F scale[kStripVectors];

  KeysFromGroups(const AttendChunk& a, int first, int dims_begin, float* keep)
      : head_dim(a.head_dim), begin(dims_begin), strip(keep) {
    for (int g = 0; g < kGroups; ++g) {
      group[g] = a.keys[first / kGroup + g];
      values[g] = a.values[first + g * kGroup];
    }
    // What a group gives that no query sees does not matter.
    for (int g = 0; g < kGroups; ++g) {
      group[g] = group[g] != nullptr ? group[g] : group[kGroups - 1 - g];
    }
  }
  void operator()(int i, F (&x)[kStripVectors]) {
    const int element = begin + i;
    if (kType == DType::kQ8_0 && i % kQ8Block == 0) {
      for (int v = 0; v < kStripVectors; ++v) {
        const int lane = v * kLanes;
        const std::byte* scales = group[lane / kGroup] + kGroup * head_dim;
        scale[v] = LoadF16(scales + 2 * (element / kQ8Block * kGroup + lane % kGroup));
      }
    }
    for (int v = 0; v < kStripVectors; ++v) {
      const int lane = v * kLanes;
      x[v] = LoadStored<kType>(group[lane / kGroup] + kBytes<kType> * (kGroup * element + lane % kGroup));
      if constexpr (kType == DType::kQ8_0) {
        x[v] = Mul(scale[v], x[v]);
      }
    }
    for (int g = 0; g < kGroups; ++g) {
      __builtin_prefetch(values[g] + RowBytes(kType, kQ8Block) * kGroup / kQ8Block * element, 0, 2);
    }
    StoreStrip(x, strip + i * kStrip);
  }
};

// Columns from `begin` on of value k; keeps what it reads. Fetches as large a share of the next chunk's keys.
template <DType kType>
struct ValuesFromRows {
  const AttendChunk& a;
  int begin;
  float* strip;

  void operator()(int k, F (&x)[kStripVectors]) {
    const std::byte* row = a.values[k];
    __builtin_prefetch(a.next[k / kGroup] + kBytes<kType> * (begin * kGroup + k % kGroup * kStrip), 0, 2);
    for (int v = 0; v < kStripVectors; ++v) {
      x[v] = LoadStored<kType>(row + kBytes<kType> * (begin + v * kLanes));
    }
    if constexpr (kType == DType::kQ8_0) {  // a strip lies within a block
      const F scale = SetF16(row + a.head_dim + begin / kQ8Block * 2);
      for (int v = 0; v < kStripVectors; ++v) {
        x[v] = Mul(scale, x[v]);
      }
    }
    StoreStrip(x, strip + k * kStrip);
  }
};

// What was kept.
struct FromStrip {
  const float* strip;

  void operator()(int i, F (&x)[kStripVectors]) {
    for (int v = 0; v < kStripVectors; ++v) {
      x[v] = Load(strip + i * kStrip + v * kLanes);
    }
  }
};

// ---- Scores ---------------------------------------------------------------------------------------------------------

// scores += q * keys over `dims` elements; `first`: = instead.
template <int kQueries, typename Keys>
void ScoreTile(const float* q, Keys keys, int dims, bool first, float* scores) {
  F sum[kQueries][kStripVectors];
  for (int j = 0; j < kQueries; ++j) {
    for (int v = 0; v < kStripVectors; ++v) {
      sum[j][v] = first ? Zero() : Load(scores + j * kAttendKeys + v * kLanes);
    }
  }
  for (int i = 0; i < dims; ++i) {
    F key[kStripVectors];
    keys(i, key);
    for (int j = 0; j < kQueries; ++j) {
      const F x = Set(q[j * kAttendDims + i]);
      for (int v = 0; v < kStripVectors; ++v) {
        sum[j][v] = Fma(x, key[v], sum[j][v]);
      }
    }
  }
  for (int j = 0; j < kQueries; ++j) {
    StoreStrip(sum[j], scores + j * kAttendKeys);
  }
}

// Products of all queries and keys [first, first + kStrip). The first tile of queries turns the keys into F32.
template <DType kType>
void ScoreStrip(const AttendChunk& a, int first, float* strip, float* scores) {
  for (int begin = 0; begin < a.head_dim; begin += kAttendDims) {
    const int dims = a.head_dim - begin < kAttendDims ? a.head_dim - begin : kAttendDims;
    ForEachTile(a.queries, [&](int query, int count) {
      const float* q = a.q + PackedQuery(a.queries, query, begin);
      float* to = scores + query * kAttendKeys + first;
      WithCount<kTileRows>(count, [&](auto queries) {
        constexpr int kQueries = decltype(queries)::kValue;
        if (query == 0) {
          ScoreTile<kQueries>(q, KeysFromGroups<kType>(a, first, begin, strip), dims, begin == 0, to);
        } else {
          ScoreTile<kQueries>(q, FromStrip{strip}, dims, begin == 0, to);
        }
      });
    });
  }
}

// ---- Softmax --------------------------------------------------------------------------------------------------------

// Scales the scores of one query, -inf where it sees no key, and returns the largest.
inline float ScaleScores(float scale, KeySpan visible, float* scores) {
  const F none = Set(-__builtin_inff());
  float lane[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    lane[i] = static_cast<float>(i);
  }
  const F lanes = Load(lane);
  F max = none;
  for (int k = 0; k < kAttendKeys; k += kLanes) {
    const F key = Add(lanes, Set(static_cast<float>(k)));
    F x = Mul(Load(scores + k), Set(scale));
    x = Select(Greater(Set(static_cast<float>(visible.begin)), key), none, x);
    x = Select(Greater(Set(static_cast<float>(visible.end)), key), x, none);
    Store(scores + k, x);
    max = Max(max, x);
  }
  return Largest(max);
}

// Turns scores into exp(score - max), with the largest score of all chunks so far, and brings what earlier chunks gave
// to that maximum.
void Softmax(const AttendChunk& a, float* scores) {
  float before[kAttendQueries];
  float factor[kAttendQueries];
  const int width = static_cast<int>(AttendWidth(a.head_dim));
  for (int j = 0; j < a.queries; ++j) {
    before[j] = a.max[j];
    if (!a.visible[j].empty()) {
      const float largest = ScaleScores(a.scale, a.visible[j], scores + j * kAttendKeys);
      a.max[j] = largest > before[j] ? largest : before[j];
    }
  }
  ForEachVector(a.queries, [&](int64_t j, int lanes) {
    StoreSome(factor + j, Exp(Sub(LoadSome(before + j, lanes), LoadSome(a.max + j, lanes))), lanes);
  });
  for (int j = 0; j < a.queries; ++j) {
    if (a.visible[j].empty()) {
      continue;
    }
    float* p = scores + j * kAttendKeys;
    float* out = a.out + int64_t{j} * width;
    F sum = Zero();
    for (int k = 0; k < kAttendKeys; k += kLanes) {
      const F e = Exp(Sub(Load(p + k), Set(a.max[j])));
      sum = Add(sum, e);
      Store(p + k, e);
    }
    const bool fresh = a.sum[j] == 0.0F;
    if (fresh || factor[j] != 1.0F) {
      for (int i = 0; i < width; i += kLanes) {
        Store(out + i, fresh ? Zero() : Mul(Load(out + i), Set(factor[j])));
      }
    }
    a.sum[j] = a.sum[j] * factor[j] + Sum(sum);
  }
}

// ---- Outputs --------------------------------------------------------------------------------------------------------

// out += weights * values over some keys, kStrip columns.
template <int kQueries, typename Values>
void SumTile(const float* weights, Values values, KeySpan keys, int64_t width, float* out) {
  F sum[kQueries][kStripVectors];
  for (int j = 0; j < kQueries; ++j) {
    for (int v = 0; v < kStripVectors; ++v) {
      sum[j][v] = Load(out + j * width + v * kLanes);
    }
  }
  for (int k = keys.begin; k < keys.end; ++k) {
    F value[kStripVectors];
    values(k, value);
    for (int j = 0; j < kQueries; ++j) {
      const F w = Set(weights[j * kAttendKeys + k]);
      for (int v = 0; v < kStripVectors; ++v) {
        sum[j][v] = Fma(w, value[v], sum[j][v]);
      }
    }
  }
  for (int j = 0; j < kQueries; ++j) {
    StoreStrip(sum[j], out + j * width);
  }
}

// Columns [begin, begin + kStrip) of the values of `keys`; 0 past the end of the head.
template <DType kType>
void ConvertValues(const AttendChunk& a, KeySpan keys, int begin, float* strip) {
  const int columns = a.head_dim - begin < kStrip ? a.head_dim - begin : kStrip;
  for (int k = keys.begin; k < keys.end; ++k) {
    F x[kStripVectors];
    if (a.values[k] == nullptr) {
      continue;
    }
    if (columns == kStrip) {
      ValuesFromRows<kType>{a, begin, strip}(k, x);
      continue;
    }
    std::byte some[kBytes<kType> * kStrip] = {};  // never of Q8_0, whose heads are whole blocks
    __builtin_memcpy(some, a.values[k] + kBytes<kType> * begin, static_cast<size_t>(kBytes<kType> * columns));
    for (int v = 0; v < kStripVectors; ++v) {
      x[v] = LoadStored<kType>(some + kBytes<kType> * v * kLanes);
    }
    StoreStrip(x, strip + k * kStrip);
  }
}

inline KeySpan Common(KeySpan a, KeySpan b) {
  return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}
// What all of some queries see.
inline KeySpan SeenByAll(const KeySpan* visible, int queries) {
  KeySpan common = visible[0];
  for (int j = 1; j < queries; ++j) {
    common = Common(common, visible[j]);
  }
  return common;
}

// Keys that all queries of a tile see are summed together; those before and after that only some see, query by query:
// a weight of 0 would not do, as the value may be infinite.
void SumStrip(const AttendChunk& a, int first, int count, const float* weights, const float* strip, float* out) {
  const int64_t width = AttendWidth(a.head_dim);
  const KeySpan common = SeenByAll(a.visible + first, count);
  const auto alone = [&](int j, KeySpan keys) {
    if (!keys.empty()) {
      SumTile<1>(weights + j * kAttendKeys, FromStrip{strip}, keys, width, out + j * width);
    }
  };
  for (int j = first; j < first + count; ++j) {
    alone(j, common.empty() ? a.visible[j] : KeySpan{a.visible[j].begin, common.begin});
  }
  if (common.empty()) {
    return;
  }
  WithCount<kTileRows>(count, [&](auto queries) {
    SumTile<decltype(queries)::kValue>(weights + first * kAttendKeys, FromStrip{strip}, common, width,
                                       out + first * width);
  });
  for (int j = first; j < first + count; ++j) {
    alone(j, {common.end, a.visible[j].end});
  }
}

// Adds columns from `begin` on; `seen` is what any query sees. If the first tile of queries sees all of it, as it does
// but at the ends of what rows see, it turns the values into F32.
template <DType kType>
void SumColumns(const AttendChunk& a, KeySpan seen, int begin, const float* weights, float* strip) {
  float* out = a.out + begin;
  ForEachTile(a.queries, [&](int first, int count) {
    if (first == 0) {
      const KeySpan common = SeenByAll(a.visible, count);
      if (common.begin == seen.begin && common.end == seen.end && begin + kStrip <= a.head_dim) {
        return WithCount<kTileRows>(count, [&](auto queries) {
          SumTile<decltype(queries)::kValue>(weights, ValuesFromRows<kType>{a, begin, strip}, seen,
                                             AttendWidth(a.head_dim), out);
        });
      }
      ConvertValues<kType>(a, seen, begin, strip);
    }
    SumStrip(a, first, count, weights, strip, out);
  });
}

// What any query sees, and maybe some between that none does.
inline KeySpan SeenByAny(const AttendChunk& a) {
  KeySpan seen = {kAttendKeys, 0};
  for (int j = 0; j < a.queries; ++j) {
    const KeySpan v = a.visible[j];
    if (!v.empty()) {
      seen = {v.begin < seen.begin ? v.begin : seen.begin, v.end > seen.end ? v.end : seen.end};
    }
  }
  return seen;
}

template <DType kType>
void AttendTo(const AttendChunk& a) {
  float* scores = a.scratch;
  float* strip = scores + kAttendQueries * kAttendKeys;
  float* values = strip + kAttendDims * kStrip;
  const KeySpan seen = SeenByAny(a);
  for (int first = 0; first < kAttendKeys; first += kStrip) {
    bool any = false;
    for (int key = first; key < first + kStrip; key += kGroup) {
      any = any || a.keys[key / kGroup] != nullptr;
    }
    if (any) {
      ScoreStrip<kType>(a, first, strip, scores);
    }
  }
  Softmax(a, scores);
  for (int begin = 0; begin < a.head_dim; begin += kStrip) {
    SumColumns<kType>(a, seen, begin, scores, values);
  }
}

void Attend(const AttendChunk& a) {
  switch (a.type) {
    case DType::kF32:
      return AttendTo<DType::kF32>(a);
    case DType::kBF16:
      return AttendTo<DType::kBF16>(a);
    default:
      return AttendTo<DType::kQ8_0>(a);
  }
}

inline float Exp1(float x) {
  float lanes[kLanes];
  Store(lanes, Exp(Set(x)));
  return lanes[0];
}

void MergePart(const float* part, float part_max, float part_sum, int64_t width, float* out, float* max, float* sum) {
  const float largest = *max > part_max ? *max : part_max;
  const float before = Exp1(*max - largest);
  const float now = Exp1(part_max - largest);
  ForEachVector(width, [&](int64_t i, int lanes) {
    const F joined = Fma(LoadSome(part + i, lanes), Set(now), Mul(LoadSome(out + i, lanes), Set(before)));
    StoreSome(out + i, joined, lanes);
  });
  *sum = *sum * before + part_sum * now;
  *max = largest;
}

}  // namespace
}  // namespace alphecca::kernels::cpu

// Attention over the KV cache.
//
// Rows of one slot that follow each other, and the query heads of one kv head, form a tile, for which keys and values
// are read once. A row's keys are taken in chunks that begin at multiples of kAttendKeys; chunks add up to parts that
// begin at multiples of kPartKeys, and parts join in rising order. So a row's sums are grouped alike whether one thread
// takes all parts or several do, and whatever else the step holds.
#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/cpu_internal.h"

namespace alphecca::kernels::cpu {

static_assert(kAttendKeys % kKeyGroup == 0);

namespace {

constexpr int64_t kPartKeys = 256;
static_assert(kPartKeys % kAttendKeys == 0);
// Room for the parts of tiles that several threads share: beyond it tiles stay whole.
constexpr int64_t kPartsFloats = int64_t{16} << 20;

// Query heads of one kv head.
struct Heads {
  int first = 0;
  int count = 0;
  int kv_head = 0;
};

// Some rows of one slot times some heads, at most kAttendQueries queries: query r * heads.count + h.
struct QueryTile {
  int64_t row = 0;
  int64_t rows = 0;
  Heads heads;
  KeyRange keys;           // that any row sees, and maybe some between them that none does
  float* parts = nullptr;  // [PartsOf(keys)] parts, if the tile is cut up; see Part

  int queries() const { return static_cast<int>(rows) * heads.count; }
};

// The tile's keys of parts [begin, end).
struct Piece {
  const QueryTile* tile = nullptr;
  Range parts;
};

// A softmax over some keys: out [queries, width], max [queries], sum [queries]; sum 0 where the query sees none.
struct Part {
  float* out = nullptr;
  float* max = nullptr;
  float* sum = nullptr;
  int64_t width = 0;

  static int64_t Floats(int64_t queries, int64_t width) { return queries * (width + 2); }
  Part(float* at, int64_t queries, int64_t row)
      : out(at), max(at + queries * row), sum(at + queries * (row + 1)), width(row) {}
};

bool None(KeyRange keys) {
  return keys.last < keys.first;
}
Range PartsOf(KeyRange keys) {
  return None(keys) ? Range{0, 0} : Range{keys.first / kPartKeys, keys.last / kPartKeys + 1};
}
// Which keys from `first` on, at most kAttendKeys, lie in the range.
KeySpan Visible(KeyRange keys, int64_t first) {
  const auto within = [&](int64_t key) { return static_cast<int>(std::clamp<int64_t>(key - first, 0, kAttendKeys)); };
  return {within(keys.first), within(int64_t{keys.last} + 1)};
}

uint64_t Bits(KeySpan span) {
  return span.empty() ? 0 : ~uint64_t{0} >> (kAttendKeys - (span.end - span.begin)) << span.begin;
}

std::vector<Heads> GroupHeads(const AttendArgs& a) {
  std::vector<Heads> groups;
  for (int head = 0; head < a.heads; ++head) {
    const int kv_head = (a.first_head + head) / a.group - a.first_kv_head;
    if (groups.empty() || groups.back().kv_head != kv_head || groups.back().count == kAttendQueries) {
      groups.push_back({head, 0, kv_head});
    }
    ++groups.back().count;
  }
  return groups;
}

std::vector<QueryTile> CutRows(const HostStep& s, const AttendArgs& a) {
  std::vector<QueryTile> tiles;
  const std::vector<KeyRange>& visible = s.visible[a.pool_kind];
  const auto slot = [&](int64_t t) { return s.slots[static_cast<size_t>(t)]; };
  for (const Heads& heads : GroupHeads(a)) {
    const int64_t most = std::max(1, kAttendQueries / heads.count);
    for (int64_t t = 0; t < s.rows;) {
      QueryTile tile;
      tile.row = t;
      tile.heads = heads;
      for (; t < s.rows && tile.rows < most && slot(t) == slot(tile.row); ++t, ++tile.rows) {
        const KeyRange keys = visible[static_cast<size_t>(t)];
        if (None(tile.keys)) {
          tile.keys = keys;
        } else if (!None(keys)) {
          tile.keys = {std::min(tile.keys.first, keys.first), std::max(tile.keys.last, keys.last)};
        }
      }
      tiles.push_back(tile);
    }
  }
  return tiles;
}

// About as much as it takes: products, and reading the keys.
int64_t Work(const QueryTile& tile) {
  return PartsOf(tile.keys).size() * (tile.queries() + 8);
}

// Tiles that are more than a fair share for one thread are cut into parts, for which `scratch` gives room.
std::vector<Piece> CutKeys(std::vector<QueryTile>& tiles, int threads, int64_t width, Scratch& scratch) {
  int64_t all = 0;
  for (const QueryTile& tile : tiles) {
    all += Work(tile);
  }
  const int64_t share = std::max<int64_t>(1, threads > 1 ? all / (int64_t{4} * threads) : all);
  const auto floats = [&](const QueryTile& tile) {
    return PartsOf(tile.keys).size() * Part::Floats(tile.queries(), width);
  };
  std::vector<Piece> pieces;
  std::vector<QueryTile*> cut;
  int64_t room = 0;
  for (QueryTile& tile : tiles) {
    const Range parts = PartsOf(tile.keys);
    const int64_t count = std::min(parts.size(), (Work(tile) + share - 1) / share);
    if (count <= 1 || room + floats(tile) > kPartsFloats) {
      pieces.push_back({&tile, parts});
      continue;
    }
    room += floats(tile);
    cut.push_back(&tile);
    for (int64_t i = 0; i < count; ++i) {
      pieces.push_back({&tile, {parts.begin + parts.size() * i / count, parts.begin + parts.size() * (i + 1) / count}});
    }
  }
  float* at = cut.empty() ? nullptr : scratch.Floats(room);
  for (QueryTile* tile : cut) {
    tile->parts = at;
    at += floats(*tile);
  }
  return pieces;
}

// Where the keys and values of one chunk lie, as AttendChunk wants them.
struct ChunkPlaces {
  const std::byte* keys[kAttendKeys / kKeyGroup] = {};
  const std::byte* values[kAttendKeys] = {};
};

// One token's key among those of a group of 16, for pools whose groups are others.
void Stage(const HostKvPool& pool, int layer, int32_t block, int head, int64_t token, int lane, std::byte* row,
           std::byte* group) {
  pool.GetKey(layer, block, head, token, row);
  InterleaveKey(pool.spec.type, pool.spec.layers[static_cast<size_t>(layer)].head_dim, row, lane, kKeyGroup, group);
}

// Of the chunk that begins at `first`, those whose bit is set. Keys of other groups go to `staging`, in groups of 16.
ChunkPlaces Locate(const HostKvPool& pool, int layer, int head, std::span<const int32_t> table, int64_t first,
                   uint64_t wanted, std::byte* staging) {
  ChunkPlaces places;
  const int64_t block_tokens = pool.spec.block_tokens;
  const int64_t row_bytes = RowBytes(pool.spec.type, pool.spec.layers[static_cast<size_t>(layer)].head_dim);
  int64_t index = first / block_tokens;
  int64_t token = first % block_tokens;
  for (int k = 0; k < kAttendKeys; ++k, ++token) {
    if (token == block_tokens) {
      token = 0;
      ++index;
    }
    if ((wanted >> k & 1U) == 0) {
      continue;
    }
    const int32_t block = table[static_cast<size_t>(index)];
    Check(block >= 0, "a block at every position that is read");
    const std::byte*& group = places.keys[k / kKeyGroup];
    places.values[k] = pool.Value(layer, block, head, token);
    if (pool.key_group() != kKeyGroup) {
      std::byte* own = staging + k / kKeyGroup * kKeyGroup * row_bytes;
      Stage(pool, layer, block, head, token, k % kKeyGroup, staging + kAttendKeys * row_bytes, own);
      group = own;
    } else if (group == nullptr) {
      group = pool.KeyGroup(layer, block, head, token);
    }
  }
  return places;
}

// Joins the parts of one query, in rising order, to its output.
class Join {
 public:
  Join(const KernelTable& kernels, float* out, int64_t width) : kernels_(kernels), out_(out), width_(width) {
    std::fill_n(out_, width_, 0.0F);
  }
  void Add(const Part& part, int query) {
    if (part.sum[query] != 0.0F) {
      kernels_.merge_part(part.out + query * part.width, part.max[query], part.sum[query], width_, out_, &max_, &sum_);
    }
  }
  void Finish() {
    if (sum_ != 0.0F) {
      kernels_.scale_row(out_, 1.0F / sum_, nullptr, width_, out_);
    }
  }

 private:
  const KernelTable& kernels_;
  float* out_;
  int64_t width_;
  float max_ = -INFINITY;
  float sum_ = 0.0F;
};

Join JoinOf(const KernelTable& kernels, const AttendArgs& a, const QueryTile& tile, int query) {
  const int64_t head = tile.heads.first + query % tile.heads.count;
  return {kernels, FloatRow(a.out, tile.row + query / tile.heads.count) + head * a.head_dim, a.head_dim};
}

// One tile, with room for one thread's work on it.
class TileAttention {
 public:
  TileAttention(const KernelTable& kernels, const HostStep& s, const AttendArgs& a, const QueryTile& tile,
                Scratch& scratch)
      : kernels_(kernels), a_(a), tile_(tile), pool_(static_cast<const HostKvPool&>(*a.pool)) {
    const int64_t queries = tile.queries();
    const int64_t packed = PackedQuery(queries, 0, a.head_dim + kAttendDims - 1);
    const int64_t part = Part::Floats(queries, AttendWidth(a.head_dim));
    const int64_t staged = (kAttendKeys + 1) * RowBytes(pool_.spec.type, a.head_dim);
    q_ = scratch.Floats(packed + part + kAttendScratch + (staged + 3) / 4);
    part_ = q_ + packed;
    chunk_ = part_ + part;
    staging_ = reinterpret_cast<std::byte*>(chunk_ + kAttendScratch);
    visible_ = std::span(s.visible[a.pool_kind]).subspan(static_cast<size_t>(tile.row), static_cast<size_t>(tile.rows));
    table_ = pool_.Table(s.slots[static_cast<size_t>(tile.row)]);
    for (int64_t j = 0; j < queries; ++j) {
      const float* from =
          FloatRow(a.q, tile.row + j / tile.heads.count) + (tile.heads.first + j % tile.heads.count) * a.head_dim;
      for (int64_t i = 0; i < a.head_dim; i += kAttendDims) {
        std::copy_n(from + i, std::min<int64_t>(kAttendDims, a.head_dim - i), q_ + PackedQuery(queries, j, i));
      }
    }
  }

  void AttendPart(int64_t part, const Part& to) {
    std::fill_n(to.max, tile_.queries(), -INFINITY);
    std::fill_n(to.sum, tile_.queries(), 0.0F);
    const int64_t end = std::min<int64_t>((part + 1) * kPartKeys, int64_t{tile_.keys.last} + 1);
    for (int64_t first = part * kPartKeys; first < end; first += kAttendKeys) {
      AddChunk(first, to);
    }
  }

  // All parts of the tile, to the output.
  void AttendAll() {
    const int queries = tile_.queries();
    const Part part(part_, queries, AttendWidth(a_.head_dim));
    std::vector<Join> joins;
    joins.reserve(static_cast<size_t>(queries));
    for (int j = 0; j < queries; ++j) {
      joins.push_back(JoinOf(kernels_, a_, tile_, j));
    }
    const Range parts = PartsOf(tile_.keys);
    for (int64_t i = parts.begin; i < parts.end; ++i) {
      AttendPart(i, part);
      for (int j = 0; j < queries; ++j) {
        joins[static_cast<size_t>(j)].Add(part, j);
      }
    }
    for (Join& join : joins) {
      join.Finish();
    }
  }

 private:
  // Keys from `first` on.
  void AddChunk(int64_t first, const Part& to) {
    KeySpan spans[kAttendQueries];
    uint64_t wanted = 0;
    for (int r = 0; r < tile_.rows; ++r) {
      const KeySpan span = Visible(visible_[static_cast<size_t>(r)], first);
      std::fill_n(spans + r * tile_.heads.count, tile_.heads.count, span);
      wanted |= Bits(span);
    }
    if (wanted == 0) {
      return;
    }
    const std::byte* next[kAttendKeys / kKeyGroup] = {};
    FindKeys(first + kAttendKeys, next);
    const ChunkPlaces places = Locate(pool_, a_.pool_layer, tile_.heads.kv_head, table_, first, wanted, staging_);
    kernels_.attend_chunk({.type = pool_.spec.type,
                           .head_dim = a_.head_dim,
                           .scale = a_.scale,
                           .queries = tile_.queries(),
                           .q = q_,
                           .keys = places.keys,
                           .values = places.values,
                           .next = next,
                           .visible = spans,
                           .out = to.out,
                           .max = to.max,
                           .sum = to.sum,
                           .scratch = chunk_});
  }

  // Groups of keys from `first` on, as far as the tile's keys go; null where there are none.
  void FindKeys(int64_t first, const std::byte** groups) const {
    const int64_t block_tokens = pool_.spec.block_tokens;
    for (int64_t key = first; key < first + kAttendKeys && key <= tile_.keys.last; key += kKeyGroup, ++groups) {
      const int32_t block = table_[static_cast<size_t>(key / block_tokens)];
      if (block >= 0) {
        *groups = pool_.KeyGroup(a_.pool_layer, block, tile_.heads.kv_head, key % block_tokens);
      }
    }
  }

  const KernelTable& kernels_;
  const AttendArgs& a_;
  const QueryTile& tile_;
  const HostKvPool& pool_;
  std::span<const KeyRange> visible_;  // of the tile's rows
  std::span<const int32_t> table_;
  float* q_ = nullptr;  // see PackedQuery
  float* part_ = nullptr;
  float* chunk_ = nullptr;
  std::byte* staging_ = nullptr;  // keys of a chunk, and one more
};

}  // namespace

void CpuBackend::Attend(Stream&, const Step& step, const AttendArgs& a) {
  const HostStep& s = Host(step);
  const int64_t width = AttendWidth(a.head_dim);
  Check(a.q.rows == s.rows && a.out.rows == s.rows && a.q.cols >= int64_t{a.heads} * a.head_dim &&
            a.out.cols == int64_t{a.heads} * a.head_dim,
        "Attend: shapes of q and out");
  std::vector<QueryTile> tiles = CutRows(s, a);
  int64_t elements = 0;
  for (const QueryTile& tile : tiles) {
    elements += PartsOf(tile.keys).size() * kPartKeys * tile.queries() * a.head_dim;
  }
  const bool parallel = elements > kSerialElements;
  const std::vector<Piece> pieces = CutKeys(tiles, parallel ? pool_.threads() : 1, width, partial_);
  const auto part_of = [&](const QueryTile& tile, int64_t i) {
    const int64_t floats = Part::Floats(tile.queries(), width);
    return Part(tile.parts + (i - PartsOf(tile.keys).begin) * floats, tile.queries(), width);
  };
  const auto count = static_cast<int64_t>(pieces.size());
  pool_.Run(count, parallel ? 1 : count, [&](int64_t begin, int64_t end, int thread) {
    for (; begin < end; ++begin) {
      const Piece& piece = pieces[static_cast<size_t>(begin)];
      TileAttention attention(kernels_, s, a, *piece.tile, Own(thread));
      if (piece.tile->parts == nullptr) {
        attention.AttendAll();
        continue;
      }
      for (int64_t i = piece.parts.begin; i < piece.parts.end; ++i) {
        attention.AttendPart(i, part_of(*piece.tile, i));
      }
    }
  });
  for (const QueryTile& tile : tiles) {
    if (tile.parts == nullptr) {
      continue;
    }
    const Range parts = PartsOf(tile.keys);
    const int64_t grain = std::max<int64_t>(1, kSerialElements / (parts.size() * width));
    pool_.Run(tile.queries(), grain, [&](int64_t begin, int64_t end, int) {
      for (; begin < end; ++begin) {
        Join join = JoinOf(kernels_, a, tile, static_cast<int>(begin));
        for (int64_t i = parts.begin; i < parts.end; ++i) {
          join.Add(part_of(tile, i), static_cast<int>(begin));
        }
        join.Finish();
      }
    });
  }
}

}  // namespace alphecca::kernels::cpu

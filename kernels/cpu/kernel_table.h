// What one instruction set offers: the inner loops, over plain pointers. Each isa_*.cc compiles the same sources
// (*_inl.h over simd_*.h) with its own flags and exports one table.
//
// Whatever is compiled with such flags stays in unnamed namespaces: an inline function of a header, emitted there and
// chosen by the linker for all, would end the process on a machine without the instructions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"

namespace alphecca::kernels::cpu {

// Rows of a matrix that lie interleaved: what one panel computes.
inline constexpr int kGroupRows = 16;

// Rows of activations in signed bytes, |q| <= 127, each a record of `stride` bytes that its kind of weights reads:
//   Q4_0, Q4_K, Q5_K   value = row_scale * scale * q, scale a whole number from 1 to kLargestScale for every 8 columns;
//                      with VNNI two bytes a column instead: see sliced_inl.h
//   Q8_0               value = d * q, d f32 for every 32 columns
//   Q6_K               value = d * q, d f32 for every 16 columns
// A scale for 8 columns costs little where sums of bytes are 16 bits wide: the multiplication that widens them takes it
// as its factor. Corrections are -offset times the sum of the activations, so that weights stored as unsigned numbers
// need no subtraction: Q4_0 8, scales included, one for 32 columns, and so Q4_K and Q5_K, whose minima need the sum;
// Q6_K 32, one for 16; Q8_0 none.
struct QuantRows {
  const std::byte* data = nullptr;
  int64_t stride = 0;
};
// 32 * 127 * 31 times this is within 32 bits, and it fits 16.
inline constexpr int32_t kLargestScale = 1 << 14;

// Where the parts of a record lie: bytes q [cols] from 0, then..
struct QuantRecord {
  int64_t scales;       // of eights: words of a path's own, a pair for two eights (PutScales), [cols / 8]; else d f32
  int64_t corrections;  // i32
  int64_t row_scale;    // f32; 1 where every block has its own
  constexpr explicit QuantRecord(int64_t cols)
      : scales(cols), corrections(scales + cols / 8 * 4), row_scale(corrections + cols / 16 * 4) {}
};

// Columns of a slab. Part of a row quantised by itself has the scales that it has within the row if it begins with one.
inline constexpr int kSlabCols = 256;

// Where the parts of a sliced record lie: two bytes a column from 0, 64 for every 32 columns, then..
struct SlicedRecord {
  int64_t sums;    // what a type's offset or minimum meets, 4 bytes for each 32 columns
  int64_t scales;  // d f32 for each slab
  int64_t bytes;
  constexpr explicit SlicedRecord(int64_t cols)
      : sums(2 * cols),
        scales(sums + cols / 32 * 4),
        bytes((scales + (cols + kSlabCols - 1) / kSlabCols * 4 + 63) / 64 * 64) {}
};

// Room for a record of either form.
constexpr int64_t QuantRowBytes(int64_t cols) {
  const int64_t plain = (QuantRecord(cols).row_scale + 4 + 63) / 64 * 64;
  return plain > SlicedRecord(cols).bytes ? plain : SlicedRecord(cols).bytes;
}

// A group of 16 rows of a matrix times some rows of activations.
struct PanelArgs {
  const std::byte* group = nullptr;   // see cpu_matrix.h
  const float* row_scales = nullptr;  // [16] or null
  int64_t cols = 0;
  int64_t tokens = 0;         // rows of activations
  const float* in = nullptr;  // F32 activations..
  int64_t in_stride = 0;
  QuantRows quant;  // ..or these
  float scale = 1.0F;
  float* out = nullptr;  // [tokens] rows of `width` values
  int64_t out_stride = 0;
  int width = kGroupRows;  // rows of the (last) group that exist
  // Of tile panels alone: groups that lie one behind another.
  int64_t groups = 1;
};
using Panel = void (*)(const PanelArgs&);
// What a tile panel takes at most, and the least that is worth its while.
inline constexpr int64_t kMaxTokens = 128;
inline constexpr int64_t kMaxGroups = 8;
inline constexpr int64_t kMinTileTokens = 3;

// Products of tiles, of weights with 16 rows of activations.
inline constexpr int64_t kTileTokens = 16;
constexpr int64_t TokenTileBytes(int64_t cols) {
  return kTileTokens * QuantRowBytes(cols);
}
struct PackArgs {
  QuantRows records;         // of columns [first_col, first_col + cols) alone, whole slabs but for the last of a row
  int64_t tokens = 0;        // at most kTileTokens; the rest of the tile is cleared
  int64_t panel_tokens = 0;  // of the panel that the tile is for: few make it smaller
  int64_t first_col = 0;
  int64_t cols = 0;
  int64_t all_cols = 0;
  std::byte* tile = nullptr;  // of TokenTileBytes(all_cols), on a cache line
};
struct TilePath {
  // Takes tiles of tokens, PanelArgs::quant.stride bytes from one to the next; null: none.
  Panel panel;
  void (*pack)(const PackArgs&);
};

// Keys of a chunk. Chunks begin at multiples of it, so a key always has the same lane, and a row's sums group its keys
// alike whatever the step.
inline constexpr int kAttendKeys = 64;
inline constexpr int kAttendQueries = 64;
// Elements of a head whose products with a few keys stay in the first-level cache.
inline constexpr int kAttendDims = 256;

// Which keys of a chunk a query sees: [begin, end).
struct KeySpan {
  int begin = 0;
  int end = 0;
  bool empty() const { return begin >= end; }
};

// Some queries that share a kv head against one chunk of keys: adds to what earlier chunks gave. A query's arithmetic
// depends on nothing but the query and the keys that it sees: a key that it does not see, whatever lies there, never
// enters its sums.
struct AttendChunk {
  DType type = DType::kBF16;  // of keys and values
  int head_dim = 0;
  float scale = 1.0F;
  int queries = 0;           // at most kAttendQueries
  const float* q = nullptr;  // see PackedQuery
  // Groups of 16 keys and single values as HostKvPool lays them out; null where no query sees any.
  const std::byte* const* keys = nullptr;    // [kAttendKeys / 16]
  const std::byte* const* values = nullptr;  // [kAttendKeys]
  const std::byte* const* next = nullptr;    // [kAttendKeys / 16] groups of the chunk after this, to be fetched
  const KeySpan* visible = nullptr;          // [queries]
  float* out = nullptr;                      // [queries, AttendWidth(head_dim)] sum of exp(score - max) * value
  float* max = nullptr;                      // [queries] -inf before the first chunk
  float* sum = nullptr;                      // [queries] sum of exp(score - max); 0 before the first chunk, then >= 1
  float* scratch = nullptr;                  // kAttendScratch values
};
// Where element i of a query lies: [head_dim / kAttendDims][queries][kAttendDims].
constexpr int64_t PackedQuery(int64_t queries, int64_t query, int64_t i) {
  return (i / kAttendDims * queries + query) * kAttendDims + i % kAttendDims;
}
// A row of `out`, in whole vectors of any instruction set.
constexpr int64_t AttendWidth(int64_t head_dim) {
  return (head_dim + 31) / 32 * 32;
}
// Scores, and the F32 form of some keys and of some columns of values.
inline constexpr int64_t kAttendScratch = kAttendQueries * kAttendKeys + kAttendDims * 32 + kAttendKeys * 32;

// A stretch of logits of one row. NaN counts as -inf.
struct ScanArgs {
  const float* logits = nullptr;
  int64_t count = 0;
  float max = 0.0F;        // of the whole slice
  float inverse_t = 0.0F;  // 1 / T, or 0: no scaled sum wanted
};
struct ScanSums {
  double sum = 0.0;         // of exp(l - max)
  double sum_scaled = 0.0;  // of exp((l - max) / T)
};

struct KernelTable {
  const char* name;

  // By weight type; null where the type has no such path (panel_int8: IsQuantised only).
  Panel panel_f32[static_cast<int>(DType::kI64) + 1];
  Panel panel_int8[static_cast<int>(DType::kI64) + 1];
  // Where there is one, the same as panel_int8 for kMinTileTokens rows of activations or more, bit for bit, but faster.
  TilePath tiles_int8[static_cast<int>(DType::kI64) + 1];
  // One row of activations to a record of QuantRowBytes(cols), against weights of `type`.
  void (*quantise)(const float* in, int64_t cols, DType type, std::byte* record);

  // out = gelu_tanh(gate) * up; out may be either.
  void (*gelu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*softcap)(float* x, int64_t n, float cap);
  // sum += weight * x; first: sum = weight * x.
  void (*add_scaled)(const float* x, float weight, bool first, int64_t n, float* sum);

  // Mean of squares of n values, in an order of n's own.
  float (*mean_square)(const float* x, int64_t n);
  // out = x * factor * weight (null: ones). out may be x.
  void (*scale_row)(const float* x, float factor, const float* weight, int64_t n, float* out);
  // x = (x + y * factor * weight) * scale.
  void (*add_scaled_row)(float* x, const float* y, float factor, const float* weight, float scale, int64_t n);
  // out = a * factor_a * weight_a + b * factor_b * weight_b.
  void (*add_two_rows)(const float* a, float factor_a, const float* weight_a, const float* b, float factor_b,
                       const float* weight_b, int64_t n, float* out);
  // Turns pairs (i, i + width / 2); cosine and sine [width / 2].
  void (*rotate)(float* x, const float* cosine, const float* sine, int width);
  void (*to_bf16)(const float* x, int64_t n, std::byte* out);

  // n values to a row of Q8_0 as HostKvPool lays it out: n int8, then n / 32 scales (f16).
  void (*to_q8_0)(const float* x, int64_t n, std::byte* out);

  void (*attend_chunk)(const AttendChunk&);
  // Adds a part of a softmax, of some keys, to what the parts before it gave: out, max and sum of one query.
  void (*merge_part)(const float* part, float part_max, float part_sum, int64_t width, float* out, float* max,
                     float* sum);

  float (*max_logit)(const float* logits, int64_t count);  // -inf if none is usable
  ScanSums (*sum_logits)(const ScanArgs&);
  // The first index from `begin` on with logits[i] > bound, or count.
  int64_t (*next_above)(const float* logits, int64_t begin, int64_t count, float bound);
};

const KernelTable& ScalarKernels();
#if defined(__x86_64__)
const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();
const KernelTable& Avx512VnniKernels();
const KernelTable& AmxKernels();
#endif

}  // namespace alphecca::kernels::cpu

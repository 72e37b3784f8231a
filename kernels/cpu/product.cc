// Products with weight matrices: tiles of activation rows times groups of matrix rows, shared out among the threads.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/cpu_internal.h"

namespace alphecca::kernels::cpu {
namespace {

// Activations of a tile, in numbers (1 MiB as F32, a quarter as bytes): they stay near a core while the groups of a
// matrix pass.
constexpr int64_t kTileNumbers = 256 << 10;
// Weights that a thread takes at a time.
constexpr int64_t kPieceBytes = 128 << 10;
// Columns of a tile of tokens that a thread quantises at a time: whole slabs of every type.
constexpr int64_t kPackCols = 1024;
static_assert(kPackCols % kSlabCols == 0);

}  // namespace

int64_t CpuBackend::GroupsAtATime(const CpuMatrix& m, int64_t groups, int64_t tokens) const {
  // Fewer where many rows make even one group's work long, and so that all threads have some.
  const int64_t by_size = kPieceBytes / std::max<int64_t>(1, m.group_bytes * std::max<int64_t>(1, tokens / 4));
  const int64_t most = UsesTiles(m, tokens) ? kMaxGroups : by_size;
  return std::clamp<int64_t>(most, 1, std::max<int64_t>(1, groups / (4 * pool_.threads())));
}

CpuBackend::Input CpuBackend::From(const Input& input, int64_t first) {
  Input from = input;
  from.rows -= first;
  if (from.tiles.data != nullptr) {
    Check(first % kTileTokens == 0, "rows from within a tile of tokens");
    from.tiles.data += first / kTileTokens * from.tiles.stride;
  } else if (from.quant.data != nullptr) {
    from.quant.data += first * from.quant.stride;
  } else {
    from.floats += first * from.stride;
  }
  return from;
}

int64_t CpuBackend::Tile(const CpuMatrix& m) const {
  if (UsesTiles(m, kMaxTokens)) {  // its panels see to the caches themselves
    return kMaxTokens;
  }
  return std::clamp<int64_t>(kTileNumbers / std::max<int64_t>(1, m.cols) / 12 * 12, 12, kMaxTokens);
}

CpuBackend::Input CpuBackend::Prepare(const CpuMatrix& m, const float* in, int64_t stride, int64_t rows,
                                      Scratch& scratch) {
  if (!UsesTiles(m, rows)) {
    return PrepareRecords(m, in, stride, rows, scratch);
  }
  const int64_t tile_bytes = TokenTileBytes(m.cols);
  const int64_t tiles = (rows + kTileTokens - 1) / kTileTokens;
  std::byte* data = scratch.Bytes(tiles * tile_bytes);
  // A tile in several pieces, so that one alone occupies all threads, whose records stay in the first-level cache.
  const int64_t pieces = (m.cols + kPackCols - 1) / kPackCols;
  ForRows(tiles * pieces, kTileTokens * std::min(m.cols, kPackCols), [&](int64_t i, int thread) {
    const int64_t first = i / pieces * kTileTokens;
    PackArgs pack = {.records = {},
                     .tokens = std::min(kTileTokens, rows - first),
                     .panel_tokens = std::min(kMaxTokens, rows - first / kMaxTokens * kMaxTokens),
                     .first_col = i % pieces * kPackCols,
                     .all_cols = m.cols,
                     .tile = data + i / pieces * tile_bytes};
    pack.cols = std::min(kPackCols, m.cols - pack.first_col);
    const int64_t record = QuantRowBytes(pack.cols);
    std::byte* records = Own(thread).Bytes(kTileTokens * record);
    pack.records = {records, record};
    for (int64_t t = 0; t < pack.tokens; ++t) {
      kernels_.quantise(in + (first + t) * stride + pack.first_col, pack.cols, m.type, records + t * record);
    }
    kernels_.tiles_int8[static_cast<int>(m.type)].pack(pack);
  });
  return {.rows = rows, .floats = nullptr, .stride = 0, .quant = {}, .tiles = {data, tile_bytes}};
}

CpuBackend::Input CpuBackend::PrepareRecords(const CpuMatrix& m, const float* in, int64_t stride, int64_t rows,
                                             Scratch& scratch) {
  if (!UsesInt8(m)) {
    return {.rows = rows, .floats = in, .stride = stride, .quant = {}, .tiles = {}};
  }
  const int64_t record = QuantRowBytes(m.cols);
  std::byte* data = scratch.Bytes(rows * record);
  ForRows(rows, m.cols,
          [&](int64_t row, int) { kernels_.quantise(in + row * stride, m.cols, m.type, data + row * record); });
  return {.rows = rows, .floats = nullptr, .stride = 0, .quant = {data, record}, .tiles = {}};
}

CpuBackend::Input CpuBackend::Gather(const CpuMatrix& m, const Input& from, std::span<const int32_t> index,
                                     Scratch& scratch) {
  const auto rows = static_cast<int64_t>(index.size());
  const auto source = [&](int64_t row) { return static_cast<int64_t>(index[static_cast<size_t>(row)]); };
  if (from.quant.data == nullptr) {
    float* data = scratch.Floats(std::max<int64_t>(1, rows * m.cols));
    ForRows(rows, m.cols, [&](int64_t row, int) {
      std::copy_n(from.floats + source(row) * from.stride, m.cols, data + row * m.cols);
    });
    return {.rows = rows, .floats = data, .stride = m.cols, .quant = {}, .tiles = {}};
  }
  const int64_t record = from.quant.stride;
  std::byte* data = scratch.Bytes(rows * record);
  ForRows(rows, m.cols,
          [&](int64_t row, int) { std::copy_n(from.quant.data + source(row) * record, record, data + row * record); });
  return {.rows = rows, .floats = nullptr, .stride = 0, .quant = {data, record}, .tiles = {}};
}

void CpuBackend::RunPanels(const CpuMatrix& m, int64_t item, Range groups, const Input& input, int64_t tokens,
                           float scale, float* out, int64_t out_stride) const {
  const auto type = static_cast<int>(m.type);
  const bool tiles = input.tiles.data != nullptr;
  const Panel panel = tiles                         ? kernels_.tiles_int8[type].panel
                      : input.quant.data != nullptr ? kernels_.panel_int8[type]
                                                    : kernels_.panel_f32[type];
  const int64_t step = tiles ? kMaxGroups : 1;
  for (int64_t group = groups.begin; group < groups.end; group += step) {
    const int64_t end = std::min(group + step, groups.end);
    panel({.group = m.Group(item, group),
           .row_scales = m.GroupScales(item, group),
           .cols = m.cols,
           .tokens = tokens,
           .in = input.floats,
           .in_stride = input.stride,
           .quant = tiles ? input.tiles : input.quant,
           .scale = scale,
           .out = out + (group - groups.begin) * kGroupRows,
           .out_stride = out_stride,
           .width = m.GroupWidth(end - 1),
           .groups = end - group});
  }
}

void CpuBackend::RunGatedPanels(const CpuMatrix& m, int64_t item, Range groups, const Input& input, int64_t tokens,
                                float* out, int64_t out_stride) const {
  float up[kMaxTokens * kMaxGroups * kGroupRows];
  Check(tokens <= kMaxTokens, "tokens of a gated panel");
  for (int64_t begin = groups.begin; begin < groups.end; begin += kMaxGroups) {
    const Range some = {begin, std::min(begin + kMaxGroups, groups.end)};
    const Range of_up = {some.begin + m.groups / 2, some.end + m.groups / 2};
    const int64_t width = some.size() * kGroupRows;
    float* gate = out + (begin - groups.begin) * kGroupRows;
    RunPanels(m, item, some, input, tokens, 1.0F, gate, out_stride);
    RunPanels(m, item, of_up, input, tokens, 1.0F, up, width);
    for (int64_t t = 0; t < tokens; ++t) {
      kernels_.gelu_mul(gate + t * out_stride, up + t * width, width, gate + t * out_stride);
    }
  }
}

void CpuBackend::MatMul(Stream&, const MatMulArgs& a) {
  const CpuMatrix& m = Cpu(*a.matrix);
  Check(a.in.cols == m.cols && a.out.cols == m.rows && a.out.rows == a.in.rows, "MatMul: shapes of in, matrix, out");
  const Input input = Prepare(m, FloatRow(a.in, 0), a.in.stride, a.in.rows, quantised_);
  const int64_t tile = Tile(m);
  for (int64_t first = 0; first < a.in.rows; first += tile) {
    const Input rows = From(input, first);
    const int64_t tokens = std::min(tile, rows.rows);
    pool_.Run(m.groups, GroupsAtATime(m, m.groups, tokens), [&](int64_t begin, int64_t end, int) {
      RunPanels(m, 0, {begin, end}, rows, tokens, a.scale, FloatRow(a.out, first) + begin * kGroupRows, a.out.stride);
    });
  }
}

void CpuBackend::GatedMatMul(Stream& stream, const GatedMatMulArgs& a) {
  const CpuMatrix& m = Cpu(*a.gate_up);
  const int64_t width = m.rows / 2;
  Check(m.rows % 2 == 0 && a.in.cols == m.cols && a.out.cols == width && a.out.rows == a.in.rows,
        "GatedMatMul: shapes of in, matrix, out");
  if (width % kGroupRows != 0) {  // up rows begin within a group: both parts whole, then the product
    float* both = middle_.Floats(std::max<int64_t>(1, a.in.rows * m.rows));
    MatMul(stream, {.in = a.in, .matrix = a.gate_up, .out = {both, DType::kF32, a.in.rows, m.rows, m.rows}});
    ForRows(a.in.rows, width, [&](int64_t t, int) {
      kernels_.gelu_mul(both + t * m.rows, both + t * m.rows + width, width, FloatRow(a.out, t));
    });
    return;
  }
  const Input input = Prepare(m, FloatRow(a.in, 0), a.in.stride, a.in.rows, quantised_);
  const int64_t tile = Tile(m);
  for (int64_t first = 0; first < a.in.rows; first += tile) {
    const Input rows = From(input, first);
    const int64_t tokens = std::min(tile, rows.rows);
    pool_.Run(width / kGroupRows, GroupsAtATime(m, width / kGroupRows, tokens), [&](int64_t begin, int64_t end, int) {
      RunGatedPanels(m, 0, {begin, end}, rows, tokens, FloatRow(a.out, first) + begin * kGroupRows, a.out.stride);
    });
  }
}

void CpuBackend::GeluMul(Stream&, const GeluMulArgs& a) {
  Check(a.a.rows == a.b.rows && a.a.cols == a.b.cols, "GeluMul: b has the shape of a");
  ForRows(a.a.rows, 4 * a.a.cols,
          [&](int64_t t, int) { kernels_.gelu_mul(FloatRow(a.a, t), FloatRow(a.b, t), a.a.cols, FloatRow(a.a, t)); });
}

}  // namespace alphecca::kernels::cpu

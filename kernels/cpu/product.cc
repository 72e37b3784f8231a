// Products with weight matrices: tiles of activation rows times groups of matrix rows, shared out among the threads.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/cpu_internal.h"

namespace alphecca::kernels::cpu {
namespace {

// Activations of a tile stay in a core's second-level cache while the groups of a matrix pass.
constexpr int64_t kTileBytes = 256 << 10;
constexpr int64_t kMaxTile = 128;
// Weights that a thread takes at a time.
constexpr int64_t kPieceBytes = 128 << 10;

int64_t GroupsAtATime(const CpuMatrix& m, int64_t tokens, int threads) {
  // Fewer where many rows make even one group's work long, and so that all threads have some.
  const int64_t by_size = kPieceBytes / std::max<int64_t>(1, m.group_bytes * std::max<int64_t>(1, tokens / 4));
  return std::clamp<int64_t>(by_size, 1, std::max<int64_t>(1, m.groups / (4 * threads)));
}

}  // namespace

CpuBackend::Input CpuBackend::From(const Input& input, int64_t first) {
  Input from = input;
  from.rows -= first;
  if (from.quant.data != nullptr) {
    from.quant.data += first * from.quant.stride;
  } else {
    from.floats += first * from.stride;
  }
  return from;
}

int64_t CpuBackend::Tile(int64_t cols) const {
  return std::clamp<int64_t>(kTileBytes / std::max<int64_t>(1, cols) / 12 * 12, 12, kMaxTile);
}

CpuBackend::Input CpuBackend::Prepare(const CpuMatrix& m, const float* in, int64_t stride, int64_t rows,
                                      Scratch& scratch) {
  if (!UsesInt8(m)) {
    return {.rows = rows, .floats = in, .stride = stride, .quant = {}};
  }
  const int64_t record = QuantRowBytes(m.cols);
  std::byte* data = scratch.Bytes(std::max<int64_t>(1, rows * record));
  ForRows(rows, m.cols,
          [&](int64_t row, int) { kernels_.quantise(in + row * stride, m.cols, m.type, data + row * record); });
  return {.rows = rows, .floats = nullptr, .stride = 0, .quant = {data, record}};
}

void CpuBackend::RunPanel(const CpuMatrix& m, int64_t item, int64_t group, const Input& input, int64_t tokens,
                          const int32_t* index, float scale, float* out, int64_t out_stride) const {
  const Panel panel = input.quant.data != nullptr ? kernels_.panel_int8[static_cast<int>(m.type)]
                                                  : kernels_.panel_f32[static_cast<int>(m.type)];
  panel({.group = m.Group(item, group),
         .row_scales = m.GroupScales(item, group),
         .cols = m.cols,
         .tokens = tokens,
         .index = index,
         .in = input.floats,
         .in_stride = input.stride,
         .quant = input.quant,
         .scale = scale,
         .out = out,
         .out_stride = out_stride,
         .width = m.GroupWidth(group)});
}

void CpuBackend::RunGatedPanel(const CpuMatrix& m, int64_t item, int64_t group, const Input& input, int64_t tokens,
                               const int32_t* index, float* out, int64_t out_stride) const {
  float up[kMaxTile][kGroupRows];
  Check(tokens <= kMaxTile, "tokens of a gated panel");
  RunPanel(m, item, group, input, tokens, index, 1.0F, out, out_stride);
  RunPanel(m, item, group + m.groups / 2, input, tokens, index, 1.0F, up[0], kGroupRows);
  for (int64_t t = 0; t < tokens; ++t) {
    kernels_.gelu_mul(out + t * out_stride, up[t], kGroupRows, out + t * out_stride);
  }
}

void CpuBackend::MatMul(Stream&, const MatMulArgs& a) {
  const CpuMatrix& m = Cpu(*a.matrix);
  Check(a.in.cols == m.cols && a.out.cols == m.rows && a.out.rows == a.in.rows, "MatMul: shapes of in, matrix, out");
  const Input input = Prepare(m, FloatRow(a.in, 0), a.in.stride, a.in.rows, quantised_);
  const int64_t tile = Tile(m.cols);
  for (int64_t first = 0; first < a.in.rows; first += tile) {
    const Input rows = From(input, first);
    const int64_t tokens = std::min(tile, rows.rows);
    pool_.Run(m.groups, GroupsAtATime(m, tokens, pool_.threads()), [&](int64_t begin, int64_t end, int) {
      for (int64_t group = begin; group < end; ++group) {
        RunPanel(m, 0, group, rows, tokens, nullptr, a.scale, FloatRow(a.out, first) + group * kGroupRows,
                 a.out.stride);
      }
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
  const int64_t tile = Tile(m.cols);
  for (int64_t first = 0; first < a.in.rows; first += tile) {
    const Input rows = From(input, first);
    const int64_t tokens = std::min(tile, rows.rows);
    pool_.Run(width / kGroupRows, GroupsAtATime(m, tokens, pool_.threads()), [&](int64_t begin, int64_t end, int) {
      for (int64_t group = begin; group < end; ++group) {
        RunGatedPanel(m, 0, group, rows, tokens, nullptr, FloatRow(a.out, first) + group * kGroupRows, a.out.stride);
      }
    });
  }
}

void CpuBackend::GeluMul(Stream&, const GeluMulArgs& a) {
  Check(a.a.rows == a.b.rows && a.a.cols == a.b.cols, "GeluMul: b has the shape of a");
  ForRows(a.a.rows, 4 * a.a.cols,
          [&](int64_t t, int) { kernels_.gelu_mul(FloatRow(a.a, t), FloatRow(a.b, t), a.a.cols, FloatRow(a.a, t)); });
}

}  // namespace alphecca::kernels::cpu

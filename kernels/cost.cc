#include <algorithm>

#include "kernels/backend.h"

namespace alphecca::kernels {
namespace {

constexpr int64_t kActivationBytes = 4;  // F32

}  // namespace

OpCost Cost(const MatMulArgs& a) {
  const Matrix& m = *a.matrix;
  return {.bytes = m.bytes + a.in.rows * (m.cols + m.rows) * kActivationBytes,
          .flops = 2 * a.in.rows * m.rows * m.cols};
}

OpCost Cost(const GatedMatMulArgs& a) {
  const Matrix& m = *a.gate_up;
  return {.bytes = m.bytes + a.in.rows * (m.cols + m.rows / 2) * kActivationBytes,
          .flops = 2 * a.in.rows * m.rows * m.cols};
}

// Routing is known on the device only, so this counts as if all k experts of each row lay here, as different as the
// number of experts allows.
OpCost Cost(const ExpertsArgs& a) {
  const Matrix& g = *a.gate_up;
  const Matrix& d = *a.down;
  const int64_t rows = a.in.rows;
  const int64_t pairs = rows * a.ids.cols;
  const int64_t touched = std::min(pairs, g.items);
  const int64_t expert_bytes = g.items > 0 ? (g.bytes + d.bytes) / g.items : 0;
  return {.bytes = touched * expert_bytes + rows * (g.cols + d.rows) * kActivationBytes,
          .flops = 2 * pairs * (g.rows * g.cols + d.rows * d.cols)};
}

// Each row reads the keys and values of the kv heads that its query heads use, once.
OpCost Cost(const AttendArgs& a, int64_t keys) {
  const int64_t first = a.first_head / a.group;
  const int64_t last = (a.first_head + a.heads - 1) / a.group;
  const int64_t kv_heads = a.heads > 0 ? last - first + 1 : 0;
  const int64_t row_bytes = a.pool != nullptr ? RowBytes(a.pool->spec.type, a.head_dim) : 0;
  return {.bytes = 2 * keys * kv_heads * row_bytes + 2 * a.q.rows * a.heads * a.head_dim * kActivationBytes,
          .flops = 4 * keys * a.heads * a.head_dim};
}

}  // namespace alphecca::kernels

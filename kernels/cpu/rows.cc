// Ops that work row by row: look-ups, norms, the soft cap.
#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/cpu/cpu_internal.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels::cpu {

float CpuBackend::InverseRms(const float* x, int64_t n, float eps) const {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(kernels_.mean_square(x, n)) + eps));
}

void CpuBackend::Embed(Stream&, const Step& step, const EmbedArgs& a) {
  const HostStep& s = Host(step);
  const CpuMatrix& m = Cpu(*a.matrix);
  const int64_t d = a.out.cols;
  Check(m.cols == d && a.out.rows == s.rows, "Embed: shapes of matrix and out");
  ForRows(s.rows, 8 * d, [&](int64_t t, int thread) {
    float* out = FloatRow(a.out, t);
    if (s.IsSoft(t) && a.takes_soft) {
      std::copy_n(s.SoftRow(t, d), d, out);
      return;
    }
    const int64_t row = TokenOf(s, t) - a.first_row;
    if (s.IsSoft(t) || row < 0 || row >= m.rows) {
      std::fill_n(out, d, 0.0F);
      return;
    }
    m.DecodeRow(0, row, Own(thread).Bytes(RowBytes(m.type, d)), out);
    kernels_.scale_row(out, a.scale, nullptr, d, out);
  });
}

void CpuBackend::PerLayerInput(Stream&, const Step& step, const PerLayerInputArgs& a) {
  const HostStep& s = Host(step);
  const int64_t n = a.out.cols;
  Check(a.table.cols == n && a.table.rows > 0 && a.ctx.cols == n && a.out.rows == s.rows && a.ctx.rows == s.rows &&
            a.width > 0 && n % a.width == 0,
        "PerLayerInput: shapes of table, ctx, out");
  constexpr float kHalfRoot = 0.70710678F;
  const float* norm = Floats(a.norm, a.width);
  ForRows(s.rows, 8 * n, [&](int64_t t, int thread) {
    const int64_t token = s.IsSoft(t) ? 0 : std::max(TokenOf(s, t), 0);  // -1: embedded as 0, whatever this adds
    // Row 0 is the padding token, which stands for whatever has no row of its own.
    const int64_t id = token >= 0 && token < a.table.rows ? token : 0;
    float* own = Own(thread).Floats(n);
    DecodeRow(a.table.type, a.table.data + id * RowBytes(a.table.type, n), {0, n}, a.table.RowScale(id), own);
    const float* ctx = FloatRow(a.ctx, t);
    float* out = FloatRow(a.out, t);
    for (int64_t begin = 0; begin < n; begin += a.width) {
      kernels_.add_two_rows(ctx + begin, InverseRms(ctx + begin, a.width, a.eps) * kHalfRoot, norm, own + begin,
                            a.table_scale * kHalfRoot, nullptr, a.width, out + begin);
    }
  });
}

void CpuBackend::RmsNorm(Stream&, const RmsNormArgs& a) {
  Check(a.in.rows == a.out.rows && a.in.cols == a.out.cols, "RmsNorm: out has the shape of in");
  const int64_t n = a.in.cols;
  const float* weight = Floats(a.weight, n);
  ForRows(a.in.rows, n, [&](int64_t t, int) {
    const float* in = FloatRow(a.in, t);
    kernels_.scale_row(in, InverseRms(in, n, a.eps), weight, n, FloatRow(a.out, t));
  });
}

void CpuBackend::ResidualNorm(Stream&, const ResidualNormArgs& a) {
  const int64_t n = a.x.cols;
  Check(a.y.rows == a.x.rows && a.y.cols == n, "ResidualNorm: y has the shape of x");
  const float* post = Floats(a.post, n);
  const float* next = Floats(a.next, n);
  ForRows(a.x.rows, 2 * n, [&](int64_t t, int) {
    float* x = FloatRow(a.x, t);
    const float* y = FloatRow(a.y, t);
    kernels_.add_scaled_row(x, y, InverseRms(y, n, a.eps), post, a.scale, n);
    if (next != nullptr) {
      kernels_.scale_row(x, InverseRms(x, n, a.eps), next, n, FloatRow(a.out, t));
    }
  });
}

void CpuBackend::AddNorms(Stream&, const AddNormsArgs& a) {
  const int64_t n = a.a.cols;
  Check(a.b.rows == a.a.rows && a.b.cols == n && a.out.rows == a.a.rows && a.out.cols == n,
        "AddNorms: b and out have the shape of a");
  const float* weight_a = Floats(a.weight_a, n);
  const float* weight_b = Floats(a.weight_b, n);
  ForRows(a.a.rows, 2 * n, [&](int64_t t, int) {
    const float* ra = FloatRow(a.a, t);
    const float* rb = FloatRow(a.b, t);
    const float factor_a = InverseRms(ra, n, a.eps);
    const float factor_b = InverseRms(rb, n, a.eps);
    kernels_.add_two_rows(ra, factor_a, weight_a, rb, factor_b, weight_b, n, FloatRow(a.out, t));
  });
}

void CpuBackend::Softcap(Stream&, const SoftcapArgs& a) {
  if (a.cap == 0.0F || a.logits.cols == 0) {
    return;
  }
  // Rows are a vocabulary long: the pieces are of rows.
  constexpr int64_t kPiece = 8192;
  const int64_t pieces = (a.logits.cols + kPiece - 1) / kPiece;
  pool_.Run(a.logits.rows * pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * kPiece;
      kernels_.softcap(FloatRow(a.logits, i / pieces) + first, std::min(kPiece, a.logits.cols - first), a.cap);
    }
  });
}

}  // namespace alphecca::kernels::cpu

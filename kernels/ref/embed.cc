// Look-ups: token embeddings and per-layer embeddings.
#include <algorithm>
#include <vector>

#include "kernels/check.h"
#include "kernels/quant/quant.h"
#include "kernels/ref/ref_internal.h"

namespace alphecca::kernels {

void RefBackend::Embed(Stream&, const Step& step, const EmbedArgs& a) {
  const HostStep& s = Host(step);
  const HostMatrix& m = Host(*a.matrix);
  const int64_t d = a.out.cols;
  Check(m.cols == d && a.out.rows == s.rows, "Embed: shapes of matrix and out");
  for (int64_t t = 0; t < s.rows; ++t) {
    float* out = FloatRow(a.out, t);
    if (s.IsSoft(t) && a.takes_soft) {
      std::copy_n(s.SoftRow(t, d), d, out);
      continue;
    }
    const int64_t row = TokenOf(s, t) - a.first_row;
    if (s.IsSoft(t) || row < 0 || row >= m.rows) {
      std::fill_n(out, d, 0.0F);
      continue;
    }
    m.DecodeRow(0, row, out);
    for (int64_t i = 0; i < d; ++i) {
      out[i] *= a.scale;
    }
  }
}

void RefBackend::PerLayerInput(Stream&, const Step& step, const PerLayerInputArgs& a) {
  const HostStep& s = Host(step);
  const int64_t n = a.out.cols;
  Check(a.table.cols == n && a.table.rows > 0 && a.ctx.cols == n && a.out.rows == s.rows && a.ctx.rows == s.rows &&
            a.width > 0 && n % a.width == 0,
        "PerLayerInput: shapes of table, ctx, out");
  constexpr double kHalfRoot = 0.70710678118654752440;
  const float* norm = Floats(a.norm, a.width);
  std::vector<float> row(static_cast<size_t>(n));
  for (int64_t t = 0; t < s.rows; ++t) {
    const int64_t token = s.IsSoft(t) ? 0 : std::max(TokenOf(s, t), 0);  // -1: embedded as 0, whatever this adds
    // Row 0 is the padding token, which stands for whatever has no row of its own.
    const int64_t id = token >= 0 && token < a.table.rows ? token : 0;
    DecodeRow(a.table.type, a.table.data + id * RowBytes(a.table.type, n), {0, n}, a.table.RowScale(id), row.data());
    const float* ctx = FloatRow(a.ctx, t);
    float* out = FloatRow(a.out, t);
    for (int64_t begin = 0; begin < n; begin += a.width) {
      const double inverse = InverseRms(ctx + begin, a.width, a.eps);
      for (int64_t i = 0; i < a.width; ++i) {
        const double context = ctx[begin + i] * inverse * (norm != nullptr ? norm[i] : 1.0F);
        const double own = static_cast<double>(row[static_cast<size_t>(begin + i)]) * a.table_scale;
        out[begin + i] = static_cast<float>((context + own) * kHalfRoot);
      }
    }
  }
}

}  // namespace alphecca::kernels

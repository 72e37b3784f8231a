// Products with weight matrices, one decoded row of the matrix at a time.
#include <vector>

#include "kernels/check.h"
#include "kernels/ref/ref_internal.h"

namespace alphecca::kernels {

void RefBackend::MatMul(Stream&, const MatMulArgs& a) {
  const HostMatrix& m = Host(*a.matrix);
  Check(a.in.cols == m.cols && a.out.cols == m.rows && a.out.rows == a.in.rows, "MatMul: shapes of in, matrix, out");
  std::vector<float> row(static_cast<size_t>(m.cols));
  for (int64_t r = 0; r < m.rows; ++r) {
    m.DecodeRow(0, r, row.data());
    for (int64_t t = 0; t < a.in.rows; ++t) {
      FloatRow(a.out, t)[r] = static_cast<float>(Dot(FloatRow(a.in, t), row.data(), m.cols) * a.scale);
    }
  }
}

void RefBackend::GatedMatMul(Stream&, const GatedMatMulArgs& a) {
  const HostMatrix& m = Host(*a.gate_up);
  const int64_t width = m.rows / 2;
  Check(m.rows % 2 == 0 && a.in.cols == m.cols && a.out.cols == width && a.out.rows == a.in.rows,
        "GatedMatMul: shapes of in, matrix, out");
  std::vector<float> gate(static_cast<size_t>(m.cols));
  std::vector<float> up(static_cast<size_t>(m.cols));
  for (int64_t f = 0; f < width; ++f) {
    m.DecodeRow(0, f, gate.data());
    m.DecodeRow(0, width + f, up.data());
    for (int64_t t = 0; t < a.in.rows; ++t) {
      const float* in = FloatRow(a.in, t);
      FloatRow(a.out, t)[f] = static_cast<float>(GeluTanh(Dot(in, gate.data(), m.cols)) * Dot(in, up.data(), m.cols));
    }
  }
}

void RefBackend::GeluMul(Stream&, const GeluMulArgs& a) {
  Check(a.a.rows == a.b.rows && a.a.cols == a.b.cols, "GeluMul: b has the shape of a");
  for (int64_t t = 0; t < a.a.rows; ++t) {
    float* ra = FloatRow(a.a, t);
    const float* rb = FloatRow(a.b, t);
    for (int64_t i = 0; i < a.a.cols; ++i) {
      ra[i] = static_cast<float>(GeluTanh(ra[i]) * rb[i]);
    }
  }
}

}  // namespace alphecca::kernels

// RMS norms: x (mean(x^2) + eps)^(-1/2), times a weight w (not 1 + w). spec: Gemma 4 text, "Primitive operations".
#include "kernels/check.h"
#include "kernels/ref/ref_internal.h"

namespace alphecca::kernels {
namespace {

double WeightAt(const float* weight, int64_t i) {
  return weight != nullptr ? weight[i] : 1.0;
}

void NormRow(const float* in, const float* weight, float eps, int64_t n, float* out) {
  const double inverse = InverseRms(in, n, eps);
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(in[i] * inverse * WeightAt(weight, i));
  }
}

}  // namespace

void RefBackend::RmsNorm(Stream&, const RmsNormArgs& a) {
  Check(a.in.rows == a.out.rows && a.in.cols == a.out.cols, "RmsNorm: out has the shape of in");
  const float* weight = Floats(a.weight, a.in.cols);
  for (int64_t t = 0; t < a.in.rows; ++t) {
    NormRow(FloatRow(a.in, t), weight, a.eps, a.in.cols, FloatRow(a.out, t));
  }
}

void RefBackend::ResidualNorm(Stream&, const ResidualNormArgs& a) {
  const int64_t n = a.x.cols;
  Check(a.y.rows == a.x.rows && a.y.cols == n, "ResidualNorm: y has the shape of x");
  const float* post = Floats(a.post, n);
  const float* next = Floats(a.next, n);
  for (int64_t t = 0; t < a.x.rows; ++t) {
    float* x = FloatRow(a.x, t);
    const float* y = FloatRow(a.y, t);
    const double inverse = InverseRms(y, n, a.eps);
    for (int64_t i = 0; i < n; ++i) {
      x[i] = static_cast<float>((x[i] + y[i] * inverse * WeightAt(post, i)) * a.scale);
    }
    if (next != nullptr) {
      NormRow(x, next, a.eps, n, FloatRow(a.out, t));
    }
  }
}

void RefBackend::AddNorms(Stream&, const AddNormsArgs& a) {
  const int64_t n = a.a.cols;
  Check(a.b.rows == a.a.rows && a.b.cols == n && a.out.rows == a.a.rows && a.out.cols == n,
        "AddNorms: b and out have the shape of a");
  const float* weight_a = Floats(a.weight_a, n);
  const float* weight_b = Floats(a.weight_b, n);
  for (int64_t t = 0; t < a.a.rows; ++t) {
    const float* ra = FloatRow(a.a, t);
    const float* rb = FloatRow(a.b, t);
    float* out = FloatRow(a.out, t);
    const double inverse_a = InverseRms(ra, n, a.eps);
    const double inverse_b = InverseRms(rb, n, a.eps);
    for (int64_t i = 0; i < n; ++i) {
      out[i] =
          static_cast<float>(ra[i] * inverse_a * WeightAt(weight_a, i) + rb[i] * inverse_b * WeightAt(weight_b, i));
    }
  }
}

}  // namespace alphecca::kernels

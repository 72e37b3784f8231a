// The class behind CreateRefBackend, its ops spread over the files of this folder, and the formulas they share.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "kernels/host/host_backend.h"

namespace alphecca::kernels {

class RefBackend : public HostBackend {
 public:
  std::string Name() const override { return "ref"; }
  std::string IsaPath() const override { return "scalar"; }
  Activations activations() const override { return Activations::kF32; }
  int64_t WorkspaceBytes(int64_t max_rows) const override;

  // embed.cc
  void Embed(Stream&, const Step&, const EmbedArgs&) override;
  void PerLayerInput(Stream&, const Step&, const PerLayerInputArgs&) override;
  // norm.cc
  void RmsNorm(Stream&, const RmsNormArgs&) override;
  void ResidualNorm(Stream&, const ResidualNormArgs&) override;
  void AddNorms(Stream&, const AddNormsArgs&) override;
  // matmul.cc
  void MatMul(Stream&, const MatMulArgs&) override;
  void GatedMatMul(Stream&, const GatedMatMulArgs&) override;
  void GeluMul(Stream&, const GeluMulArgs&) override;
  // attend.cc
  void Qkv(Stream&, const Step&, const QkvArgs&) override;
  void Attend(Stream&, const Step&, const AttendArgs&) override;
  // experts.cc
  void Route(Stream&, const RouteArgs&) override;
  void Experts(Stream&, const ExpertsArgs&) override;
};

// 1 / sqrt(mean(x^2) + eps).
inline double InverseRms(const float* x, int64_t n, float eps) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    sum += static_cast<double>(x[i]) * x[i];
  }
  return 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
}

inline double Dot(const float* a, const float* b, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    sum += static_cast<double>(a[i]) * b[i];
  }
  return sum;
}

// The tanh form: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
inline double GeluTanh(double x) {
  constexpr double kSqrt2OverPi = 0.79788456080286535588;
  return 0.5 * x * (1.0 + std::tanh(kSqrt2OverPi * (x + 0.044715 * x * x * x)));
}

}  // namespace alphecca::kernels

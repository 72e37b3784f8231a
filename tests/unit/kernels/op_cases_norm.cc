// RmsNorm, ResidualNorm, AddNorms, Softcap.
#include "tests/unit/kernels/op_cases.h"

namespace alphecca::kernels {
namespace {

constexpr int64_t kWidths[] = {1, 4, 7, 8, 15, 16, 17, 31, 32, 64, 100, 640, 2816};

void RunRms(OpRun& run, int64_t cols, bool weighted, bool in_place) {
  const Tensor in = run.Random(3, cols, 1, 5.0);
  const Buffer* weight = weighted ? run.Floats(run.Normal(cols, 0.3, 1.0)) : nullptr;
  const Tensor out = in_place ? in : run.Empty(3, cols, 3);
  run.backend().RmsNorm(run.stream(), {.in = in, .weight = weight, .eps = 1e-6F, .out = out});
  run.Collect("out", out, SumTolerance(cols));
}

void RunResidual(OpRun& run, int64_t cols, bool with_next) {
  const Tensor x = run.Random(3, cols, 1, 2.0);
  const Tensor y = run.Random(3, cols, 2);
  const Tensor out = run.Empty(3, cols);
  const Buffer* post = run.Floats(run.Normal(cols, 0.3, 1.0));
  const Buffer* next = with_next ? run.Floats(run.Normal(cols, 0.3, 1.0)) : nullptr;
  run.backend().ResidualNorm(
      run.stream(),
      {.x = x, .y = y, .post = post, .scale = 0.75F, .next = next, .eps = 1e-6F, .out = with_next ? out : Tensor{}});
  run.Collect("x", x, SumTolerance(cols));
  if (with_next) {
    run.Collect("out", out, SumTolerance(cols));
  }
}

void RunAddNorms(OpRun& run, int64_t cols, int alias) {
  const Tensor a = run.Random(3, cols, 1);
  const Tensor b = run.Random(3, cols, 0, 3.0);
  const Tensor other = run.Empty(3, cols);
  const Tensor out = alias == 0 ? other : alias == 1 ? a : b;
  run.backend().AddNorms(run.stream(), {.a = a,
                                        .weight_a = run.Floats(run.Normal(cols, 0.3, 1.0)),
                                        .b = b,
                                        .weight_b = run.Floats(run.Normal(cols, 0.3, 1.0)),
                                        .eps = 1e-6F,
                                        .out = out});
  run.Collect("out", out, SumTolerance(cols));
}

}  // namespace

void AddNormCases(std::vector<OpCase>& cases) {
  for (const int64_t cols : kWidths) {
    const std::string n = std::to_string(cols);
    cases.push_back({"RmsNorm", "RmsNorm_" + n, [cols](OpRun& run) { RunRms(run, cols, true, cols % 2 == 0); }});
    cases.push_back({"ResidualNorm", "ResidualNorm_" + n, [cols](OpRun& run) { RunResidual(run, cols, true); }});
    cases.push_back(
        {"AddNorms", "AddNorms_" + n, [cols](OpRun& run) { RunAddNorms(run, cols, static_cast<int>(cols % 3)); }});
  }
  cases.push_back({"RmsNorm", "RmsNorm_without_weight", [](OpRun& run) { RunRms(run, 48, false, false); }});
  cases.push_back({"ResidualNorm", "ResidualNorm_last", [](OpRun& run) { RunResidual(run, 48, false); }});
  cases.push_back({"RmsNorm", "RmsNorm_zeros_and_eps", [](OpRun& run) {
                     std::vector<float> values(30, 0.0F);
                     for (size_t i = 10; i < 30; ++i) {
                       values[i] = i < 20 ? 1e-4F : 3e4F;  // eps dominates, then vanishes
                     }
                     const Tensor in = run.Put(values, 3, 10);
                     const Tensor out = run.Empty(3, 10);
                     run.backend().RmsNorm(run.stream(), {.in = in, .weight = nullptr, .eps = 1e-6F, .out = out});
                     run.Collect("out", out, SumTolerance(10), 1e-30);
                   }});
  for (const int64_t cols : {1, 7, 16, 100}) {
    cases.push_back({"Softcap", "Softcap_" + std::to_string(cols), [cols](OpRun& run) {
                       const Tensor logits = run.Random(3, cols, 1, 60.0);
                       run.backend().Softcap(run.stream(), {.logits = logits, .cap = 30.0F});
                       run.Collect("logits", logits, SumTolerance(1));
                     }});
  }
  cases.push_back({"Softcap", "Softcap_off", [](OpRun& run) {
                     const Tensor logits = run.Random(2, 9, 0, 60.0);
                     run.backend().Softcap(run.stream(), {.logits = logits, .cap = 0.0F});
                     run.Collect("logits", logits, 0.0);
                   }});
}

}  // namespace alphecca::kernels

// Embed, PerLayerInput, GatherRows.
#include "tests/unit/kernels/op_cases.h"
#include "tests/unit/kernels/step_maker.h"

namespace alphecca::kernels {
namespace {

// Ids inside and outside a slice of the vocabulary, and two soft rows.
StepMaker LookupStep(OpRun& run, int64_t soft_width) {
  StepMaker step;
  for (const int32_t token : {5, 0, 17, 39, 16, 40, 29, 30}) {
    step.Row(token, 0, static_cast<int32_t>(step.tokens.size()));
  }
  step.soft = {-1, -1, 1, -1, 0, -1, -1, -1};
  step.soft_rows = run.Normal(2 * soft_width);
  return step;
}

void RunEmbed(OpRun& run, DType type, bool takes_soft) {
  const StepMaker maker = LookupStep(run, 256);
  const Matrix& m = run.Weights(1, 25, 256, type);
  const Step& step = run.Upload(maker.Input(), nullptr, nullptr);
  const Tensor out = run.Empty(step.rows, 256, 4);
  run.backend().Embed(run.stream(), step,
                      {.matrix = &m, .first_row = 5, .scale = 16.5F, .takes_soft = takes_soft, .out = out});
  run.Collect("out", out, SumTolerance(1));
}

void RunPerLayer(OpRun& run, DType type, bool in_place) {
  constexpr int64_t kWidth = 64;
  constexpr int64_t kCols = 4 * kWidth;
  const StepMaker maker = LookupStep(run, 8);
  HostTensor table = run.Encoded(1, 41, kCols, type);
  table.scales = type == DType::kSFP8 ? run.Scales(table.rows) : nullptr;
  const Step& step = run.Upload(maker.Input(), nullptr, nullptr);
  const Tensor ctx = run.Random(step.rows, kCols);
  const Tensor out = in_place ? ctx : run.Empty(step.rows, kCols, 1);
  const Buffer* norm = run.Floats(run.Normal(kWidth, 0.3, 1.0));
  run.backend().PerLayerInput(
      run.stream(), step,
      {.table = table, .table_scale = 16.0F, .ctx = ctx, .norm = norm, .width = kWidth, .eps = 1e-6F, .out = out});
  run.Collect("out", out, SumTolerance(kWidth));
}

void RunGather(OpRun& run) {
  StepMaker maker = LookupStep(run, 8);
  maker.Sample(0, {});
  maker.Sample(3, {});
  maker.Sample(7, {});
  const Step& step = run.Upload(maker.Input(), nullptr, nullptr);
  const Tensor in = run.Random(step.rows, 19, 2);
  const Tensor out = run.Empty(3, 19, 1);
  run.backend().GatherRows(run.stream(), step, {.in = in, .out = out});
  run.Collect("out", out, 0.0);
}

}  // namespace

void AddLookupCases(std::vector<OpCase>& cases) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kSFP8, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K,
                           DType::kQ5_K, DType::kQ6_K}) {
    cases.push_back({"Embed", "Embed_" + TypeName(type), [type](OpRun& run) { RunEmbed(run, type, true); }});
    cases.push_back(
        {"Embed", "Embed_without_soft_" + TypeName(type), [type](OpRun& run) { RunEmbed(run, type, false); }});
  }
  for (const DType type :
       {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ5_K, DType::kQ6_K}) {
    cases.push_back(
        {"PerLayerInput", "PerLayerInput_" + TypeName(type), [type](OpRun& run) { RunPerLayer(run, type, false); }});
  }
  cases.push_back(
      {"PerLayerInput", "PerLayerInput_in_place", [](OpRun& run) { RunPerLayer(run, DType::kBF16, true); }});
  cases.push_back({"GatherRows", "GatherRows_three", RunGather});
}

}  // namespace alphecca::kernels

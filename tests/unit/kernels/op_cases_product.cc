// MatMul, GatedMatMul, GeluMul; and the rows of a product under any company.
#include <algorithm>

#include "tests/unit/kernels/op_cases.h"

namespace alphecca::kernels {
namespace {

constexpr DType kTypes[] = {DType::kF32,  DType::kBF16, DType::kSFP8, DType::kQ8_0,
                            DType::kQ4_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

struct Shape {
  int64_t tokens;
  int64_t cols;
  int64_t rows;
};

std::string Name(const std::string& op, DType type, Shape s) {
  return op + "_" + TypeName(type) + "_" + std::to_string(s.tokens) + "x" + std::to_string(s.cols) + "x" +
         std::to_string(s.rows);
}

// Row counts and widths on and off every vector length; widths are whole blocks of the type.
std::vector<Shape> Shapes(DType type) {
  const int64_t block = Info(type).block_elements;
  std::vector<Shape> shapes = {{1, 2 * block, 1},  {1, 3 * block, 33}, {2, block, 7},
                               {3, block, 16},     {4, 2 * block, 31}, {5, 5 * block, 9},
                               {8, 3 * block, 64}, {17, 4 * block, 5}, {33, block, 40}};
  if (block == 1) {
    for (const int64_t cols : {7, 8, 15, 16, 31, 32, 33, 63, 65, 100, 257}) {
      shapes.push_back({3, cols, 18});
      shapes.push_back({1, cols, 5});
    }
  }
  if (block == 32) {
    shapes.push_back({2, 1056, 12});
    shapes.push_back({9, 2080, 3});
  }
  return shapes;
}

void RunMatMul(OpRun& run, DType type, Shape s) {
  const int pad = static_cast<int>(s.rows % 3);
  const Tensor in = run.Random(s.tokens, s.cols, pad);
  const Matrix& m = run.Weights(1, s.rows, s.cols, type);
  const Tensor out = run.Empty(s.tokens, s.rows, pad);
  run.backend().MatMul(run.stream(), {.in = in, .matrix = &m, .scale = 1.0F, .out = out});
  run.Collect("out", out, ProductTolerance(run.backend(), type, s.cols));
}

void RunGated(OpRun& run, DType type, Shape s) {
  const Tensor in = run.Random(s.tokens, s.cols);
  const Matrix& m = run.Weights(1, 2 * s.rows, s.cols, type);
  const Tensor out = run.Empty(s.tokens, s.rows, 1);
  run.backend().GatedMatMul(run.stream(), {.in = in, .gate_up = &m, .out = out});
  run.Collect("out", out, 3.0 * ProductTolerance(run.backend(), type, s.cols));
}

void AddMatMulSpecials(std::vector<OpCase>& cases) {
  cases.push_back({"MatMul", "MatMul_scaled", [](OpRun& run) {
                     const Tensor in = run.Random(3, 64);
                     const Matrix& m = run.Weights(1, 10, 64, DType::kF32);
                     const Tensor out = run.Empty(3, 10);
                     run.backend().MatMul(run.stream(), {.in = in, .matrix = &m, .scale = 0.125F, .out = out});
                     run.Collect("out", out, SumTolerance(64), 0.125);
                   }});
  cases.push_back({"MatMul", "MatMul_no_columns_gives_zero", [](OpRun& run) {
                     const Tensor in = run.Empty(2, 0);
                     const Matrix& m = run.Weights(1, 5, 0, DType::kQ8_0);
                     const Tensor out = run.Empty(2, 5);
                     run.backend().MatMul(run.stream(), {.in = in, .matrix = &m, .scale = 1.0F, .out = out});
                     run.Collect("out", out, 0.0);
                   }});
  cases.push_back({"MatMul", "MatMul_no_rows_of_input", [](OpRun& run) {
                     const Tensor in = run.Empty(0, 32);
                     const Matrix& m = run.Weights(1, 5, 32, DType::kQ4_0);
                     const Tensor out = run.Empty(0, 5);
                     run.backend().MatMul(run.stream(), {.in = in, .matrix = &m, .scale = 1.0F, .out = out});
                     run.Collect("out", out, 0.0);
                   }});
  cases.push_back({"MatMul", "MatMul_huge_and_denormal", [](OpRun& run) {
                     std::vector<float> values = run.Normal(int64_t{2} * 40);
                     for (size_t i = 0; i < values.size(); ++i) {
                       values[i] *= i < 40 ? 1e30F : 1e-38F;
                     }
                     const Tensor in = run.Put(values, 2, 40);
                     const Matrix& m = run.Weights(1, 20, 40, DType::kBF16);
                     const Tensor out = run.Empty(2, 20);
                     run.backend().MatMul(run.stream(), {.in = in, .matrix = &m, .scale = 1.0F, .out = out});
                     run.Collect("out", out, SumTolerance(40), 1e-38);
                   }});
}

// Sources of several types and slices in one matrix, converted while packing.
void AddPackCases(std::vector<OpCase>& cases) {
  for (const DType to : {DType::kF32, DType::kBF16, DType::kSFP8, DType::kQ8_0, DType::kQ4_0}) {
    cases.push_back(
        {"MatMul", "MatMul_packed_from_slices_to_" + TypeName(to), [to](OpRun& run) {
           const HostTensor a = run.Encoded(1, 20, 256, DType::kBF16);
           HostTensor b = run.Encoded(1, 9, 512, DType::kSFP8);
           b.scales = run.Scales(9);
           const HostTensor c = run.Encoded(1, 6, 256, DType::kQ5_0);
           const Matrix& m = run.Packed(
               {{a, {0, 1}, {3, 17}, {32, 160}}, {b, {0, 1}, {0, 9}, {384, 512}}, {c, {0, 1}, {5, 6}, {0, 128}}}, to);
           const Tensor in = run.Random(4, 128);
           const Tensor out = run.Empty(4, 24);
           run.backend().MatMul(run.stream(), {.in = in, .matrix = &m, .scale = 1.0F, .out = out});
           run.Collect("out", out, ProductTolerance(run.backend(), to, 128));
         }});
  }
  for (const DType from :
       {DType::kF16, DType::kQ4_1, DType::kQ5_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL}) {
    cases.push_back({"MatMul", "MatMul_packed_from_" + TypeName(from), [from](OpRun& run) {
                       const HostTensor t = run.Encoded(1, 8, 512, from);
                       const Matrix& m = run.Packed({{t, {0, 1}, {1, 7}, {256, 512}}}, DType::kF32);
                       const Tensor in = run.Random(2, 256);
                       const Tensor out = run.Empty(2, 6);
                       run.backend().MatMul(run.stream(), {.in = in, .matrix = &m, .scale = 1.0F, .out = out});
                       run.Collect("out", out, SumTolerance(256));
                     }});
  }
}

constexpr int64_t kRowCaseRows = 21;

Tensor RowsOf(const Tensor& all, int64_t begin, int64_t end) {
  return {static_cast<float*>(all.data) + begin * all.stride, all.type, end - begin, all.cols, all.stride};
}

// Prepares the product `op` (MatMul or GatedMatMul) of rows of activations with one matrix.
template <class Op>
RowCase ProductRows(const std::string& name, DType type, int64_t matrix_rows, int64_t width, Op op) {
  const auto prepare = [=](OpRun& run) -> RowCase::Rows {
    const Matrix& m = run.Weights(1, matrix_rows, 512, type);
    const Tensor all = run.Random(kRowCaseRows, 512);
    return [&run, &m, all, width, op](int64_t begin, int64_t end) {
      const Tensor out = run.Empty(end - begin, width);
      op(run, RowsOf(all, begin, end), m, out);
      return run.Get(out);
    };
  };
  return {name + "_rows_" + TypeName(type), prepare, kRowCaseRows};
}

RowCase ExpertRows(DType type) {
  const auto prepare = [type](OpRun& run) -> RowCase::Rows {
    const int64_t d = std::max(64, Info(type).block_elements);
    const Matrix& gate_up = run.Weights(4, 2 * d, d, type);
    const Matrix& down = run.Weights(4, d, d, type);
    const Tensor all = run.Random(kRowCaseRows, d);
    return [&run, &gate_up, &down, all, d](int64_t begin, int64_t end) {
      std::vector<int32_t> ids;
      std::vector<float> weights;
      for (int64_t t = begin; t < end; ++t) {
        ids.insert(ids.end(), {static_cast<int32_t>(t % 4), static_cast<int32_t>((t * 3 + 1) % 4)});
        weights.insert(weights.end(), {0.6F, 0.4F});
      }
      const Tensor out = run.Empty(end - begin, d);
      run.backend().Experts(run.stream(), {.in = RowsOf(all, begin, end),
                                           .gate_up = &gate_up,
                                           .down = &down,
                                           .ids = run.PutInts(ids, end - begin, 2),
                                           .weights = run.Put(weights, end - begin, 2),
                                           .out = out});
      return run.Get(out);
    };
  };
  return {"Experts_rows_" + TypeName(type), prepare, kRowCaseRows};
}

}  // namespace

void AddProductCases(std::vector<OpCase>& cases) {
  for (const DType type : kTypes) {
    for (const Shape& s : Shapes(type)) {
      cases.push_back({"MatMul", Name("MatMul", type, s), [type, s](OpRun& run) { RunMatMul(run, type, s); }});
      cases.push_back({"GatedMatMul", Name("GatedMatMul", type, s), [type, s](OpRun& run) { RunGated(run, type, s); }});
    }
  }
  AddMatMulSpecials(cases);
  AddPackCases(cases);
  for (const int64_t cols : {1, 7, 8, 9, 16, 33, 100}) {
    cases.push_back({"GeluMul", "GeluMul_" + std::to_string(cols), [cols](OpRun& run) {
                       const Tensor a = run.Random(3, cols, 2, 3.0);
                       const Tensor b = run.Random(3, cols);
                       run.backend().GeluMul(run.stream(), {.a = a, .b = b});
                       run.Collect("a", a, SumTolerance(1));
                     }});
  }
  cases.push_back({"GeluMul", "GeluMul_extremes", [](OpRun& run) {
                     const std::vector<float> x = {0.0F,  -0.0F, 1e-30F, -1e-30F, 1e-6F,  -1e-6F, 0.5F,  -0.5F, 5.0F,
                                                   -5.0F, 9.0F,  -9.0F,  20.0F,   -20.0F, 1e4F,   -1e4F, 1e10F, -1e10F};
                     const auto n = static_cast<int64_t>(x.size());
                     const Tensor a = run.Put(x, n, 1);
                     const Tensor b = run.Put(std::vector<float>(x.size(), 1.0F), n, 1);
                     run.backend().GeluMul(run.stream(), {.a = a, .b = b});
                     run.Collect("a", a, SumTolerance(1));
                   }});
}

void AddProductRowCases(std::vector<RowCase>& cases) {
  for (const DType type : kTypes) {
    cases.push_back(
        ProductRows("MatMul", type, 37, 37, [](OpRun& run, const Tensor& in, const Matrix& m, const Tensor& out) {
          run.backend().MatMul(run.stream(), {.in = in, .matrix = &m, .scale = 1.0F, .out = out});
        }));
    cases.push_back(
        ProductRows("GatedMatMul", type, 38, 19, [](OpRun& run, const Tensor& in, const Matrix& m, const Tensor& out) {
          run.backend().GatedMatMul(run.stream(), {.in = in, .gate_up = &m, .out = out});
        }));
    cases.push_back(ExpertRows(type));
  }
}

}  // namespace alphecca::kernels

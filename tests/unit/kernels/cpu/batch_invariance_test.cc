// A row's result is the same bits alone, in any step, and with any number of threads.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/unit/kernels/cpu/cpu_paths.h"
#include "tests/unit/kernels/op_cases.h"
#include "tests/unit/kernels/step_maker.h"

namespace alphecca::kernels::cpu {
namespace {

class BatchInvarianceTest : public testing::TestWithParam<CpuPath> {};

TEST_P(BatchInvarianceTest, RowCasesAreTheSameInAnyCompany) {
  for (const RowCase& row_case : AllRowCases()) {
    const std::unique_ptr<CpuBackend> backend = GetParam().Create();
    EXPECT_EQ(RunRowCase(row_case, *backend), "") << row_case.name;
  }
}

// Rows [0, T) of the same activations for growing T, against a matrix of [rows, cols].
void ExpectRowsAlikeInAnyNumber(const CpuPath& path, DType type, int64_t rows, int64_t cols) {
  constexpr int64_t kTokens = 150;  // more than a tile
  const std::unique_ptr<CpuBackend> backend = path.Create();
  const std::unique_ptr<CpuBackend> single = CpuPath{path.kernels, path.activations, 1}.Create();
  OpRun run(*backend, 7);
  const Matrix& m = run.Weights(1, rows, cols, type);
  const Tensor in = run.Random(kTokens, cols);
  const Tensor each = run.Empty(kTokens, rows);
  for (int64_t t = 0; t < kTokens; ++t) {
    single->MatMul(run.stream(), {.in = {FloatRow(in, t), DType::kF32, 1, cols, in.stride},
                                  .matrix = &m,
                                  .out = {FloatRow(each, t), DType::kF32, 1, rows, each.stride}});
  }
  const std::vector<float> want = run.Get(each);
  for (const int64_t tokens : {2, 3, 4, 5, 8, 15, 16, 17, 31, 64, 129, 150}) {
    Tensor some = in;
    some.rows = tokens;
    const Tensor out = run.Empty(tokens, rows);
    backend->MatMul(run.stream(), {.in = some, .matrix = &m, .out = out});
    const std::vector<float> got = run.Get(out);
    EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
        << TypeName(type) << " [" << rows << ", " << cols << "], " << tokens << " rows";
  }
}

TEST_P(BatchInvarianceTest, ProductsOfManyRowsBeginLikeThoseOfFew) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kSFP8, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K,
                           DType::kQ5_K, DType::kQ6_K}) {
    ExpectRowsAlikeInAnyNumber(GetParam(), type, 37, 512);
  }
  // More groups than a panel takes at once; slabs of an odd number of blocks, and of one.
  ExpectRowsAlikeInAnyNumber(GetParam(), DType::kQ4_0, 300, 736);
  ExpectRowsAlikeInAnyNumber(GetParam(), DType::kQ4_0, 20, 32);
}

// Each row alone, which cuts its keys among threads, against all in one step.
TEST_P(BatchInvarianceTest, AttentionOfARowIsTheSameAloneAndAmongOthers) {
  constexpr int kKeys = 300;
  const std::unique_ptr<CpuBackend> backend = GetParam().Create();
  OpRun run(*backend, 11);
  KvPool* pool = run.Pool({.layers = {{2, 64}},
                           .block_tokens = 16,
                           .num_blocks = 20,
                           .num_slots = 1,
                           .max_blocks_per_slot = 20,
                           .type = DType::kBF16});
  std::vector<BlockTableUpdate> table;
  for (int32_t i = 0; i < 20; ++i) {
    table.push_back({0, i, (7 * i) % 20});
  }
  const std::vector<KeyRange> keys = {{0, 299}, {0, 0}, {63, 64}, {100, 299}, {5, 200}, {128, 191}, {130, 190}};
  const auto rows = static_cast<int64_t>(keys.size());
  const auto upload = [&](size_t begin, size_t count) -> const Step& {
    StepMaker maker;
    maker.tables[kFullPool] = table;
    for (size_t t = begin; t < begin + count; ++t) {
      maker.Row(0, 0, 0);
      maker.full.back() = keys[t];
    }
    return run.Upload(maker.Input(), pool, nullptr);
  };
  const Step& together = upload(0, keys.size());
  ASSERT_TRUE(backend
                  ->KvImport(run.stream(), *pool, 0, 0, {0, kKeys}, run.Normal(int64_t{2} * kKeys * 64),
                             run.Normal(int64_t{2} * kKeys * 64))
                  .ok());
  const int64_t cols = int64_t{6} * 64;
  const Tensor q = run.Random(rows, cols, 0, 0.3);
  const auto attend = [&](const Step& step, Tensor queries) {
    const Tensor out = run.Empty(queries.rows, cols);
    backend->Attend(run.stream(), step,
                    {.q = queries, .heads = 6, .head_dim = 64, .group = 3, .pool = pool, .out = out});
    return run.Get(out);
  };
  const std::vector<float> want = attend(together, q);
  for (int64_t t = 0; t < rows; ++t) {
    Tensor row = q;
    row.rows = 1;
    row.data = FloatRow(q, t);
    const std::vector<float> got = attend(upload(static_cast<size_t>(t), 1), row);
    EXPECT_EQ(std::memcmp(got.data(), want.data() + t * cols, got.size() * sizeof(float)), 0) << "row " << t;
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, BatchInvarianceTest, testing::ValuesIn(AllPaths({1, 2})),
                         [](const auto& path) { return path.param.Name(); });

}  // namespace
}  // namespace alphecca::kernels::cpu

// A row's result is the same bits alone, in any step, and with any number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "tests/unit/kernels/cpu/cpu_paths.h"
#include "tests/unit/kernels/op_cases.h"
#include "tests/unit/kernels/step_maker.h"

namespace alphecca::kernels::cpu {
namespace {

class BatchInvarianceTest : public testing::TestWithParam<CpuPath> {};
class AttentionInvarianceTest : public testing::TestWithParam<CpuPath> {};

TEST_P(BatchInvarianceTest, RowCasesAreTheSameInAnyCompany) {
  for (const RowCase& row_case : AllRowCases()) {
    const std::unique_ptr<CpuBackend> backend = GetParam().Create();
    EXPECT_EQ(RunRowCase(row_case, *backend), "") << row_case.name;
  }
}

enum class Product { kPlain, kGated };

// Rows [0, T) of the same activations for growing T, against a matrix of [rows, cols].
void ExpectRowsAlikeInAnyNumber(const CpuPath& path, DType type, int64_t rows, int64_t cols,
                                Product product = Product::kPlain) {
  constexpr int64_t kTokens = 150;  // more than a tile
  const std::unique_ptr<CpuBackend> backend = path.Create();
  const std::unique_ptr<CpuBackend> single = CpuPath{path.kernels, path.activations, 1}.Create();
  OpRun run(*backend, 7);
  const Matrix& m = run.Weights(1, rows, cols, type);
  const Tensor in = run.Random(kTokens, cols);
  const int64_t width = product == Product::kGated ? rows / 2 : rows;
  const auto multiply = [&](CpuBackend& by, const Tensor& x, const Tensor& y) {
    if (product == Product::kGated) {
      by.GatedMatMul(run.stream(), {.in = x, .gate_up = &m, .out = y});
    } else {
      by.MatMul(run.stream(), {.in = x, .matrix = &m, .out = y});
    }
  };
  const Tensor each = run.Empty(kTokens, width);
  for (int64_t t = 0; t < kTokens; ++t) {
    multiply(*single, {FloatRow(in, t), DType::kF32, 1, cols, in.stride},
             {FloatRow(each, t), DType::kF32, 1, width, each.stride});
  }
  const std::vector<float> want = run.Get(each);
  for (const int64_t tokens : {2, 3, 4, 5, 8, 15, 16, 17, 31, 64, 129, 150}) {
    Tensor some = in;
    some.rows = tokens;
    const Tensor out = run.Empty(tokens, width);
    multiply(*backend, some, out);
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
  // More columns than are computed, or packed, at once.
  ExpectRowsAlikeInAnyNumber(GetParam(), DType::kQ4_0, 37, 2336);
  ExpectRowsAlikeInAnyNumber(GetParam(), DType::kQ4_K, 37, 2304);
  // Several stretches of slabs, the last one short.
  ExpectRowsAlikeInAnyNumber(GetParam(), DType::kQ6_K, 20, 1280);
  ExpectRowsAlikeInAnyNumber(GetParam(), DType::kQ8_0, 20, 1184);
}

TEST_P(BatchInvarianceTest, GatedProductsOfManyRowsBeginLikeThoseOfFew) {
  // More groups of gates than a panel takes at once.
  ExpectRowsAlikeInAnyNumber(GetParam(), DType::kQ4_0, 2 * 272, 96, Product::kGated);
  ExpectRowsAlikeInAnyNumber(GetParam(), DType::kQ6_K, 2 * 272, 256, Product::kGated);
}

// Deviation of queries of heads of this width under which scores are neither flat nor a single key.
double QuerySigma(int width) {
  return 2.4 / std::sqrt(width);
}

// Each row alone, which cuts its keys among threads, against all in one step.
void ExpectRowsAlikeAloneAndTogether(CpuBackend& backend, int width) {
  constexpr int kKeys = 300;
  OpRun run(backend, 11);
  KvPool* pool = run.Pool({.layers = {{2, width}},
                           .block_tokens = 16,
                           .num_blocks = 20,
                           .num_slots = 1,
                           .max_blocks_per_slot = 20,
                           .type = DType::kBF16});
  std::vector<BlockTableUpdate> table;
  table.reserve(20);
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
  const std::vector<float> key = run.Normal(int64_t{2} * kKeys * width);
  const std::vector<float> value = run.Normal(int64_t{2} * kKeys * width);
  ASSERT_TRUE(backend.KvImport(run.stream(), *pool, 0, 0, {0, kKeys}, key, value).ok());
  const int64_t cols = int64_t{6} * width;
  const Tensor q = run.Random(rows, cols, 0, QuerySigma(width));
  const auto attend = [&](const Step& step, Tensor queries) {
    const Tensor out = run.Empty(queries.rows, cols);
    backend.Attend(run.stream(), step,
                   {.q = queries, .heads = 6, .head_dim = width, .group = 3, .pool = pool, .out = out});
    return run.Get(out);
  };
  const std::vector<float> want = attend(together, q);
  for (int64_t t = 0; t < rows; ++t) {
    Tensor row = q;
    row.rows = 1;
    row.data = FloatRow(q, t);
    const std::vector<float> got = attend(upload(static_cast<size_t>(t), 1), row);
    EXPECT_EQ(std::memcmp(got.data(), want.data() + t * cols, got.size() * sizeof(float)), 0)
        << "heads of " << width << ", row " << t;
  }
}

TEST_P(AttentionInvarianceTest, ARowIsTheSameAloneAndAmongOthers) {
  const std::unique_ptr<CpuBackend> backend = GetParam().Create();
  for (const int width : {64, 256, 512}) {
    ExpectRowsAlikeAloneAndTogether(*backend, width);
  }
}

// A long chunk of a prompt, cut in several ways.
class AttentionChunk {
 public:
  struct Shape {
    DType type;  // of keys and values
    int width;   // of a head
    int keys;    // that lie in the pool
    int block_tokens;
    int window;  // 0: none
  };
  static constexpr int kRows = 70;
  static constexpr int kHeads = 6;
  static constexpr int kSpoiled = 3;  // positions at the end whose values are infinite, and keys not numbers

  AttentionChunk(CpuBackend& backend, const Shape& shape) : run_(backend, 11), width_(shape.width) {
    const int64_t blocks = (shape.keys + shape.block_tokens - 1) / shape.block_tokens;
    pool_ = run_.Pool({.layers = {{2, width_}},
                       .block_tokens = shape.block_tokens,
                       .num_blocks = blocks,
                       .num_slots = 1,
                       .max_blocks_per_slot = blocks,
                       .type = shape.type});
    const int32_t seen_first = shape.window == 0 ? 0 : shape.keys - kRows - shape.window + 1;
    for (int32_t i = 0; i < blocks; ++i) {
      // None where no row looks.
      const bool seen = (i + 1) * shape.block_tokens > seen_first;
      table_.push_back({0, i, seen ? static_cast<int32_t>(blocks - 1 - i) : -1});
    }
    for (int32_t t = 0; t < kRows; ++t) {
      const int32_t position = shape.keys - kRows + t;
      const int32_t image_end = shape.keys - 20;  // rows 30..50 see each other both ways
      keys_.push_back(
          {shape.window == 0 ? 0 : position - shape.window + 1, t >= 30 && t < 50 ? image_end - 1 : position});
    }
    q_ = run_.Random(kRows, int64_t{kHeads} * width_, 0, QuerySigma(width_));
    Upload(0, 1);
    const Range positions = {seen_first, shape.keys};
    std::vector<float> key = run_.Normal(2 * positions.size() * width_);
    std::vector<float> value = run_.Normal(2 * positions.size() * width_);
    for (int head = 0; head < 2; ++head) {
      const auto end = static_cast<int64_t>(key.size()) / 2 * (head + 1);
      std::fill(key.begin() + end - kSpoiled * width_, key.begin() + end, NAN);
      std::fill(value.begin() + end - kSpoiled * width_, value.begin() + end, INFINITY);
    }
    Check(backend.KvImport(run_.stream(), *pool_, 0, 0, positions, key, value).ok(), "KvImport of a test");
  }

  // The rows, `chunk` of them a step, but for those that see what is spoiled.
  std::vector<float> Attend(int64_t chunk) {
    const int64_t cols = int64_t{kHeads} * width_;
    std::vector<float> all;
    for (int64_t begin = 0; begin < kRows; begin += chunk) {
      const int64_t rows = std::min(chunk, kRows - begin);
      Tensor q = q_;
      q.rows = rows;
      q.data = FloatRow(q_, begin);
      const Tensor out = run_.Empty(rows, cols);
      run_.backend().Attend(
          run_.stream(), Upload(begin, rows),
          {.q = q, .heads = kHeads, .head_dim = width_, .group = 3, .pool = pool_, .pool_layer = 0, .out = out});
      const std::vector<float> got = run_.Get(out);
      all.insert(all.end(), got.begin(), got.end());
    }
    all.resize(static_cast<size_t>((kRows - kSpoiled) * cols));
    return all;
  }

 private:
  const Step& Upload(int64_t begin, int64_t rows) {
    StepMaker maker;
    maker.tables[kFullPool] = table_;
    for (int64_t t = begin; t < begin + rows; ++t) {
      maker.Row(0, 0, 0);
      maker.full.back() = keys_[static_cast<size_t>(t)];
    }
    return run_.Upload(maker.Input(), pool_, nullptr);
  }

  OpRun run_;
  const int width_;
  KvPool* pool_ = nullptr;
  std::vector<BlockTableUpdate> table_;
  std::vector<KeyRange> keys_;
  Tensor q_;
};

TEST_P(AttentionInvarianceTest, AChunkIsTheSameHoweverItIsCut) {
  const std::unique_ptr<CpuBackend> single = CpuPath{GetParam().kernels, GetParam().activations, 1}.Create();
  const std::unique_ptr<CpuBackend> backend = GetParam().Create();
  std::vector<AttentionChunk::Shape> shapes;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kQ8_0}) {
    shapes.push_back({.type = type, .width = 64, .keys = 600, .block_tokens = 16, .window = 0});
    shapes.push_back({.type = type, .width = 64, .keys = 600, .block_tokens = 24, .window = 100});
  }
  // Sliding and full layers as large models have them; few keys, as wide heads take long on the slowest path.
  shapes.push_back({.type = DType::kQ8_0, .width = 256, .keys = 200, .block_tokens = 16, .window = 100});
  shapes.push_back({.type = DType::kBF16, .width = 512, .keys = 150, .block_tokens = 16, .window = 0});
  for (const AttentionChunk::Shape& shape : shapes) {
    const std::vector<float> want = AttentionChunk(*single, shape).Attend(1);
    EXPECT_TRUE(std::all_of(want.begin(), want.end(), [](float x) { return std::isfinite(x); }));
    for (const int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{AttentionChunk::kRows}}) {
      const std::vector<float> got = AttentionChunk(*backend, shape).Attend(chunk);
      EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0)
          << TypeName(shape.type) << ", heads of " << shape.width << ", window " << shape.window << ", " << chunk
          << " rows a step";
    }
  }
}

// How products treat activations is nothing to attention.
INSTANTIATE_TEST_SUITE_P(Paths, AttentionInvarianceTest, testing::ValuesIn(AllPaths({1, 2}, {Activations::kDefault})),
                         [](const auto& path) { return path.param.Name(); });
INSTANTIATE_TEST_SUITE_P(Paths, BatchInvarianceTest, testing::ValuesIn(AllPaths({1, 2})),
                         [](const auto& path) { return path.param.Name(); });

}  // namespace
}  // namespace alphecca::kernels::cpu

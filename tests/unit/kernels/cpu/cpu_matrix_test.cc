// The packed layout gives back the rows it was made of, and refuses what PackHost refuses.
#include "kernels/cpu/cpu_matrix.h"

#include <gtest/gtest.h>

#include <random>

#include "kernels/host/host_matrix.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels::cpu {
namespace {

std::vector<std::byte> RandomBytes(int64_t count) {
  std::mt19937 random(3);
  std::vector<std::byte> bytes(static_cast<size_t>(count));
  for (std::byte& b : bytes) {
    b = static_cast<std::byte>(random() & 0x3FU);  // small numbers in every format: nothing is NaN
  }
  return bytes;
}

TEST(CpuMatrixTest, RowsComeBackAsTheyWere) {
  ThreadPool pool(2);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kSFP8, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K,
                           DType::kQ5_K, DType::kQ6_K}) {
    constexpr int64_t kItems = 2;
    constexpr int64_t kRows = 37;
    constexpr int64_t kCols = 512;
    const int64_t row_bytes = RowBytes(type, kCols);
    const std::vector<std::byte> file = RandomBytes(kItems * kRows * row_bytes);
    const HostTensor tensor = {type, file.data(), kItems, kRows, kCols};
    const std::vector<PackSource> sources = {{tensor, {0, kItems}, {0, kRows}, {0, kCols}}};
    const auto matrix = PackCpu(sources, type, pool);
    ASSERT_TRUE(matrix.ok());
    EXPECT_EQ((*matrix)->group_bytes, kGroupRows * row_bytes);
    std::vector<std::byte> row(static_cast<size_t>(row_bytes));
    for (int64_t i = 0; i < kItems * kRows; ++i) {
      (*matrix)->CopyRow(i / kRows, i % kRows, row.data());
      EXPECT_TRUE(std::equal(row.begin(), row.end(), file.begin() + i * row_bytes)) << TypeName(type) << " " << i;
    }
  }
}

// Slices of several tensors of several items, against the plain packing.
TEST(CpuMatrixTest, SlicesDecodeLikeThoseOfTheHostMatrix) {
  ThreadPool pool(2);
  const std::vector<std::byte> a_bytes = RandomBytes(3 * 20 * RowBytes(DType::kQ8_0, 128));
  const std::vector<std::byte> b_bytes = RandomBytes(4 * 9 * RowBytes(DType::kSFP8, 64));
  const HostTensor a = {DType::kQ8_0, a_bytes.data(), 3, 20, 128};
  std::vector<float> b_scales;
  for (int row = 0; row < 4 * 9; ++row) {
    b_scales.push_back(1.0F + static_cast<float>(row) / 8.0F);
  }
  const HostTensor b = {DType::kSFP8, b_bytes.data(), 4, 9, 64, b_scales.data()};
  // Two items, then one more of other rows.
  const std::vector<PackSource> sources = {{a, {1, 3}, {2, 17}, {64, 128}},
                                           {b, {0, 2}, {0, 9}, {0, 64}},
                                           {a, {0, 1}, {0, 20}, {0, 64}, /*next_items=*/true},
                                           {b, {3, 4}, {5, 9}, {0, 64}}};
  for (const DType type : {DType::kF32, DType::kBF16, DType::kSFP8, DType::kQ8_0, DType::kQ4_0}) {
    const auto want = PackHost(sources, type);
    const auto got = PackCpu(sources, type, pool);
    ASSERT_TRUE(want.ok());
    ASSERT_TRUE(got.ok());
    ASSERT_EQ((*got)->rows, (*want)->rows);
    std::vector<float> want_row(64);
    std::vector<float> got_row(64);
    std::vector<std::byte> encoded(64 * sizeof(float));
    ASSERT_EQ((*got)->items, 3);
    for (int64_t item = 0; item < 3; ++item) {
      for (int64_t row = 0; row < (*want)->rows; ++row) {
        (*want)->DecodeRow(item, row, want_row.data());
        (*got)->DecodeRow(item, row, encoded.data(), got_row.data());
        EXPECT_EQ(got_row, want_row) << TypeName(type) << " item " << item << " row " << row;
      }
    }
  }
}

TEST(CpuMatrixTest, RefusesBadSources) {
  ThreadPool pool(1);
  const std::vector<std::byte> bytes = RandomBytes(8 * RowBytes(DType::kQ8_0, 64));
  const HostTensor t = {DType::kQ8_0, bytes.data(), 1, 8, 64};
  const auto refused = [&](std::vector<PackSource> sources, DType type) {
    return PackCpu(sources, type, pool).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused({}, DType::kF32));
  EXPECT_TRUE(refused({{t, {0, 1}, {0, 9}, {0, 64}}}, DType::kF32)) << "rows past the end";
  EXPECT_TRUE(refused({{t, {0, 1}, {-1, 4}, {0, 64}}}, DType::kF32)) << "rows before the beginning";
  EXPECT_TRUE(refused({{t, {0, 1}, {5, 4}, {0, 64}}}, DType::kF32)) << "rows that end before they begin";
  EXPECT_TRUE(refused({{t, {0, 2}, {0, 8}, {0, 64}}}, DType::kF32)) << "items past the end";
  EXPECT_TRUE(refused({{t, {0, 1}, {0, 8}, {16, 64}}}, DType::kF32)) << "columns within a block";
  EXPECT_TRUE(refused({{t, {0, 1}, {0, 8}, {0, 64}}, {t, {0, 1}, {0, 7}, {0, 64}, true}}, DType::kF32))
      << "items of fewer rows";
  EXPECT_TRUE(refused({{t, {0, 1}, {0, 8}, {0, 64}}}, DType::kQ5_0)) << "a type of files only";
  HostTensor none = t;
  none.data = nullptr;
  EXPECT_TRUE(refused({{none, {0, 1}, {0, 8}, {0, 64}}}, DType::kF32)) << "no data";
  HostTensor huge = t;
  huge.items = huge.rows = int64_t{1} << 62;
  EXPECT_TRUE(refused({{huge, {0, huge.items}, {0, huge.rows}, {0, 64}}}, DType::kF32)) << "too large";
}

}  // namespace
}  // namespace alphecca::kernels::cpu

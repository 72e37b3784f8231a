// What host backends share: buffers, packing, KV pools, and their errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>

#include "kernels/host/host_backend.h"
#include "kernels/ref/ref_backend.h"
#include "tests/unit/kernels/step_maker.h"

namespace alphecca::kernels {
namespace {

using ::testing::HasSubstr;

class HostTest : public testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = CreateRefBackend({});
  std::unique_ptr<Stream> stream_ = backend_->CreateStream();
};

HostTensor FloatTensor(const std::vector<float>& values, int64_t items, int64_t rows, int64_t cols) {
  return {DType::kF32, reinterpret_cast<const std::byte*>(values.data()), items, rows, cols};
}

TEST_F(HostTest, BuffersAreAlignedZeroedAndWritable) {
  auto buffer = backend_->Allocate(100);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data) % 64, 0U);
  EXPECT_EQ((*buffer)->bytes, 100);
  const std::byte from[3] = {std::byte{1}, std::byte{2}, std::byte{3}};
  backend_->Write(*stream_, **buffer, 97, from);
  std::byte to[4] = {};
  ASSERT_TRUE(backend_->Read(*stream_, static_cast<std::byte*>((*buffer)->data) + 96, to).ok());
  EXPECT_EQ(to[0], std::byte{0});
  EXPECT_EQ(to[3], std::byte{3});
  EXPECT_TRUE(backend_->Synchronize(*stream_).ok());
}

TEST_F(HostTest, AllocationErrors) {
  EXPECT_EQ(backend_->Allocate(-1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(backend_->Allocate(INT64_MAX).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(backend_->Allocate(0).ok());
  EXPECT_EQ(backend_->ReserveSlots(-1).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(HostTest, PackTakesSlicesItemByItem) {
  std::vector<float> a(24);  // [2, 3, 4]
  std::vector<float> b(16);  // [2, 2, 4]
  std::iota(a.begin(), a.end(), 0.0F);
  std::iota(b.begin(), b.end(), 100.0F);
  const std::vector<PackSource> sources = {{FloatTensor(a, 2, 3, 4), {0, 2}, {1, 3}, {1, 3}},
                                           {FloatTensor(b, 2, 2, 4), {0, 2}, {0, 1}, {2, 4}}};
  auto matrix = PackHost(sources, DType::kF32);
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ((*matrix)->items, 2);
  EXPECT_EQ((*matrix)->rows, 3);
  EXPECT_EQ((*matrix)->cols, 2);
  EXPECT_EQ((*matrix)->bytes, 48);
  const std::vector<std::vector<float>> want = {{5, 6}, {9, 10}, {102, 103}, {17, 18}, {21, 22}, {110, 111}};
  for (int64_t r = 0; r < 6; ++r) {
    std::vector<float> row(2);
    (*matrix)->DecodeRow(r / 3, r % 3, row.data());
    EXPECT_EQ(row, want[static_cast<size_t>(r)]);
  }
}

TEST_F(HostTest, PackSaysWhatIsWrong) {
  const std::vector<float> values(256, 1.0F);
  const HostTensor t = FloatTensor(values, 1, 4, 64);
  const auto message = [&](const std::vector<PackSource>& sources, DType type) {
    auto matrix = backend_->Pack(sources, type);
    EXPECT_EQ(matrix.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(matrix.status().message());
  };
  EXPECT_THAT(message({}, DType::kF32), HasSubstr("no sources"));
  EXPECT_THAT(message({{t, {0, 1}, {0, 4}, {0, 64}}}, DType::kQ5_0), HasSubstr("matrix of type Q5_0"));
  EXPECT_THAT(message({{t, {0, 1}, {0, 4}, {0, 64}}}, DType::kQ6_K), HasSubstr("F32 to Q6_K"));
  EXPECT_THAT(message({{t, {0, 1}, {2, 5}, {0, 64}}}, DType::kF32), HasSubstr("[2, 5)"));
  EXPECT_THAT(message({{t, {0, 1}, {-1, 2}, {0, 64}}}, DType::kF32), HasSubstr("[-1, 2)"));
  EXPECT_THAT(message({{t, {0, 1}, {3, 2}, {0, 64}}}, DType::kF32), HasSubstr("[3, 2)"));
  EXPECT_THAT(message({{t, {0, 1}, {0, 4}, {0, 40}}}, DType::kQ8_0), HasSubstr("whole Q8_0 blocks of 32"));
  EXPECT_THAT(message({{t, {0, 1}, {0, 1}, {0, 64}}, {t, {0, 1}, {0, 1}, {0, 32}}}, DType::kF32),
              HasSubstr("sources of one matrix differ"));
  HostTensor q6 = t;
  q6.type = DType::kQ6_K;
  q6.cols = 256;
  const std::vector<float> two(static_cast<size_t>(q6.rows), 2.0F);
  q6.scales = two.data();
  EXPECT_THAT(message({{q6, {0, 1}, {0, 1}, {0, 256}}}, DType::kQ6_K), HasSubstr("scales of rows on Q6_K"));
  HostTensor empty = t;
  empty.data = nullptr;
  EXPECT_THAT(message({{empty, {0, 1}, {0, 1}, {0, 64}}}, DType::kF32), HasSubstr("without data"));
  HostTensor vast = t;
  vast.items = vast.rows = vast.cols = int64_t{1} << 40;
  EXPECT_THAT(message({{vast, {0, vast.items}, {0, vast.rows}, {0, vast.cols}}}, DType::kF32), HasSubstr("large"));
  vast.cols = int64_t{1} << 62;
  EXPECT_THAT(message({{vast, {0, 1}, {0, 1}, {0, vast.cols}}}, DType::kF32), HasSubstr("4611686018427387904"));
}

TEST_F(HostTest, PackOfNothingIsEmpty) {
  auto matrix =
      backend_->Pack(std::vector<PackSource>{{FloatTensor({}, 1, 4, 64), {0, 1}, {0, 4}, {32, 32}}}, DType::kQ4_0);
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ((*matrix)->bytes, 0);
  EXPECT_EQ((*matrix)->rows, 4);
}

KvPoolSpec Spec() {
  return {.layers = {{2, 4}, {1, 8}},
          .block_tokens = 4,
          .num_blocks = 6,
          .num_slots = 2,
          .max_blocks_per_slot = 3,
          .type = DType::kF32};
}

// 0.5, 1.5, .. of n.
std::vector<float> Rising(int n) {
  std::vector<float> x;
  for (int i = 0; i < n; ++i) {
    x.push_back(static_cast<float>(i) + 0.5F);
  }
  return x;
}

TEST_F(HostTest, PoolLayoutIsAsDocumented) {
  auto pool = HostKvPool::Create(Spec());
  ASSERT_TRUE(pool.ok());
  // Layers of 6 blocks, 2 * 2 runs of 4 * 4 values; 2 runs of 4 * 8; and the table.
  EXPECT_EQ((*pool)->bytes, 6 * 4 * 16 * 4 + 6 * 2 * 32 * 4 + 2 * 3 * 4);
  (*pool)->Update({1, 2, 5});
  EXPECT_EQ((*pool)->BlockOf(1, 9), 5);
  const float key[4] = {1, 2, 3, 4};
  const float value[4] = {5, 6, 7, 8};
  (*pool)->Store(0, 1, 9, 1, key, value);
  const auto* keys = reinterpret_cast<const float*>((*pool)->KeyGroup(0, 5, 1, 0));
  const auto* values = reinterpret_cast<const float*>((*pool)->Value(0, 5, 1, 0));
  EXPECT_EQ(keys[1], 1.0F);  // offset 1 in the block, which is one group
  EXPECT_EQ(keys[4 * 3 + 1], 4.0F);
  EXPECT_EQ(values[7], 8.0F);
  EXPECT_EQ(values - keys, 16);
}

TEST_F(HostTest, KeysLieInGroupsOf16IfABlockIsMadeOfThem) {
  KvPoolSpec spec = Spec();
  spec.block_tokens = 48;
  auto pool = HostKvPool::Create(spec);
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ((*pool)->key_group(), 16);
  (*pool)->Update({0, 0, 2});
  (*pool)->Store(1, 0, 37, 0, Rising(8).data(), Rising(8).data());
  const std::byte* first = (*pool)->KeyGroup(1, 2, 0, 0);
  const std::byte* third = (*pool)->KeyGroup(1, 2, 0, 37);
  EXPECT_EQ(third - first, 32 * 8 * 4);
  EXPECT_EQ(reinterpret_cast<const float*>(third)[3 * 16 + 5], 3.5F);
  EXPECT_EQ((*pool)->Value(1, 2, 0, 37) - first, (48 + 37) * 8 * 4);
}

TEST_F(HostTest, Q8PoolsTakeABlockForThirtyTwoElements) {
  KvPoolSpec spec = Spec();
  spec.type = DType::kQ8_0;
  spec.layers = {{2, 64}, {1, 32}};
  for (const int block_tokens : {4, 16, 24}) {
    spec.block_tokens = block_tokens;
    auto pool = HostKvPool::Create(spec);
    ASSERT_TRUE(pool.ok());
    EXPECT_EQ((*pool)->bytes, 6 * 2 * block_tokens * (2 * 68 + 34) + 2 * 3 * 4);
    (*pool)->Update({0, 0, 2});
    for (int position = 0; position < block_tokens; ++position) {
      std::vector<float> key(64, static_cast<float>(position) / 127.0F);
      std::vector<float> value(64, -1.0F);
      key[33] = 2.0F;  // the second block's scale alone
      (*pool)->Store(0, 0, position, 1, key.data(), value.data());
    }
    for (int position = 0; position < block_tokens; ++position) {
      std::vector<float> key(64);
      std::vector<float> value(64);
      (*pool)->Load(0, 0, position, 1, key.data(), value.data());
      EXPECT_NEAR(key[31], position / 127.0, 1e-4);
      EXPECT_NEAR(key[33], 2.0, 1e-3);
      EXPECT_NEAR(key[63], position / 127.0, 1.0 / 127);
      EXPECT_NEAR(value[7], -1.0, 1e-3);
    }
  }
}

TEST_F(HostTest, PoolErrors) {
  const auto code = [&](auto change) {
    KvPoolSpec spec = Spec();
    change(spec);
    return backend_->CreateKvPool(spec).status().code();
  };
  EXPECT_EQ(code([](KvPoolSpec& s) { s.type = DType::kQ4_0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](KvPoolSpec& s) { s.type = DType::kQ8_0; }), absl::StatusCode::kInvalidArgument);  // heads of 4
  EXPECT_EQ(code([](KvPoolSpec& s) { s.block_tokens = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](KvPoolSpec& s) { s.num_blocks = -1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](KvPoolSpec& s) { s.layers[0].head_dim = -4; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](KvPoolSpec& s) { s.layers[0] = {INT32_MAX, INT32_MAX}; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](KvPoolSpec& s) { s.max_blocks_per_slot = INT64_MAX; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](KvPoolSpec& s) {
              s.num_slots = INT32_MAX;
              s.max_blocks_per_slot = INT32_MAX;
            }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](KvPoolSpec& s) { s.layers.clear(); }), absl::StatusCode::kOk);
}

TEST_F(HostTest, KvExportErrors) {
  auto pool = backend_->CreateKvPool(Spec());
  ASSERT_TRUE(pool.ok());
  StepMaker maker;
  maker.tables[kFullPool] = {{0, 0, 1}};
  maker.Row(0, 0, 0);
  backend_->Upload(*stream_, maker.Input(), pool->get(), nullptr);
  std::vector<float> kv(32);
  const auto message = [&](int layer, int32_t slot, Range positions, std::span<float> values) {
    const absl::Status status = backend_->KvExport(*stream_, **pool, layer, slot, positions, values, values);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(backend_->KvImport(*stream_, **pool, layer, slot, positions, values, values), status);
    return std::string(status.message());
  };
  EXPECT_TRUE(backend_->KvExport(*stream_, **pool, 0, 0, {0, 4}, kv, kv).ok());
  EXPECT_THAT(message(2, 0, {0, 4}, kv), HasSubstr("layer 2"));
  EXPECT_THAT(message(0, 2, {0, 4}, kv), HasSubstr("slot 2"));
  EXPECT_THAT(message(0, 0, {-1, 3}, kv), HasSubstr("[-1, 3)"));
  EXPECT_THAT(message(0, 0, {9, 13}, kv), HasSubstr("[9, 13)"));
  EXPECT_THAT(message(0, 0, {0, 3}, kv), HasSubstr("want 24"));
  EXPECT_THAT(message(0, 0, {1, 5}, kv), HasSubstr("no block at position 4"));
}

TEST_F(HostTest, AStepIsACopy) {
  std::unique_ptr<Step> step;
  {
    StepMaker maker;
    maker.Row(3, 0, 0);
    maker.Sample(0, {.seed = 9});
    step = backend_->Upload(*stream_, maker.Input(), nullptr, nullptr);
  }
  const auto& host = static_cast<const HostStep&>(*step);
  EXPECT_EQ(host.rows, 1);
  EXPECT_EQ(host.logit_rows, 1);
  EXPECT_EQ(host.tokens[0], 3);
  EXPECT_EQ(host.sampling[0].seed, 9U);
}

using HostDeathTest = HostTest;

TEST_F(HostDeathTest, BrokenInvariantsEndTheProcess) {
  auto pool = backend_->CreateKvPool(Spec());
  ASSERT_TRUE(pool.ok());
  const auto upload = [&](StepMaker maker) { backend_->Upload(*stream_, maker.Input(), pool->get(), nullptr); };
  StepMaker good;
  good.Row(0, 0, 0);
  StepMaker bad = good;
  bad.tables[kFullPool] = {{0, 0, 6}};
  EXPECT_DEATH(upload(bad), "block of a block table update");
  bad = good;
  bad.positions[0] = 12;
  EXPECT_DEATH(upload(bad), "position of a row");
  bad = good;
  bad.slots[0] = 2;
  EXPECT_DEATH(upload(bad), "slot of a row");
  bad = good;
  bad.Sample(1, {});
  EXPECT_DEATH(upload(bad), "logit row of a step");
}

TEST(CostTest, FollowsShapes) {
  auto backend = CreateRefBackend({});
  const std::vector<float> values(int64_t{2} * 8 * 4, 0.0F);
  auto matrix =
      backend->Pack(std::vector<PackSource>{{FloatTensor(values, 2, 8, 4), {0, 2}, {0, 8}, {0, 4}}}, DType::kBF16);
  ASSERT_TRUE(matrix.ok());
  const Tensor in = {nullptr, DType::kF32, 3, 4, 4};
  const OpCost product = Cost(MatMulArgs{.in = in, .matrix = matrix->get(), .out = {}});
  EXPECT_EQ(product.bytes, 2 * 8 * 4 * 2 + 3 * (4 + 8) * 4);
  EXPECT_EQ(product.flops, 2 * 3 * 8 * 4);
  const OpCost gated = Cost(GatedMatMulArgs{.in = in, .gate_up = matrix->get(), .out = {}});
  EXPECT_EQ(gated.bytes, 2 * 8 * 4 * 2 + 3 * (4 + 4) * 4);
  const OpCost experts = Cost(ExpertsArgs{.in = in,
                                          .gate_up = matrix->get(),
                                          .down = matrix->get(),
                                          .ids = {nullptr, DType::kI32, 3, 1, 1},
                                          .weights = {},
                                          .out = {}});
  EXPECT_EQ(experts.bytes, 2 * (2 * 8 * 4 * 2) + 3 * (4 + 8) * 4);  // both experts once
  EXPECT_EQ(experts.flops, 2 * 3 * 2 * 8 * 4);

  auto pool = backend->CreateKvPool(Spec());
  ASSERT_TRUE(pool.ok());
  const OpCost attend = Cost(AttendArgs{.q = {nullptr, DType::kF32, 3, 16, 16},
                                        .heads = 4,
                                        .head_dim = 4,
                                        .group = 2,
                                        .pool = pool->get(),
                                        .out = {}},
                             10);
  EXPECT_EQ(attend.flops, 4 * 10 * 4 * 4);
  EXPECT_EQ(attend.bytes, 2 * 10 * 2 * 4 * 4 + 2 * 3 * 16 * 4);
}

}  // namespace
}  // namespace alphecca::kernels

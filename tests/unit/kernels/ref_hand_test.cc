// The reference against values worked out by hand (numbers in the comments), independent of its own code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/ref/ref_backend.h"
#include "tests/unit/kernels/op_run.h"
#include "tests/unit/kernels/step_maker.h"

namespace alphecca::kernels {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::Pointwise;

constexpr double kGelu1 = 0.8411919906;  // 0.5 (1 + tanh(sqrt(2 / pi) 1.044715))
constexpr double kGeluMinus1 = -0.1588080094;

class RefHandTest : public testing::Test {
 protected:
  // A matrix [items, rows, cols] of F32.
  const Matrix& F32(const std::vector<float>& values, int64_t items, int64_t rows, int64_t cols) {
    return run_.Packed({{{DType::kF32, reinterpret_cast<const std::byte*>(values.data()), items, rows, cols},
                         {0, items},
                         {0, rows},
                         {0, cols}}},
                       DType::kF32);
  }
  void ExpectNear(const Tensor& tensor, const std::vector<double>& want, double tolerance = 1e-6) {
    const std::vector<float> got = run_.Get(tensor);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(got[i], want[i], tolerance) << "value " << i;
    }
  }

  std::unique_ptr<Backend> ref_ = CreateRefBackend({});
  OpRun run_{*ref_, 1};
  Stream& stream_ = run_.stream();
};

TEST_F(RefHandTest, NameAndPrecision) {
  EXPECT_EQ(ref_->Name(), "ref");
  EXPECT_EQ(ref_->IsaPath(), "scalar");
  EXPECT_EQ(ref_->activations(), Activations::kF32);
  EXPECT_EQ(ref_->WorkspaceBytes(100), 0);
}

TEST_F(RefHandTest, RmsNorm) {
  const Tensor in = run_.Put({3, 4, 0, 0}, 2, 2);
  const Tensor out = run_.Empty(2, 2);
  // mean(9, 16) = 12.5; with eps 3.5 the root is 4. Zeros stay zeros.
  ref_->RmsNorm(stream_, {.in = in, .weight = run_.Floats({2, 0.5}), .eps = 3.5F, .out = out});
  ExpectNear(out, {1.5, 0.5, 0, 0});
  ref_->RmsNorm(stream_, {.in = in, .weight = nullptr, .eps = 3.5F, .out = in});
  ExpectNear(in, {0.75, 1, 0, 0});
}

TEST_F(RefHandTest, ResidualNorm) {
  const Tensor x = run_.Put({1, 2}, 1, 2);
  const Tensor y = run_.Put({6, 8}, 1, 2);  // mean 50, eps 14: root 8
  const Tensor out = run_.Empty(1, 2);
  ref_->ResidualNorm(stream_, {.x = x,
                               .y = y,
                               .post = run_.Floats({4, 2}),
                               .scale = 0.5F,
                               .next = run_.Floats({1, 10}),
                               .eps = 14.0F,
                               .out = out});
  ExpectNear(x, {2, 2});  // (1 + 3) / 2, (2 + 2) / 2
  ExpectNear(out, {2 / std::sqrt(18.0), 20 / std::sqrt(18.0)});
}

TEST_F(RefHandTest, AddNorms) {
  const Tensor a = run_.Put({3, 4}, 1, 2);
  const Tensor b = run_.Put({6, 8}, 1, 2);
  ref_->AddNorms(
      stream_,
      {.a = a, .weight_a = run_.Floats({1, 2}), .b = b, .weight_b = run_.Floats({10, 100}), .eps = 0.0F, .out = b});
  const double u = 3 / std::sqrt(12.5);
  const double v = 4 / std::sqrt(12.5);
  ExpectNear(b, {11 * u, 102 * v}, 1e-5);
}

TEST_F(RefHandTest, Products) {
  const Tensor in = run_.Put({1, 2, -1, 0}, 2, 2);
  const Tensor out = run_.Empty(2, 3);
  ref_->MatMul(stream_, {.in = in, .matrix = &F32({1, 2, 3, 4, 5, 6}, 1, 3, 2), .scale = 2.0F, .out = out});
  EXPECT_THAT(run_.Get(out), ElementsAre(10, 22, 34, -2, -6, -10));
  const Tensor gated = run_.Empty(2, 1);
  ref_->GatedMatMul(stream_, {.in = in, .gate_up = &F32({1, 0, 3, 1}, 1, 2, 2), .out = gated});
  ExpectNear(gated, {kGelu1 * 5, kGeluMinus1 * -3});
  const Tensor a = run_.Put({1, -1, 0}, 1, 3);
  ref_->GeluMul(stream_, {.a = a, .b = run_.Put({10, 10, 10}, 1, 3)});
  ExpectNear(a, {10 * kGelu1, 10 * kGeluMinus1, 0});
}

TEST_F(RefHandTest, Embed) {
  StepMaker maker;
  maker.Row(10, 0, 0);
  maker.Row(12, 0, 1);  // not in the slice
  maker.Row(11, 0, 2);
  maker.soft = {-1, -1, 0};
  maker.soft_rows = {7, 8};
  const Step& step = run_.Upload(maker.Input(), nullptr, nullptr);
  const Tensor out = run_.Empty(3, 2);
  const Matrix& m = F32({1, 2, 3, 4}, 1, 2, 2);
  ref_->Embed(stream_, step, {.matrix = &m, .first_row = 10, .scale = 10.0F, .takes_soft = true, .out = out});
  EXPECT_THAT(run_.Get(out), ElementsAre(10, 20, 0, 0, 7, 8));
  ref_->Embed(stream_, step, {.matrix = &m, .first_row = 10, .scale = 10.0F, .takes_soft = false, .out = out});
  EXPECT_THAT(run_.Get(out), ElementsAre(10, 20, 0, 0, 0, 0));
}

TEST_F(RefHandTest, PerLayerInput) {
  StepMaker maker;
  maker.Row(1, 0, 0);
  maker.Row(1, 0, 1);
  maker.soft = {-1, 0};
  maker.soft_rows = {0};
  const Step& step = run_.Upload(maker.Input(), nullptr, nullptr);
  const std::vector<float> table = {0.5, 0, 0, 0, 1, 2, 3, 4};  // two ids, two layers of width two
  const Tensor ctx = run_.Put({3, 4, 6, 8, 3, 4, 6, 8}, 2, 4);
  ref_->PerLayerInput(stream_, step,
                      {.table = {DType::kF32, reinterpret_cast<const std::byte*>(table.data()), 1, 2, 4},
                       .table_scale = 16.0F,
                       .ctx = ctx,
                       .norm = run_.Floats({1, 2}),
                       .width = 2,
                       .eps = 0.0F,
                       .out = ctx});
  const double u = 3 / std::sqrt(12.5);
  const double v = 8 / std::sqrt(12.5);
  const double h = std::sqrt(0.5);
  ExpectNear(ctx,
             {(u + 16) * h, (v + 32) * h, (u + 48) * h, (v + 64) * h,  // token 1
              (u + 8) * h, v * h, u * h, v * h},                       // soft: row 0
             1e-5);
}

KvPoolSpec SmallPool(int kv_heads, int head_dim) {
  return {.layers = {{kv_heads, head_dim}},
          .block_tokens = 2,
          .num_blocks = 4,
          .num_slots = 1,
          .max_blocks_per_slot = 3,
          .type = DType::kF32};
}

TEST_F(RefHandTest, QkvTurnsPairsHalfAHeadApart) {
  KvPool* pool = run_.Pool(SmallPool(1, 4));
  StepMaker maker;
  maker.tables[kFullPool] = {{0, 1, 3}};
  maker.Row(0, 0, 2);
  const Step& step = run_.Upload(maker.Input(), pool, nullptr);
  const Tensor qkv = run_.Put({1, 1, 1, 1, /*k*/ 2, 2, 2, 2, /*v*/ 5, -5, 5, 5}, 1, 12);
  ref_->Qkv(stream_, step,
            {.qkv = qkv,
             .heads = 1,
             .kv_heads = 1,
             .head_dim = 4,
             .q_norm = run_.Floats({1, 1, 1, 1}),
             .k_norm = run_.Floats({3, 3, 3, 3}),
             .eps = 0.0F,
             .rope = {run_.Floats({1.0, 0.0})},  // angles 2 and 0
             .pool = pool});
  const double c = std::cos(2.0);
  const double s = std::sin(2.0);
  std::vector<float> query = run_.Get(qkv);
  query.resize(4);
  EXPECT_THAT(query, Pointwise(FloatNear(1e-6F), std::vector<double>{c - s, 1, c + s, 1}));
  std::vector<float> key(4);
  std::vector<float> value(4);
  ASSERT_TRUE(ref_->KvExport(stream_, *pool, 0, 0, {2, 3}, key, value).ok());
  EXPECT_THAT(key, Pointwise(FloatNear(1e-5F), std::vector<double>{3 * (c - s), 3, 3 * (c + s), 3}));
  EXPECT_THAT(value, Pointwise(FloatNear(1e-6F), std::vector<double>{1, -1, 1, 1}));
}

TEST_F(RefHandTest, ValueFromKeyIsTheRawKey) {
  KvPool* pool = run_.Pool(SmallPool(1, 2));
  StepMaker maker;
  maker.tables[kFullPool] = {{0, 0, 0}};
  maker.Row(0, 0, 1);
  const Step& step = run_.Upload(maker.Input(), pool, nullptr);
  const Tensor qkv = run_.Put({1, 1, /*k*/ 3, 4}, 1, 4);
  ref_->Qkv(stream_, step,
            {.qkv = qkv,
             .heads = 1,
             .kv_heads = 1,
             .head_dim = 2,
             .v_from_k = true,
             .q_norm = run_.Floats({1, 1}),
             .k_norm = run_.Floats({100, 100}),
             .eps = 0.0F,
             .rope = {run_.Floats({1.0})},
             .pool = pool});
  std::vector<float> key(2);
  std::vector<float> value(2);
  ASSERT_TRUE(ref_->KvExport(stream_, *pool, 0, 0, {1, 2}, key, value).ok());
  // No weight and no turn on the value.
  EXPECT_THAT(value, Pointwise(FloatNear(1e-6F), std::vector<double>{3 / std::sqrt(12.5), 4 / std::sqrt(12.5)}));
}

TEST_F(RefHandTest, Attend) {
  KvPool* pool = run_.Pool(SmallPool(2, 2));
  StepMaker maker;
  maker.tables[kFullPool] = {{0, 0, 2}, {0, 1, 1}};
  maker.Row(0, 0, 2);
  maker.Row(0, 0, 2);
  maker.Row(0, 0, 2);
  maker.full = {{1, 2}, {2, 2}, {3, 2}};
  const Step& step = run_.Upload(maker.Input(), pool, nullptr);
  // Positions 0, 1, 2 of kv head 0, then of kv head 1. Key 1 scores 0, key 2 scores ln 3: weights 1/4 and 3/4.
  const std::vector<float> key = {9, 9, 0, 0, 1, 0, 9, 9, 0, 0, 0, 1};
  const std::vector<float> value = {9, 9, 4, 0, 0, 8, 9, 9, 8, 4, 0, 0};
  ASSERT_TRUE(ref_->KvImport(stream_, *pool, 0, 0, {0, 3}, key, value).ok());
  const float ln3 = std::log(3.0F) / 2;
  std::vector<float> queries;
  for (int t = 0; t < 3; ++t) {
    queries.insert(queries.end(), {ln3, 5, 5, ln3});  // head 0 reads kv head 0, head 1 kv head 1
  }
  const Tensor out = run_.Empty(3, 4);
  ref_->Attend(stream_, step,
               {.q = run_.Put(queries, 3, 4),
                .heads = 2,
                .head_dim = 2,
                .first_head = 2,
                .first_kv_head = 2,
                .group = 1,
                .scale = 2.0F,
                .pool = pool,
                .out = out});
  ExpectNear(out, {1, 6, 2, 1, 0, 8, 0, 0, 0, 0, 0, 0});
}

TEST_F(RefHandTest, Route) {
  const Tensor logits = run_.Put({std::log(1.0F), std::log(2.0F), std::log(4.0F), std::log(2.0F)}, 1, 4);
  const Tensor ids = run_.EmptyInts(1, 2);
  const Tensor weights = run_.Empty(1, 2);
  ref_->Route(stream_,
              {.logits = logits, .expert_scale = run_.Floats({1, 3, 0.5, 1}), .k = 2, .ids = ids, .weights = weights});
  ExpectNear(weights, {4.0 / 6 * 0.5, 2.0 / 6 * 3});
  std::vector<int32_t> chosen(2);
  ASSERT_TRUE(ref_->Read(stream_, ids.data, std::as_writable_bytes(std::span(chosen))).ok());
  EXPECT_THAT(chosen, ElementsAre(2, 1));  // of the tied, the lowest
}

TEST_F(RefHandTest, Experts) {
  // Two experts of width 1; row 0 uses the second and one elsewhere, row 1 both.
  const Matrix& gate_up = F32({1, 0, 0, 1, /*1*/ -1, 0, 0, 2}, 2, 2, 2);
  const Matrix& down = F32({1, 2, /*1*/ 3, 4}, 2, 2, 1);
  const Tensor out = run_.Empty(2, 2);
  ref_->Experts(stream_, {.in = run_.Put({1, 3, 1, 3}, 2, 2),
                          .gate_up = &gate_up,
                          .down = &down,
                          .ids = run_.PutInts({1, -1, 0, 1}, 2, 2),
                          .weights = run_.Put({0.5, 0.5, 2, 10}, 2, 2),
                          .out = out});
  const double zero = kGelu1 * 3;
  const double one = kGeluMinus1 * 6;
  ExpectNear(out, {1.5 * one, 2 * one, 2 * zero + 30 * one, 4 * zero + 40 * one}, 1e-5);
}

// Expert 0 lives on rank 0, expert 2 on rank 1, expert 1 on both; rows at positions 0, 1 and 2.
class ExchangeTest : public RefHandTest {
 protected:
  ExchangeTest() {
    StepMaker maker;
    for (int32_t position = 0; position < 3; ++position) {
      maker.Row(0, 0, position);
    }
    step_ = &run_.Upload(maker.Input(), nullptr, nullptr);
  }
  std::vector<int32_t> Ints(const Tensor& tensor) {
    std::vector<int32_t> values;
    for (int64_t row = 0; row < tensor.rows; ++row) {
      std::vector<int32_t> of_row(static_cast<size_t>(tensor.cols));
      EXPECT_TRUE(ref_->Read(stream_, static_cast<int32_t*>(tensor.data) + row * tensor.stride,
                             std::as_writable_bytes(std::span(of_row)))
                      .ok());
      values.insert(values.end(), of_row.begin(), of_row.end());
    }
    return values;
  }
  Tensor Homes() { return run_.PutInts({0, 0, -1, -1, /*1*/ 1, 0, 0, 1, /*2*/ 1, 1, -1, -1}, 3, 4); }
  Tensor Ids() { return run_.PutInts({1, 2, 1, 0, 0, 2}, 3, 2); }

  const Step* step_ = nullptr;
};

TEST_F(ExchangeTest, PlaceExperts) {
  const Tensor ids = Ids();
  ref_->PlaceExperts(stream_, *step_, {.homes = Homes(), .rank = 1, .ids = ids});
  EXPECT_THAT(Ints(ids), ElementsAre(0, 1, -1, -1, -1, 1));
  const Tensor other = Ids();
  ref_->PlaceExperts(stream_, *step_, {.homes = Homes(), .rank = 0, .ids = other});
  EXPECT_THAT(Ints(other), ElementsAre(-1, -1, 1, 0, 0, -1));
}

TEST_F(ExchangeTest, DispatchSendsARowOnceToEachRankThatComputesIt) {
  const Tensor out = run_.Empty(6, 1 + 4);
  const Tensor counts = run_.EmptyInts(1, 2);
  const Tensor rows = run_.EmptyInts(3, 2);
  ref_->Dispatch(stream_, *step_,
                 {.in = run_.Put({10, 20, 30}, 3, 1),
                  .ids = Ids(),
                  .weights = run_.Put({1, 2, 3, 4, 5, 6}, 3, 2),
                  .homes = Homes(),
                  .out = out,
                  .counts = counts,
                  .rows = rows});
  EXPECT_THAT(Ints(counts), ElementsAre(2, 2));
  EXPECT_THAT(Ints(rows), ElementsAre(-1, 2, 0, -1, 1, 3));
  Tensor values = out;
  values.rows = 4;
  values.cols = 3;
  ExpectNear(values, {20, 3, 4, 30, 5, 6, /*rank 1*/ 10, 1, 2, 30, 5, 6});
  Tensor places = values;
  places.data = static_cast<float*>(out.data) + 3;
  places.cols = 2;
  EXPECT_THAT(Ints(places), ElementsAre(1, 0, 0, -1, /*rank 1*/ 0, 1, -1, 1));
}

TEST_F(ExchangeTest, DispatchNeedsRoomForNoMoreRanksThanChoices) {
  const Tensor out = run_.Empty(3, 1 + 2);
  const Tensor counts = run_.EmptyInts(1, 2);
  ref_->Dispatch(stream_, *step_,
                 {.in = run_.Put({10, 20, 30}, 3, 1),
                  .ids = run_.PutInts({0, 2, 0}, 3, 1),
                  .weights = run_.Put({1, 2, 3}, 3, 1),
                  .homes = Homes(),
                  .out = out,
                  .counts = counts,
                  .rows = run_.EmptyInts(3, 2)});
  EXPECT_THAT(Ints(counts), ElementsAre(2, 1));
  Tensor values = out;
  values.cols = 2;
  ExpectNear(values, {10, 1, 30, 3, /*rank 1*/ 20, 2});
}

TEST_F(ExchangeTest, CombineAddsInTheOrderOfRanks) {
  const Tensor out = run_.Empty(3, 1);
  ref_->Combine(
      stream_,
      {.in = run_.Put({1e8F, 2, -1e8F, 3}, 4, 1), .rows = run_.PutInts({3, -1, -1, -1, 0, 2}, 3, 2), .out = out});
  ExpectNear(out, {3, 0, 0});
}

TEST_F(RefHandTest, Softcap) {
  const Tensor logits = run_.Put({30, -60, 0}, 1, 3);
  ref_->Softcap(stream_, {.logits = logits, .cap = 30.0F});
  ExpectNear(logits, {22.8478247, -28.9208274, 0}, 1e-5);  // 30 tanh 1, -30 tanh 2
}

TEST_F(RefHandTest, SampledTokensComeBack) {
  ASSERT_TRUE(ref_->ReserveSlots(2).ok());
  StepMaker maker;
  maker.Row(0, 1, 0);
  maker.Sample(0, {.slot = 1});
  const Step& step = run_.Upload(maker.Input(), nullptr, nullptr);
  const Tensor record = run_.Empty(1, CandidateRecordBytes(1) / 4);
  const Tensor choice = run_.Empty(1, ChoiceBytes(1) / 4);
  ref_->Candidates(stream_, step, {.logits = run_.Put({0, 5, 2}, 1, 3), .count = 1, .out = record.data});
  ref_->Choose(stream_, step, {.records = record.data, .count = 1, .out = choice.data});

  StepMaker next;
  next.Row(-1 - 1, 1, 1);
  next.Row(-1 - 0, 0, 1);  // has sampled nothing: no token, a row of zeros
  const Step& next_step = run_.Upload(next.Input(), nullptr, nullptr);
  const Tensor out = run_.Empty(2, 1);
  const Matrix& m = F32({10, 20, 30}, 1, 3, 1);
  ref_->Embed(stream_, next_step, {.matrix = &m, .out = out});
  EXPECT_THAT(run_.Get(out), ElementsAre(20, 0));
}

}  // namespace
}  // namespace alphecca::kernels

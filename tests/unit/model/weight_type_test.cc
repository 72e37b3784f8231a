// In which type weights are held, and which conversions are refused.
#include "model/weight_type.h"

#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "model/planner/footprint.h"
#include "model/shard_plan.h"
#include "test_files.h"

namespace alphecca::model {
namespace {

using kernels::DType;
using testing::HasSubstr;

constexpr WeightType kAll[] = {WeightType::kAsFile, WeightType::kF32, WeightType::kBF16, WeightType::kSFP8,
                               WeightType::kQ4_0};

std::unique_ptr<Checkpoint> Open(const std::string& name) {
  auto checkpoint = Checkpoint::Open(GoldenDir(name));
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return *std::move(checkpoint);
}

TEST(WeightTypeTest, NamesGoBackAndForth) {
  for (const WeightType weights : kAll) {
    EXPECT_EQ(*ParseWeightType(WeightTypeName(weights)), weights);
  }
  EXPECT_EQ(*ParseWeightType(""), WeightType::kAsFile);
  const auto wrong = ParseWeightType("q5_0");
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong.status().message()), HasSubstr("'q5_0': want as-file, f32, bf16, sfp8 or q4_0"));
}

TEST(WeightTypeTest, PlainTypesBecomeWhatIsAsked) {
  for (const DType file : {DType::kF32, DType::kF16, DType::kBF16}) {
    EXPECT_EQ(*HeldType(TensorKind::kDown, file, WeightType::kAsFile), RuntimeType(file));
    EXPECT_EQ(*HeldType(TensorKind::kDown, file, WeightType::kF32), DType::kF32);
    EXPECT_EQ(*HeldType(TensorKind::kDown, file, WeightType::kBF16), DType::kBF16);
    EXPECT_EQ(*HeldType(TensorKind::kDown, file, WeightType::kSFP8), DType::kSFP8);
    EXPECT_EQ(*HeldType(TensorKind::kEmbedding, file, WeightType::kQ4_0), DType::kQ4_0);
    EXPECT_EQ(*HeldType(TensorKind::kRouter, file, WeightType::kQ4_0), RuntimeType(file)) << "routers stay";
    EXPECT_EQ(*HeldType(TensorKind::kRouter, file, WeightType::kF32), DType::kF32);
  }
}

TEST(WeightTypeTest, NothingIsRoundedTwice) {
  for (const DType file : {DType::kSFP8, DType::kQ4_0, DType::kQ8_0, DType::kQ6_K, DType::kQ4_K}) {
    EXPECT_EQ(*HeldType(TensorKind::kDown, file, WeightType::kF32), DType::kF32);
    EXPECT_EQ(*HeldType(TensorKind::kDown, file, WeightType::kAsFile), RuntimeType(file));
    for (const WeightType weights : {WeightType::kBF16, WeightType::kSFP8, WeightType::kQ4_0}) {
      const bool same = (file == DType::kSFP8 && weights == WeightType::kSFP8) ||
                        (file == DType::kQ4_0 && weights == WeightType::kQ4_0);
      EXPECT_EQ(HeldType(TensorKind::kDown, file, weights).ok(), same) << kernels::TypeName(file);
    }
  }
}

TEST(WeightTypeTest, ARefusalNamesTheTensorAndItsType) {
  const std::unique_ptr<Checkpoint> q8 = Open("gguf/dense-31b-shape-q8_0");
  const absl::Status status = CheckWeightType(*q8, WeightType::kQ4_0);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("embed_tokens.weight: the file has it as Q8_0"));
  EXPECT_EQ(MakeShardPlan(*q8, {2, 1}, WeightType::kSFP8).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(CheckWeightType(*q8, WeightType::kF32).ok());
  EXPECT_TRUE(CheckWeightType(*Open("gguf/dense-31b-shape-q4_0"), WeightType::kQ4_0).ok());
}

TEST(WeightTypeTest, ResidentBytesFollowTheType) {
  const std::unique_ptr<Checkpoint> dense = Open("dense-31b-shape");
  const auto plan = MakeShardPlan(*dense, {1, 1});
  ASSERT_TRUE(plan.ok());
  const auto bytes = [&](WeightType weights) {
    return RankFootprint(*dense, *plan, 0, weights, kernels::DType::kBF16, {})->weight_bytes;
  };
  const int64_t f32 = bytes(WeightType::kF32);
  const int64_t vectors = 2 * bytes(WeightType::kAsFile) - f32;  // F32 in all types; the file's matrices are BF16
  EXPECT_GT(vectors, 0);
  EXPECT_LT(vectors, f32 / 100);
  EXPECT_EQ((bytes(WeightType::kQ4_0) - vectors) * 128, (f32 - vectors) * 18);
  const int64_t scales = 4 * (bytes(WeightType::kSFP8) - vectors) - (f32 - vectors);  // 4 x 4 bytes a row
  EXPECT_GT(scales, 0);
  EXPECT_EQ(scales % 16, 0);
  EXPECT_LT(scales, f32 / 8);
}

TEST(WeightTypeTest, HeadsMayNotEndWithinABlock) {
  // One head a rank: heads of 16 end within a block of 32.
  for (const std::string& name : SafetensorsCases()) {
    const std::unique_ptr<Checkpoint> checkpoint = Open(name);
    const auto plan = MakeShardPlan(*checkpoint, {checkpoint->config().heads, 1}, WeightType::kQ4_0);
    bool whole = true;
    for (const LayerConfig& layer : checkpoint->config().layers) {
      whole = whole && layer.head_dim % 32 == 0;
    }
    EXPECT_EQ(plan.ok(), whole) << name << ": " << plan.status();
    if (!plan.ok()) {
      EXPECT_THAT(std::string(plan.status().message()), HasSubstr("self_attn.o_proj.weight"));
    }
  }
}

}  // namespace
}  // namespace alphecca::model

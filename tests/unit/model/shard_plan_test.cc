#include "model/shard_plan.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/published.h"
#include "test_files.h"

namespace alphecca::model {
namespace {

using kernels::DType;
using ::testing::HasSubstr;

ModelConfig Config(Published model) {
  return *ConfigFromJson(PublishedConfigJson(model));
}

// Ranges of `parts` in order, end to end over [0, size), each beginning and ending on a unit or at the end.
void ExpectPartition(const std::vector<Range>& parts, int64_t size, int64_t unit) {
  int64_t at = 0;
  int64_t least = size;
  int64_t most = 0;
  for (const Range& part : parts) {
    EXPECT_EQ(part.begin, at);
    EXPECT_GE(part.end, part.begin);
    EXPECT_TRUE(part.end % unit == 0 || part.end == size);
    at = part.end;
    least = std::min(least, part.size());
    most = std::max(most, part.size());
  }
  EXPECT_EQ(at, size);
  EXPECT_LE(most - least, 2 * unit) << "uneven beyond what units force";
}

// What must hold of every plan.
void CheckPlan(const ModelConfig& config, const ShardPlan& plan, int64_t unit) {
  const int ranks = std::max(plan.tp, plan.ep);
  ASSERT_EQ(plan.ranks.size(), static_cast<size_t>(ranks));
  std::vector<const RankShard*> dense;  // one for each attention shard
  for (const RankShard& rank : plan.ranks) {
    EXPECT_EQ(rank.rank, &rank - plan.ranks.data());
    ASSERT_EQ(rank.layers.size(), config.layers.size());
    if (rank.adds_dense) {
      dense.push_back(&rank);
    } else {  // computes what the lowest of those that share computes
      EXPECT_EQ(rank.vocab, dense.back()->vocab);
      EXPECT_EQ(rank.layers[0].heads, dense.back()->layers[0].heads);
      EXPECT_EQ(rank.layers[0].mlp, dense.back()->layers[0].mlp);
    }
  }
  ASSERT_EQ(dense.size(), static_cast<size_t>(plan.tp));
  std::vector<Range> vocab;
  for (const RankShard* rank : dense) {
    vocab.push_back(rank->vocab);
  }
  ExpectPartition(vocab, config.vocab, 32);
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const LayerConfig& layer = config.layers[i];
    std::vector<Range> heads;
    std::vector<Range> mlp;
    for (const RankShard* rank : dense) {
      const LayerShard& shard = rank->layers[i];
      heads.push_back(shard.heads);
      mlp.push_back(shard.mlp);
      EXPECT_FALSE(shard.heads.empty());
      const int64_t group = config.heads / layer.kv_heads;
      EXPECT_EQ(shard.kv_heads.begin, shard.heads.begin / group);
      EXPECT_EQ(shard.kv_heads.end, (shard.heads.end - 1) / group + 1);
    }
    ExpectPartition(heads, config.heads, 1);
    ExpectPartition(mlp, layer.mlp_width, unit);
    // Experts x columns: each pair on exactly one rank.
    std::vector<int> owners(static_cast<size_t>(config.experts) * static_cast<size_t>(config.expert_width));
    for (const RankShard& rank : plan.ranks) {
      const LayerShard& shard = rank.layers[i];
      for (int64_t e = shard.experts.begin; e < shard.experts.end; ++e) {
        for (int64_t c = shard.expert_columns.begin; c < shard.expert_columns.end; ++c) {
          ++owners[static_cast<size_t>(e * config.expert_width + c)];
        }
      }
    }
    for (const int count : owners) {
      ASSERT_EQ(count, 1);
    }
  }
}

TEST(ShardPlanTest, RandomShapesAndDegreesArePartitioned) {
  std::mt19937 random(20240607);
  const auto pick = [&random](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  int made = 0;
  for (int round = 0; round < 400; ++round) {
    ModelConfig config;
    config.hidden = 32 * pick(1, 8);
    config.heads = pick(1, 12);
    config.vocab = pick(1, 2000);
    config.sliding_window = 16;
    config.context = 256;
    config.experts = pick(0, 1) * pick(1, 20);
    config.experts_per_token = config.experts > 0 ? 1 : 0;
    config.expert_width = config.experts > 0 ? 32 * pick(1, 6) : 0;
    for (int i = 0; i < 3; ++i) {
      int kv_heads = pick(1, config.heads);
      while (config.heads % kv_heads != 0) {
        --kv_heads;
      }
      config.layers.push_back({i == 2, kv_heads, 8, 32 * pick(1, 70), false, i});
    }
    const int small = pick(1, 4);
    const int large = small * pick(1, 4);
    const bool tp_larger = pick(0, 1) == 1;
    const int tp = tp_larger ? large : small;
    const int ep = config.experts == 0 ? 1 : (tp_larger ? small : large);
    const int64_t unit = pick(0, 1) == 0 ? 32 : 256;
    SCOPED_TRACE(::testing::Message() << "round " << round << " tp " << tp << " ep " << ep);
    const auto plan = MakeShardPlan(config, {tp, ep}, unit);
    if (tp > config.heads || ep > std::max(1, config.experts)) {
      EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    ASSERT_TRUE(plan.ok()) << plan.status();
    CheckPlan(config, *plan, unit);
    ++made;
  }
  EXPECT_GT(made, 150);
}

TEST(ShardPlanTest, MoeModelOverFourRanks) {
  const ModelConfig config = Config(Published::k26B);
  const auto plan = MakeShardPlan(config, {4, 4}, 32);
  ASSERT_TRUE(plan.ok());
  CheckPlan(config, *plan, 32);
  const RankShard& rank = plan->ranks[3];
  EXPECT_EQ(rank.vocab, (Range{196608, 262144}));
  EXPECT_TRUE(rank.adds_dense);
  EXPECT_EQ(rank.layers[0].heads, (Range{12, 16}));
  EXPECT_EQ(rank.layers[0].kv_heads, (Range{6, 8}));
  EXPECT_EQ(rank.layers[5].kv_heads, (Range{1, 2}));  // two global KV heads, each on two ranks
  EXPECT_EQ(plan->ranks[2].layers[5].kv_heads, (Range{1, 2}));
  EXPECT_EQ(plan->ranks[1].layers[5].kv_heads, (Range{0, 1}));
  EXPECT_EQ(rank.layers[0].mlp, (Range{1568, 2112}));  // 66 units of 32 over 4: 16, 17, 16, 17
  EXPECT_EQ(rank.layers[0].experts, (Range{96, 128}));
  EXPECT_EQ(rank.layers[0].expert_columns, (Range{0, 704}));
}

TEST(ShardPlanTest, DegreesMapToRanks) {
  const ModelConfig config = Config(Published::k26B);
  const auto attention_shared = MakeShardPlan(config, {2, 4}, 32);
  ASSERT_TRUE(attention_shared.ok());
  CheckPlan(config, *attention_shared, 32);
  EXPECT_TRUE(attention_shared->ranks[0].adds_dense);
  EXPECT_FALSE(attention_shared->ranks[1].adds_dense);
  EXPECT_TRUE(attention_shared->ranks[2].adds_dense);
  EXPECT_EQ(attention_shared->ranks[1].layers[0].heads, (Range{0, 8}));
  EXPECT_EQ(attention_shared->ranks[1].layers[0].experts, (Range{32, 64}));
  const auto columns_sliced = MakeShardPlan(config, {4, 2}, 32);
  ASSERT_TRUE(columns_sliced.ok());
  CheckPlan(config, *columns_sliced, 32);
  EXPECT_EQ(columns_sliced->ranks[1].layers[0].experts, (Range{0, 64}));
  EXPECT_EQ(columns_sliced->ranks[1].layers[0].expert_columns, (Range{352, 704}));
  EXPECT_EQ(columns_sliced->ranks[2].layers[0].experts, (Range{64, 128}));
}

TEST(ShardPlanTest, ImpossibleDegreesSayWhy) {
  const auto fails = [](const ModelConfig& config, int tp, int ep, const std::string& message) {
    const auto plan = MakeShardPlan(config, {tp, ep}, 32);
    ASSERT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr(message));
  };
  fails(Config(Published::kE2B), 9, 1, "only 8 attention heads");
  fails(Config(Published::kE2B), 2, 2, "has no experts");
  fails(Config(Published::k26B), 2, 3, "must divide");
  fails(Config(Published::k26B), 1, 256, "only 128 experts");
  fails(Config(Published::k26B), 0, 1, "1 to");
  fails(Config(Published::k26B), 1, -1, "1 to");
  fails(Config(Published::k26B), 100000, 1, "1 to");
  EXPECT_FALSE(MakeShardPlan(Config(Published::k26B), {1, 1}, 0).ok());
  EXPECT_FALSE(MakeShardPlan(ModelConfig(), {1, 1}, 32).ok());
}

TEST(ShardPlanTest, HashTellsPlansApart) {
  const ModelConfig config = Config(Published::k26B);
  const std::string hash = MakeShardPlan(config, {2, 2}, 32)->Hash();
  EXPECT_EQ(hash.size(), 16U);
  EXPECT_EQ(MakeShardPlan(config, {2, 2}, 32)->Hash(), hash);
  EXPECT_NE(MakeShardPlan(config, {2, 1}, 32)->Hash(), hash);
  EXPECT_NE(MakeShardPlan(config, {2, 2}, 256)->Hash(), hash);
  EXPECT_NE(MakeShardPlan(Config(Published::k31B), {2, 1}, 32)->Hash(), MakeShardPlan(config, {2, 1}, 32)->Hash());
}

TEST(ShardPlanTest, EveryGoldenSplits) {
  std::vector<std::string> names = SafetensorsCases();
  for (const std::string& name : GgufCases()) {
    names.push_back(name);
  }
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    const auto checkpoint = Checkpoint::Open(GoldenDir(name));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(*ColumnUnit(**checkpoint), 32);
    const bool moe = (*checkpoint)->config().experts > 0;
    for (const auto& [tp, ep] :
         {std::pair(1, 1), std::pair(2, moe ? 2 : 1), std::pair(4, moe ? 2 : 1), std::pair(2, moe ? 4 : 1)}) {
      const auto plan = MakeShardPlan(**checkpoint, {tp, ep});
      ASSERT_TRUE(plan.ok()) << plan.status();
      CheckPlan((*checkpoint)->config(), *plan, 32);
    }
  }
}

TEST(RuntimeTypeTest, FileTypesMapToRunTimeTypes) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kSFP8, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K,
                           DType::kQ5_K, DType::kQ6_K}) {
    EXPECT_EQ(RuntimeType(type), type);
  }
  EXPECT_EQ(RuntimeType(DType::kQ5_0), DType::kQ8_0);
  EXPECT_EQ(RuntimeType(DType::kIQ4_NL), DType::kQ8_0);
  for (const DType type : {DType::kF16, DType::kQ4_1, DType::kQ5_1}) {
    EXPECT_EQ(RuntimeType(type), DType::kF32);
  }
  EXPECT_EQ(CommonType(DType::kQ4_0, DType::kQ4_0), DType::kQ4_0);
  EXPECT_EQ(CommonType(DType::kQ4_0, DType::kQ8_0), DType::kQ8_0);
  EXPECT_EQ(CommonType(DType::kQ8_0, DType::kQ4_0), DType::kQ8_0);
  EXPECT_EQ(CommonType(DType::kBF16, DType::kF32), DType::kF32);
  EXPECT_EQ(CommonType(DType::kQ6_K, DType::kQ8_0), DType::kF32);
}

}  // namespace
}  // namespace alphecca::model

#include "model/expert_replicas.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "model/published.h"
#include "model/shard_plan.h"

namespace alphecca::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// One layer of a few experts; the rest is any model's.
ModelConfig Config(int experts) {
  ModelConfig config = *PublishedConfig(Published::k26B);
  config.layers.resize(1);
  config.layers[0].kv_source = 0;
  config.experts = experts;
  config.experts_per_token = 2;
  return config;
}

double BusiestOverMean(const ModelConfig& config, const ExpertRows& rows, const ExpertReplicas& replicas, int ranks) {
  double busiest = 0.0;
  double total = 0.0;
  for (int rank = 0; rank < ranks; ++rank) {
    double load = 0.0;
    for (int e = 0; e < config.experts; ++e) {
      int copies = 1;
      bool here = OwnExperts(config, rank, ranks).contains(e);
      for (int other = 0; other < ranks && !replicas.empty(); ++other) {
        const auto& held = replicas[0][static_cast<size_t>(other)];
        const bool has = std::find(held.begin(), held.end(), e) != held.end();
        copies += has ? 1 : 0;
        here = here || (has && other == rank);
      }
      load += here ? static_cast<double>(rows[0][static_cast<size_t>(e)]) / copies : 0.0;
    }
    busiest = std::max(busiest, load);
    total += load;
  }
  return busiest / (total / ranks);
}

TEST(ExpertReplicasTest, TheBusiestRankIsRelieved) {
  const ModelConfig config = Config(6);
  // Ranks own {0, 1}, {2, 3}, {4, 5} and carry 110, 3 and 22 rows. The first copy leaves them 60, 53 and 22; the second
  // 55, 53 and 27; the first rank, still the busiest, takes what weighs least.
  const auto replicas = PlaceReplicas(config, {{100, 10, 2, 1, 20, 2}}, 3, 1);
  ASSERT_TRUE(replicas.ok()) << replicas.status();
  EXPECT_THAT((*replicas)[0], ElementsAre(ElementsAre(3), ElementsAre(0), ElementsAre(1)));
}

TEST(ExpertReplicasTest, RanksGetMoreEven) {
  const ModelConfig config = Config(128);
  std::mt19937 random(5);
  for (int round = 0; round < 20; ++round) {
    ExpertRows rows(1);
    for (int e = 0; e < 128; ++e) {
      rows[0].push_back(static_cast<uint64_t>(1000.0 / (1 + random() % 100)));
    }
    for (const int ranks : {2, 3, 8}) {
      const auto replicas = PlaceReplicas(config, rows, ranks, 8);
      ASSERT_TRUE(replicas.ok());
      for (int rank = 0; rank < ranks; ++rank) {
        const std::vector<int32_t>& held = (*replicas)[0][static_cast<size_t>(rank)];
        EXPECT_EQ(std::set<int32_t>(held.begin(), held.end()).size(), 8U);
      }
      EXPECT_TRUE(MakeShardPlan(config, {.ep = ranks, .mode = ExpertMode::kWide, .replicas = *replicas}, 32).ok());
      const double before = BusiestOverMean(config, rows, {}, ranks);
      const double after = BusiestOverMean(config, rows, *replicas, ranks);
      EXPECT_LE(after, 1.0 + (before - 1.0) * 0.25 + 0.01) << ranks << " ranks, " << before << " before";
    }
  }
}

// Every rank has its copies, none of what it holds already: MakeShardPlan checks that.
void ExpectPlan(const ModelConfig& config, const ExpertReplicas& replicas, int ranks, size_t per_rank) {
  for (const auto& layer : replicas) {
    for (const std::vector<int32_t>& held : layer) {
      ASSERT_EQ(held.size(), per_rank);
    }
  }
  const auto plan = MakeShardPlan(config, {.ep = ranks, .replicas = replicas}, 32);
  EXPECT_TRUE(plan.ok()) << plan.status();
}

TEST(ExpertReplicasTest, EvenLoadsGetCopiesToo) {
  const ModelConfig config = Config(12);
  for (const uint64_t each : {0, 7}) {
    for (const int ranks : {2, 3, 5, 12}) {
      for (const int per_rank : {0, 1, 12 - (12 + ranks - 1) / ranks}) {
        const auto replicas = PlaceReplicas(config, {std::vector<uint64_t>(12, each)}, ranks, per_rank);
        ASSERT_TRUE(replicas.ok()) << replicas.status();
        ExpectPlan(config, *replicas, ranks, static_cast<size_t>(per_rank));
      }
    }
  }
}

TEST(ExpertReplicasTest, EveryExpertAloneOnItsRank) {
  // To try all pairs of ranks and experts for each copy would take minutes, past this test's time-out.
  const ModelConfig config = *PublishedConfig(Published::k26B);
  std::mt19937 random(6);
  ExpertRows rows(config.layers.size());
  for (auto& layer : rows) {
    for (int e = 0; e < config.experts; ++e) {
      layer.push_back(1000 / (1 + random() % 100));
    }
  }
  const auto replicas = PlaceReplicas(config, rows, config.experts, 32);
  ASSERT_TRUE(replicas.ok()) << replicas.status();
  ExpectPlan(config, *replicas, config.experts, 32);
  EXPECT_LT(BusiestOverMean(config, rows, *replicas, config.experts), 2);
  EXPECT_GT(BusiestOverMean(config, rows, {}, config.experts), 5);
}

TEST(ExpertReplicasTest, RefusesWhatIsOfAnotherModel) {
  const ModelConfig config = Config(6);
  const auto message = [](const auto& status_or) { return std::string(status_or.status().message()); };
  EXPECT_THAT(message(PlaceReplicas(config, {{1, 2, 3}}, 2, 1)), HasSubstr("layer 0 has 3 experts, the model 6"));
  EXPECT_THAT(message(PlaceReplicas(config, {}, 2, 1)), HasSubstr("0 layers, the model has 1"));
  EXPECT_THAT(message(PlaceReplicas(config, {{1, 1, 1, 1, 1, 1}}, 7, 1)), HasSubstr("7 ranks for 6 experts"));
  EXPECT_THAT(message(PlaceReplicas(config, {{1, 1, 1, 1, 1, 1}}, 2, 4)), HasSubstr("0 to 3"));
  EXPECT_THAT(message(ReadExpertRows("/nowhere/load.json", config)), HasSubstr("/nowhere/load.json"));
}

TEST(ExpertReplicasTest, JsonComesBackAndOtherTextIsRefused) {
  const ModelConfig config = Config(3);
  const ExpertRows rows = {{1, 0, uint64_t{1} << 60}};
  EXPECT_EQ(*ExpertRowsFromJson(ExpertRowsToJson(rows), config), rows);
  for (const char* text :
       {"", "[]", "{\"layers\": 3}", "{\"layers\": [3]}", "{\"layers\": [[1, 2, -3]]}", "{\"layers\": [[1, 2, 0.5]]}",
        "{\"layers\": [[1, 2]]}", "{\"layers\": [[1, 2, 3], [1, 2, 3]]}"}) {
    EXPECT_EQ(ExpertRowsFromJson(text, config).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ExpertReplicasTest, PlansRefuseCopiesThatMakeNoSense) {
  const ModelConfig config = Config(4);
  const auto code = [&](const ExpertReplicas& replicas, int tp, int ep) {
    return MakeShardPlan(config, {.tp = tp, .ep = ep, .replicas = replicas}, 32).status().code();
  };
  EXPECT_EQ(code({{{2}, {0}}}, 1, 2), absl::StatusCode::kOk);
  EXPECT_EQ(code({{{2}, {0}}}, 2, 2), absl::StatusCode::kOk);
  const auto bad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({{{1}, {0}}}, 1, 2), bad) << "its own";
  EXPECT_EQ(code({{{4}, {0}}}, 1, 2), bad) << "none of the model's";
  EXPECT_EQ(code({{{2, 2}, {0, 1}}}, 1, 2), bad) << "twice";
  EXPECT_EQ(code({{{2}, {}}}, 1, 2), bad) << "not as many on each";
  EXPECT_EQ(code({{{2}}}, 1, 2), bad) << "of too few ranks";
  EXPECT_EQ(code({{{2}, {0}}, {{2}, {0}}}, 1, 2), bad) << "of too many layers";
  EXPECT_EQ(code({{{2}, {0}}}, 4, 2), bad) << "ranks that slice experts";
}

}  // namespace
}  // namespace alphecca::model

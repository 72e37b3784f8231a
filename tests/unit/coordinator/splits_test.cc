#include "coordinator/cluster/splits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

namespace alphecca::coordinator {
namespace {

class AllowedSplitsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = model::Checkpoint::Open(std::string(ALPHECCA_MODELS) + "/tiny-moe");
    ASSERT_TRUE(opened.ok()) << opened.status();
    checkpoint_ = *std::move(opened);
  }
  std::vector<Split> Splits(const SplitOptions& options) {
    auto splits = AllowedSplits(*checkpoint_, options);
    EXPECT_TRUE(splits.ok()) << splits.status();
    return splits.value_or(std::vector<Split>());
  }

  std::unique_ptr<model::Checkpoint> checkpoint_;
};

TEST_F(AllowedSplitsTest, AllThatTheShapesAllowFewestRanksFirst) {
  const std::vector<Split> splits = Splits({.context = 4096});
  ASSERT_GE(splits.size(), 3U);
  EXPECT_EQ(splits[0].ranks(), 1);
  // Of larger groups the gathered candidates of all ranks outweigh what a share of so small a model saves.
  EXPECT_LT(splits[1].rank_bytes, splits[0].rank_bytes);
  for (size_t i = 1; i < splits.size(); ++i) {
    EXPECT_GT(splits[i].ranks(), splits[i - 1].ranks());
    EXPECT_EQ(splits[i].ep, splits[i].tp);
    EXPECT_NE(splits[i].plan_hash, splits[i - 1].plan_hash);
  }
}

TEST_F(AllowedSplitsTest, AGivenDegreeIsTheOnlyOne) {
  const std::vector<Split> splits = Splits({.tp = 2, .ep = 1, .context = 4096});
  ASSERT_EQ(splits.size(), 1U);
  EXPECT_EQ(splits[0].tp, 2);
  EXPECT_EQ(splits[0].ep, 1);
}

TEST_F(AllowedSplitsTest, WiderWeightsAndALongerContextTakeMore) {
  const auto bytes = [this](const SplitOptions& options) { return Splits(options).at(0).rank_bytes; };
  const int64_t as_file = bytes({.tp = 1, .context = 4096});
  // BF16 weights of 7.6 M parameters: F32 ones take as much again.
  EXPECT_NEAR(static_cast<double>(bytes({.tp = 1, .weights = "f32", .context = 4096}) - as_file), 2 * 7.6e6, 0.4e6);
  EXPECT_LT(bytes({.kv_type = "f32", .context = 512}), bytes({.kv_type = "f32", .context = 4096}));
  EXPECT_LT(bytes({.kv_type = "bf16", .context = 4096}), bytes({.kv_type = "f32", .context = 4096}));
  // Above what every rank keeps for KV at least.
  EXPECT_LT(bytes({.kv_type = "q8_0", .context = 65536}), bytes({.kv_type = "bf16", .context = 65536}));
}

TEST_F(AllowedSplitsTest, ResidentTablesTakeTheirBytes) {
  const auto edge = model::Checkpoint::Open(ALPHECCA_TEST_DATA "/goldens/edge-e2b-shape");
  ASSERT_TRUE(edge.ok()) << edge.status();
  const model::ModelConfig& config = (*edge)->config();
  const int64_t table =
      config.per_layer_vocab * config.per_layer_width * static_cast<int64_t>(config.layers.size()) * 2;  // BF16
  const auto bytes = [&edge](bool resident) {
    return AllowedSplits(**edge, {.tp = 2, .resident_tables = resident, .context = 64})->at(0).rank_bytes;
  };
  EXPECT_EQ(bytes(true) - bytes(false), table) << "on each rank";
}

TEST_F(AllowedSplitsTest, CopiesOfEverySplitComeOfOneLoad) {
  const std::string path = testing::TempDir() + "/alphecca_splits_load.json";
  const model::ModelConfig& config = checkpoint_->config();
  model::ExpertRows rows(config.layers.size(), std::vector<uint64_t>(static_cast<size_t>(config.experts), 1));
  rows[0][0] = 1000;
  std::ofstream(path) << model::ExpertRowsToJson(rows);
  const std::vector<Split> splits =
      Splits({.context = 512, .expert_mode = model::ExpertMode::kWide, .expert_load = path, .hot_experts = 1});
  std::remove(path.c_str());
  ASSERT_GE(splits.size(), 3U);
  for (const Split& split : splits) {
    EXPECT_EQ(split.tp, 1);
    EXPECT_TRUE(split.experts);
    EXPECT_EQ(split.expert_mode, model::ExpertMode::kWide);
    ASSERT_EQ(split.expert_replicas.size(), config.layers.size());
    EXPECT_THAT(split.expert_replicas[0].back(), testing::ElementsAre(0)) << "the hot one, beside its owner, rank 0";
  }
  EXPECT_EQ(AllowedSplits(*checkpoint_, {.context = 512, .expert_load = path, .hot_experts = 1}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(AllowedSplitsTest, WhatCannotBeIsRefused) {
  EXPECT_EQ(AllowedSplits(*checkpoint_, {.tp = 64, .context = 512}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AllowedSplits(*checkpoint_, {.weights = "q3", .context = 512}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace alphecca::coordinator

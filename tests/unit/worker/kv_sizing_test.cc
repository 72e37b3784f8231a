#include "worker/engine/kv_sizing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "worker/engine/block_manager.h"
#include "worker/engine/scheduler.h"

namespace alphecca::engine {
namespace {

using testing::HasSubstr;

// Two sliding layers of four kv heads, a full one of two; the last sliding layer reads the first one's KV.
model::ModelConfig Config() {
  model::ModelConfig config;
  config.hidden = 64;
  config.heads = 4;
  config.vocab = 100;
  config.sliding_window = 32;
  config.context = 1000;
  const model::LayerConfig sliding{
      .full_attention = false, .kv_heads = 4, .head_dim = 16, .mlp_width = 64, .v_from_k = false, .kv_source = 0};
  const model::LayerConfig full{
      .full_attention = true, .kv_heads = 2, .head_dim = 32, .mlp_width = 64, .v_from_k = false, .kv_source = 1};
  config.layers = {sliding, full, sliding};
  return config;
}

// Rank 0 holds three kv heads of the sliding layers, rank 1 one.
model::ShardPlan Plan() {
  model::ShardPlan plan;
  for (int rank = 0; rank < 2; ++rank) {
    model::RankShard shard;
    shard.rank = rank;
    model::LayerShard sliding;
    sliding.kv_heads = rank == 0 ? Range{0, 3} : Range{3, 4};
    model::LayerShard full;
    full.kv_heads = {rank, rank + 1};
    shard.layers = {sliding, full, sliding};
    plan.ranks.push_back(shard);
  }
  return plan;
}

TEST(KvBlockBytes, IsThatOfTheFullestRankAndOwnLayersOnly) {
  // K and V of 3 heads of 16, blocks of 8 tokens, two bytes each.
  EXPECT_EQ(KvBlockBytes(Config(), Plan(), kernels::kSlidingPool, 8, kernels::DType::kBF16), 2 * 3 * 16 * 8 * 2);
  EXPECT_EQ(KvBlockBytes(Config(), Plan(), kernels::kFullPool, 8, kernels::DType::kF32), 2 * 1 * 32 * 8 * 4);
}

// The scheduler wants room for a window and the block that is being written.
TEST(SizeKv, AContextOfOneWindowRuns) {
  ShardOptions options;
  options.context = Config().sliding_window;
  options.max_sequences = 1;
  const auto sizes = SizeKv(Config(), Plan(), options);
  ASSERT_TRUE(sizes.ok()) << sizes.status();
  SchedulerOptions scheduler;
  scheduler.block_tokens = options.block_tokens;
  scheduler.full_blocks = sizes->full_blocks;
  scheduler.sliding_blocks = sizes->sliding_blocks;
  scheduler.sliding_window = Config().sliding_window;
  EXPECT_TRUE(Scheduler::Create(scheduler).ok());
}

TEST(SizeKv, DefaultHoldsEverySequenceWhole) {
  ShardOptions options;
  options.max_sequences = 3;
  options.max_rows = 20;
  options.block_tokens = 8;
  const auto sizes = SizeKv(Config(), Plan(), options);
  ASSERT_TRUE(sizes.ok()) << sizes.status();
  EXPECT_EQ(sizes->context, 1000);
  EXPECT_EQ(sizes->full_blocks, 3 * 125);
  EXPECT_EQ(sizes->sliding_blocks, 3 * SlidingBlocksFor(1000, 32, 20, 8));
}

TEST(SizeKv, BudgetHolds) {
  ShardOptions options;
  options.max_sequences = 3;
  options.max_rows = 20;
  options.block_tokens = 8;
  const int64_t full = KvBlockBytes(Config(), Plan(), kernels::kFullPool, 8, options.kv_type);
  const int64_t sliding = KvBlockBytes(Config(), Plan(), kernels::kSlidingPool, 8, options.kv_type);
  int64_t last_context = 0;
  for (int64_t budget = 0; budget < 600'000; budget += 997) {
    options.kv_budget_bytes = budget + 1;
    const auto sizes = SizeKv(Config(), Plan(), options);
    if (!sizes.ok()) {
      EXPECT_EQ(sizes.status().code(), absl::StatusCode::kResourceExhausted);
      EXPECT_EQ(last_context, 0);
      continue;
    }
    EXPECT_LE(sizes->full_blocks * full + sizes->sliding_blocks * sliding, budget + 1);
    EXPECT_LE(sizes->context, sizes->full_blocks * 8);
    EXPECT_GE(sizes->context, last_context);
    last_context = sizes->context;
    // Whatever is left can run a sequence of its context.
    auto scheduler = Scheduler::Create({.step_tokens = options.max_rows,
                                        .block_tokens = 8,
                                        .full_blocks = sizes->full_blocks,
                                        .sliding_blocks = sizes->sliding_blocks,
                                        .sliding_window = 32});
    ASSERT_TRUE(scheduler.ok()) << scheduler.status();
    EXPECT_TRUE(scheduler->Fits(sizes->context));
  }
  EXPECT_EQ(last_context, 1000);
}

TEST(SizeKv, FewerSequencesLeaveAShortenedContextAsItIs) {
  ShardOptions options;
  options.block_tokens = 8;
  options.max_sequences = 1;
  options.kv_budget_bytes = 80'000;
  const auto one = SizeKv(Config(), Plan(), options);
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_LT(one->context, 1000);
  options.max_sequences = 64;
  const auto many = SizeKv(Config(), Plan(), options);
  ASSERT_TRUE(many.ok()) << many.status();
  EXPECT_EQ(many->context, one->context);
}

TEST(SizeKv, GivenBlocksBoundTheContext) {
  ShardOptions options;
  options.full_blocks = 5;
  options.sliding_blocks = 50;
  const auto sizes = SizeKv(Config(), Plan(), options);
  ASSERT_TRUE(sizes.ok());
  EXPECT_EQ(sizes->context, 80);
  EXPECT_EQ(sizes->full_blocks, 5);
  EXPECT_EQ(sizes->sliding_blocks, 50);
}

TEST(SizeKv, ModelWithoutSlidingLayersHasNoSlidingPool) {
  model::ModelConfig config = Config();
  for (model::LayerConfig& layer : config.layers) {
    layer.full_attention = true;
  }
  config.sliding_window = 0;
  ShardOptions options;
  options.sliding_blocks = 50;
  const auto sizes = SizeKv(config, Plan(), options);
  ASSERT_TRUE(sizes.ok());
  EXPECT_EQ(sizes->sliding_blocks, 0);
}

TEST(SizeKv, RefusesSizesOutOfRange) {
  const auto refused = [&](const std::function<void(ShardOptions&)>& spoil, const std::string& says) {
    ShardOptions options;
    spoil(options);
    const auto sizes = SizeKv(Config(), Plan(), options);
    EXPECT_EQ(sizes.status().code(), absl::StatusCode::kInvalidArgument) << says;
    EXPECT_THAT(std::string(sizes.status().message()), HasSubstr(says));
  };
  refused([](auto& o) { o.context = -1; }, "context -1");
  refused([](auto& o) { o.context = 1001; }, "context 1001");
  refused([](auto& o) { o.max_sequences = 0; }, "max_sequences 0");
  refused([](auto& o) { o.max_rows = 0; }, "max_rows 0");
  refused([](auto& o) { o.block_tokens = 0; }, "block_tokens 0");
  refused([](auto& o) { o.full_blocks = -1; }, "full_blocks -1");
  refused([](auto& o) { o.sliding_blocks = std::numeric_limits<int64_t>::max(); },
          "sliding_blocks 9223372036854775807");
  refused([](auto& o) { o.kv_budget_bytes = -1; }, "kv_budget_bytes -1");
  refused([](auto& o) { o.kv_type = kernels::DType::kSFP8; }, "KV of type SFP8");
}

}  // namespace
}  // namespace alphecca::engine

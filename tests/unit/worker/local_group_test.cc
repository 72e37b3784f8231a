// Groups of threads and the real shard runner, on an embedded model: loading, limits, plans, failure.
#include "worker/engine/local_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/ref/ref_backend.h"
#include "model/checkpoint.h"
#include "tests/fakes/recording_sink.h"

namespace alphecca::engine {
namespace {

using testing::HasSubstr;

class LocalGroupTest : public testing::Test {
 protected:
  void SetUp() override {
    auto checkpoint = model::Checkpoint::Open(std::string(ALPHECCA_MODELS) + "/tiny-moe");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = std::move(*checkpoint);
    options_.backend = [](int) -> absl::StatusOr<std::unique_ptr<kernels::Backend>> {
      return kernels::CreateRefBackend({.threads = 1});
    };
    options_.shard.context = 64;
    options_.shard.max_sequences = 2;
    options_.shard.max_rows = 16;
    options_.sharding = {.tp = 2, .ep = 2};
  }

  // One sequence in slot 0, its first `rows` tokens; only the last row samples, and only if asked.
  static StepPlan FirstPlan(int32_t rows, bool samples) {
    StepPlan plan;
    plan.epoch = Epoch(1);
    plan.step = 1;
    plan.opens = {{.slot = 0, .sampling = {}}};
    plan.tables[0] = {{0, 0, 0}};
    plan.tables[1] = {{0, 0, 0}};
    for (int32_t i = 0; i < rows; ++i) {
      plan.rows.push_back({.token = 300 + i, .position = i, .slot = 0});
    }
    if (samples) {
      plan.rows.back().wants_logits = true;
      plan.logits = {{.row = rows - 1}};
    }
    return plan;
  }

  std::unique_ptr<model::Checkpoint> checkpoint_;
  LocalGroupOptions options_;
};

TEST_F(LocalGroupTest, LimitsAndFingerprintAreTheSameOnEveryRank) {
  int64_t done = 0;
  int64_t total = 0;
  options_.progress = [&](int64_t now, int64_t all) {
    EXPECT_GE(now, done);
    done = now;
    total = all;
  };
  auto group = LocalGroup::Create(*checkpoint_, options_);
  ASSERT_TRUE(group.ok()) << group.status();
  ASSERT_EQ((*group)->size(), 2);
  const ShardLimits& limits = (*group)->runner(0).limits();
  EXPECT_EQ(limits.context, 64);
  EXPECT_EQ(limits.sliding_window, 64);
  EXPECT_EQ(limits.full_blocks, 2 * 4);
  EXPECT_EQ(limits.full_blocks, (*group)->runner(1).limits().full_blocks);
  EXPECT_EQ(limits.sliding_blocks, (*group)->runner(1).limits().sliding_blocks);
  EXPECT_EQ((*group)->runner(0).fingerprint(), (*group)->runner(1).fingerprint());
  EXPECT_THAT((*group)->runner(0).fingerprint(), HasSubstr("shm"));
  EXPECT_GT((*group)->runner(0).kv_bytes(), 0);
  EXPECT_GT((*group)->runner(1).weight_bytes(), 0);
  EXPECT_GT(total, 0);
  EXPECT_EQ(done, total);
}

TEST_F(LocalGroupTest, StepWithoutLogitRowsRunsAndTheNextGoesOn) {
  auto group = LocalGroup::Create(*checkpoint_, options_);
  ASSERT_TRUE(group.ok()) << group.status();
  auto whole = LocalGroup::Create(*checkpoint_, options_);
  ASSERT_TRUE(whole.ok()) << whole.status();

  auto first = (*group)->Run(FirstPlan(4, false));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(first->choices.empty());
  StepPlan second;
  second.epoch = Epoch(1);
  second.step = 2;
  second.rows = {{.token = 304, .position = 4, .slot = 0, .wants_logits = true}};
  second.logits = {{.row = 0}};
  auto cut = (*group)->Run(second);
  ASSERT_TRUE(cut.ok()) << cut.status();

  auto at_once = (*whole)->Run(FirstPlan(5, true));
  ASSERT_TRUE(at_once.ok()) << at_once.status();
  ASSERT_EQ(cut->choices.size(), 1U);
  EXPECT_EQ(cut->choices[0].token, at_once->choices[0].token);
  EXPECT_EQ(cut->choices[0].logprob, at_once->choices[0].logprob);
}

TEST_F(LocalGroupTest, BadPlanIsRefusedByEveryRank) {
  auto group = LocalGroup::Create(*checkpoint_, options_);
  ASSERT_TRUE(group.ok()) << group.status();
  StepPlan plan = FirstPlan(4, true);
  plan.rows[1].token = 1 << 30;
  EXPECT_EQ((*group)->Run(plan).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LocalGroupTest, CountsTheRowsOfEveryExpert) {
  const model::ModelConfig& config = checkpoint_->config();
  auto group = LocalGroup::Create(*checkpoint_, options_);
  ASSERT_TRUE(group.ok()) << group.status();
  // Every layer has given each row to its experts, wherever they are; [layer].
  const auto rows_of = [&]() {
    std::vector<uint64_t> rows(config.layers.size());
    for (int rank = 0; rank < 2; ++rank) {
      const auto load = (*group)->runner(rank).ReadExpertLoad();
      EXPECT_TRUE(load.ok()) << load.status();
      EXPECT_EQ(load->size(), config.layers.size());
      for (size_t l = 0; l < load->size(); ++l) {
        EXPECT_EQ((*load)[l].size(), static_cast<size_t>(config.experts / 2));
        rows[l] += std::accumulate((*load)[l].begin(), (*load)[l].end(), uint64_t{0});
      }
    }
    return rows;
  };
  const auto k = static_cast<uint64_t>(config.experts_per_token);
  EXPECT_THAT(rows_of(), testing::Each(0U));
  ASSERT_TRUE((*group)->Run(FirstPlan(5, true)).ok());
  EXPECT_THAT(rows_of(), testing::Each(5 * k));
  StepPlan second;
  second.epoch = Epoch(1);
  second.step = 2;
  second.rows = {{.token = 305, .position = 5, .slot = 0}};
  ASSERT_TRUE((*group)->Run(second).ok());
  EXPECT_THAT(rows_of(), testing::Each(6 * k));
  EXPECT_THAT(rows_of(), testing::Each(6 * k));
}

TEST_F(LocalGroupTest, ADenseModelHasNoExpertLoad) {
  auto dense = model::Checkpoint::Open(std::string(ALPHECCA_MODELS) + "/tiny-dense");
  ASSERT_TRUE(dense.ok()) << dense.status();
  options_.sharding.ep = 1;
  auto group = LocalGroup::Create(**dense, options_);
  ASSERT_TRUE(group.ok()) << group.status();
  ASSERT_TRUE((*group)->Run(FirstPlan(3, true)).ok());
  const auto load = (*group)->runner(0).ReadExpertLoad();
  ASSERT_TRUE(load.ok()) << load.status();
  EXPECT_TRUE(load->empty());
}

TEST_F(LocalGroupTest, RankThatCannotLoadEndsTheOthersWait) {
  options_.backend = [](int rank) -> absl::StatusOr<std::unique_ptr<kernels::Backend>> {
    if (rank == 1) {
      return absl::ResourceExhaustedError("no memory on this device");
    }
    return kernels::CreateRefBackend({.threads = 1});
  };
  const auto group = LocalGroup::Create(*checkpoint_, options_);
  EXPECT_EQ(group.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(group.status().message()), HasSubstr("no memory on this device"));
}

TEST_F(LocalGroupTest, SplitThatTheModelDoesNotAllowIsRefused) {
  options_.sharding.tp = 3;
  EXPECT_EQ(LocalGroup::Create(*checkpoint_, options_).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LocalGroupTest, EngineStopsWhileSequencesRun) {
  auto group = LocalGroup::Create(*checkpoint_, options_);
  ASSERT_TRUE(group.ok()) << group.status();
  auto sink = std::make_shared<RecordingSink>();
  {
    auto engine = Engine::Create({.epoch = Epoch(1)}, (*group)->runner(0), (*group)->followers());
    ASSERT_TRUE(engine.ok()) << engine.status();
    SequenceRequest request;
    request.id = SequenceId(1);
    request.prompt = {2, 300, 301};
    request.max_tokens = 40;
    ASSERT_TRUE((*engine)->Open(sink, request).ok());
    sink->AwaitTokens(1, 2);
    (*engine)->Cancel(sink, SequenceId(1));
    EXPECT_EQ(sink->AwaitEnd(1).finish, Finish::kCancelled);
    EXPECT_EQ((*engine)->counts().running, 0);
    EXPECT_EQ((*engine)->counts().full_blocks_used, 0);
    request.id = SequenceId(2);
    ASSERT_TRUE((*engine)->Open(sink, request).ok());
  }
  EXPECT_EQ(sink->all()[2].last_updates, 1);
}

}  // namespace
}  // namespace alphecca::engine

#include "worker/engine/plan_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

namespace alphecca::engine {
namespace {

using testing::HasSubstr;

ShardLimits Limits() {
  return {.context = 32,
          .vocab = 100,
          .sliding_window = 6,
          .max_sequences = 2,
          .max_rows = 8,
          .max_logit_rows = 3,
          .block_tokens = 4,
          .full_blocks = 10,
          .sliding_blocks = 6};
}

// Opens slot 1 and reads a prompt of five tokens there; the last row samples.
StepPlan GoodPlan() {
  StepPlan plan;
  plan.epoch = Epoch(2);
  plan.step = 1;
  plan.opens = {{.slot = 1, .sampling = {}}};
  plan.tables[0] = {{1, 0, 3}, {1, 1, 9}};
  plan.tables[1] = {{1, 0, 5}, {1, 1, 0}};
  for (int32_t i = 0; i < 5; ++i) {
    plan.rows.push_back({.token = 10 + i, .position = i, .slot = 1});
  }
  plan.rows[4].wants_logits = true;
  plan.logits = {{.row = 4}};
  return plan;
}

StepPlan GoodSecondPlan() {
  StepPlan plan;
  plan.epoch = Epoch(2);
  plan.step = 2;
  plan.rows.push_back({.token = -2, .position = 5, .slot = 1, .wants_logits = true});
  plan.logits = {{.row = 0}};
  return plan;
}

TEST(PlanCheck, TakesGoodPlansInOrder) {
  PlanCheck check(Limits());
  EXPECT_TRUE(check.Check(GoodPlan()).ok());
  EXPECT_TRUE(check.Check(GoodSecondPlan()).ok());
}

TEST(PlanCheck, RefusesStepsOutOfOrder) {
  PlanCheck check(Limits());
  const auto out_of_order = absl::StatusCode::kFailedPrecondition;
  StepPlan plan = GoodPlan();
  plan.step = 2;
  EXPECT_EQ(check.Check(plan).code(), out_of_order);
  ASSERT_TRUE(check.Check(GoodPlan()).ok());
  EXPECT_EQ(check.Check(GoodPlan()).code(), out_of_order);  // repeated
  plan = GoodSecondPlan();
  plan.step = 3;
  EXPECT_EQ(check.Check(plan).code(), out_of_order);
  plan = GoodPlan();
  plan.epoch = Epoch(1);
  EXPECT_EQ(check.Check(plan).code(), out_of_order);
  plan.epoch = Epoch(3);
  plan.step = 2;
  EXPECT_EQ(check.Check(plan).code(), out_of_order);
  plan.step = 1;
  EXPECT_TRUE(check.Check(plan).ok());  // a new epoch
}

TEST(PlanCheck, RefusesBadFirstPlansAndStaysAsItWas) {
  PlanCheck check(Limits());
  const auto refused = [&](const std::function<void(StepPlan&)>& spoil, const std::string& says) {
    StepPlan plan = GoodPlan();
    spoil(plan);
    const absl::Status status = check.Check(plan);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  };
  refused([](auto& p) { p.rows.clear(); }, "0 rows: must be 1 to 8");
  refused([](auto& p) { p.rows.resize(9, p.rows[0]); }, "9 rows");
  refused([](auto& p) { p.opens[0].slot = 2; }, "opens slot 2");
  refused([](auto& p) { p.opens[0].slot = -1; }, "opens slot -1");
  refused([](auto& p) { p.opens[0].sampling.top_p = 0.0F; }, "top_p 0");
  refused([](auto& p) { p.opens[0].sampling.temperature = std::numeric_limits<float>::infinity(); }, "temperature inf");
  refused([](auto& p) { p.opens[0].sampling.top_logprobs = 21; }, "top_logprobs 21");
  refused([](auto& p) { p.opens[0].rules.repetition_penalty = 0.0F; }, "repetition_penalty 0");
  refused([](auto& p) { p.opens[0].rules.bias = {{100, 1.0F}}; }, "logit_bias of token 100");
  refused([](auto& p) { p.opens[0].rules.suppressed = {{99, 101}}; }, "[99, 101)");
  refused([](auto& p) { p.opens[0].rules.history = {{1, 1, true}}; }, "no penalty");
  refused([](auto& p) { p.logits[0].mask = 0; }, "mask 0: must be -1 to -1");
  refused([](auto& p) { p.logits[0].mask = -2; }, "mask -2");
  refused([](auto& p) { p.masks = {std::vector<uint32_t>(3)}; }, "mask 0 has 3 words: must be 4");
  refused([](auto& p) { p.masks.resize(2, std::vector<uint32_t>(4)); }, "2 masks: at most one a logit request");
  refused([](auto& p) { p.opens.clear(); }, "not open");
  refused([](auto& p) { p.tables[0][1].block = 10; }, "block 10 of pool 0");
  refused([](auto& p) { p.tables[1][1].block = 6; }, "block 6 of pool 1");
  refused([](auto& p) { p.tables[1][1].block = -1; }, "block -1");
  refused([](auto& p) { p.tables[0][1].index = 2; }, "does not follow");
  refused([](auto& p) { p.tables[0][0].index = -1; }, "does not follow");
  refused([](auto& p) { p.tables[0][0].index = 8; }, "does not follow");
  refused([](auto& p) { p.tables[0][0].slot = 0; }, "block table of slot 0");
  refused([](auto& p) { p.tables[0][0].slot = 7; }, "block table of slot 7");
  refused([](auto& p) { p.tables[0].pop_back(); }, "row 4 sees positions 0 to 4");
  refused([](auto& p) { p.tables[1].clear(); }, "row 0 sees positions 0 to 0");
  refused([](auto& p) { p.copies[0] = {{1, 0, 10}}; }, "copy of block 0 to 10 of pool 0: there are 10");
  refused([](auto& p) { p.copies[1] = {{1, 6, 0}}; }, "copy of block 6 to 0 of pool 1: there are 6");
  refused([](auto& p) { p.copies[1] = {{1, 0, -1}}; }, "copy of block 0 to -1 of pool 1");
  refused([](auto& p) { p.copies[0] = {{0, 1, 2}}; }, "block copy of slot 0");
  refused([](auto& p) { p.copies[0] = {{9, 1, 2}}; }, "block copy of slot 9");
  refused([](auto& p) { p.rows[0].slot = 0; }, "slot 0 is not open");
  refused([](auto& p) { p.rows[0].slot = -1; }, "slot -1 is not open");
  refused([](auto& p) { p.rows[2].token = 100; }, "token 100");
  refused([](auto& p) { p.rows[2].token = -1; }, "token -1");  // another slot's
  refused([](auto& p) { p.rows[2].token = -2; }, "once its slot has sampled");
  refused([](auto& p) { p.rows[2].position = -1; }, "position -1");
  refused([](auto& p) { p.rows[2].position = 32; }, "position 32");
  refused([](auto& p) { p.rows[2].position = 8; }, "row 2 sees positions");
  refused([](auto& p) { p.rows[3].wants_logits = true; }, "2 rows want logits, 1 requests");
  refused([](auto& p) { p.logits[0].row = 3; }, "logit request for row 3");
  refused([](auto& p) { p.logits[0].row = 5; }, "logit request for row 5");
  refused([](auto& p) { p.logits[0].row = -1; }, "logit request for row -1");
  refused([](auto& p) { p.logits[0].wanted = 100; }, "wanted token 100");
  refused(
      [](auto& p) {
        p.rows[3].wants_logits = true;
        p.logits = {{.row = 4}, {.row = 3}};
      },
      "must be a rising row");
  refused(
      [](auto& p) {
        p.logits.clear();
        for (int32_t row = 1; row < 5; ++row) {
          p.rows[static_cast<size_t>(row)].wants_logits = true;
          p.logits.push_back({.row = row});
        }
      },
      "4 logit rows: at most 3");
  EXPECT_TRUE(check.Check(GoodPlan()).ok());
}

TEST(PlanCheck, TakesRulesAndMasks) {
  PlanCheck check(Limits());
  StepPlan plan = GoodPlan();
  plan.opens[0].rules.presence_penalty = -2.0F;
  plan.opens[0].rules.bias = {{0, 100.0F}, {99, -100.0F}};
  plan.opens[0].rules.suppressed = {{98, 100}};
  plan.opens[0].rules.history = {{10, 0, true}, {11, 2, true}};
  plan.masks = {std::vector<uint32_t>(4)};
  plan.logits[0].mask = 0;
  const absl::Status status = check.Check(plan);
  EXPECT_TRUE(status.ok()) << status;
}

TEST(PlanCheck, ReopenedSlotStartsWithNothing) {
  PlanCheck check(Limits());
  ASSERT_TRUE(check.Check(GoodPlan()).ok());
  StepPlan plan = GoodSecondPlan();
  plan.opens = {{.slot = 1, .sampling = {}}};
  EXPECT_EQ(check.Check(plan).code(), absl::StatusCode::kInvalidArgument);
}

TEST(PlanCheck, ASlotHasOneOwner) {
  ShardLimits limits = Limits();
  limits.owners = 3;
  StepPlan plan = GoodPlan();
  StepPlan second = GoodSecondPlan();
  for (PlanRow& row : plan.rows) {
    row.owner = 2;
  }
  second.rows[0].owner = 2;
  PlanCheck good(limits);
  EXPECT_TRUE(good.Check(plan).ok());
  EXPECT_TRUE(good.Check(second).ok());
  PlanCheck moved(limits);
  EXPECT_TRUE(moved.Check(plan).ok());
  second.rows[0].owner = 1;
  EXPECT_THAT(std::string(moved.Check(second).message()), HasSubstr("owner 1 of slot 1, which rank 2 owns"));
  for (const int32_t owner : {-1, 3}) {
    plan.rows[3].owner = owner;
    EXPECT_THAT(std::string(PlanCheck(limits).Check(plan).message()), HasSubstr("must be 0 to 2"));
  }
}

TEST(PlanCheck, TablesComeWithRows) {
  StepPlan plan = GoodPlan();
  plan.opens.push_back({.slot = 0, .sampling = {}});
  plan.tables[0].push_back({0, 0, 1});
  EXPECT_THAT(std::string(PlanCheck(Limits()).Check(plan).message()), HasSubstr("slot 0"));
}

}  // namespace
}  // namespace alphecca::engine

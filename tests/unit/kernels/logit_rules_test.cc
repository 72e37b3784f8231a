// Penalties, biases and masks: the formulas by hand, and what is refused.
#include "kernels/logit_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace alphecca::kernels {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(CountTokens, TellsPromptFromAnswer) {
  const std::vector<int32_t> tokens = {7, 3, 7, 9, 3, 3, 5};
  const std::vector<TokenCount> history = CountTokens(tokens, 3);  // the answer: 3 3 5
  ASSERT_EQ(history.size(), 4U);
  const std::vector<std::vector<int32_t>> want = {{3, 2, 1}, {5, 1, 0}, {7, 0, 1}, {9, 0, 1}};
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ((std::vector<int32_t>{history[i].token, history[i].answer, history[i].prompt ? 1 : 0}), want[i]);
  }
  EXPECT_TRUE(CountTokens({}, 0).empty());
}

TEST(RangesOf, JoinsNeighbours) {
  const std::vector<int32_t> ids = {0, 1, 2, 5, 7, 7, 8};
  const std::vector<TokenRange> ranges = RangesOf(ids);
  ASSERT_EQ(ranges.size(), 3U);
  EXPECT_EQ(ranges[0].begin, 0);
  EXPECT_EQ(ranges[0].end, 3);
  EXPECT_EQ(ranges[1].begin, 5);
  EXPECT_EQ(ranges[1].end, 6);
  EXPECT_EQ(ranges[2].begin, 7);
  EXPECT_EQ(ranges[2].end, 9);
  EXPECT_TRUE(RangesOf({}).empty());
}

LogitRules GoodRules() {
  LogitRules rules;
  rules.repetition_penalty = 2.0F;
  rules.presence_penalty = 0.5F;
  rules.frequency_penalty = 0.25F;
  rules.bias = {{1, 3.0F}, {4, -1.0F}};
  rules.suppressed = {{6, 8}, {9, 10}};
  rules.history = {{1, 0, true}, {2, 3, false}, {4, 1, true}};
  return rules;
}

TEST(SlotRules, FollowTheFormulas) {
  const SlotRules rules(GoodRules());
  EXPECT_EQ(rules.Adjusted(0, 5.0F), 5.0F);                                // nothing names it
  EXPECT_EQ(rules.Adjusted(1, 4.0F), 4.0F / 2 + 3);                        // in the prompt: repetition, bias
  EXPECT_EQ(rules.Adjusted(1, -4.0F), -4.0F * 2 + 3);                      // below 0: multiplied
  EXPECT_EQ(rules.Adjusted(2, 4.0F), 4.0F / 2 - (0.5F + 0.25F * 3));       // three times in the answer
  EXPECT_EQ(rules.Adjusted(4, -4.0F), -4.0F * 2 - (0.5F + 0.25F) - 1.0F);  // everything
  for (const int32_t token : {6, 7, 9}) {
    EXPECT_EQ(rules.Adjusted(token, 5.0F), -kInf) << token;
  }
  for (const int32_t token : {5, 8, 10}) {
    EXPECT_EQ(rules.Adjusted(token, 5.0F), 5.0F) << token;
  }
  EXPECT_TRUE(std::isnan(rules.Adjusted(2, kNan)));
  EXPECT_EQ(rules.Adjusted(2, -kInf), -kInf);
}

TEST(SlotRules, CountWhatTheAnswerGains) {
  SlotRules rules(GoodRules());
  rules.Count(0);
  rules.Count(2);
  rules.Count(100);
  rules.Count(100);
  EXPECT_EQ(rules.Adjusted(0, 4.0F), 4.0F / 2 - (0.5F + 0.25F));
  EXPECT_EQ(rules.Adjusted(2, 4.0F), 4.0F / 2 - (0.5F + 0.25F * 4));
  EXPECT_EQ(rules.Adjusted(100, -1.0F), -1.0F * 2 - (0.5F + 0.25F * 2));
  EXPECT_EQ(rules.Entries(0, 101).size(), 5U);
}

// As if it had been opened with the longer history.
TEST(SlotRules, CountingEqualsOpeningAnew) {
  LogitRules opened = GoodRules();
  opened.history = CountTokens(std::vector<int32_t>{5, 2, 8, 2}, 1);
  SlotRules counted(opened);
  for (const int32_t token : {2, 8, 1, 1}) {
    counted.Count(token);
  }
  opened.history = CountTokens(std::vector<int32_t>{5, 2, 8, 2, 2, 8, 1, 1}, 5);
  const SlotRules anew(opened);
  for (int32_t token = 0; token < 12; ++token) {
    EXPECT_EQ(counted.Adjusted(token, 1.5F), anew.Adjusted(token, 1.5F)) << token;
  }
}

TEST(SlotRules, WithoutPenaltiesKeepNoHistory) {
  LogitRules rules;
  rules.bias = {{3, 1.0F}};
  SlotRules slot(rules);
  slot.Count(2);
  EXPECT_EQ(slot.Entries(0, 100).size(), 1U);
}

TEST(Adjustment, AMaskExcludesWhatItLacks) {
  std::vector<uint32_t> mask(2, 0U);
  mask[0] = 1U << 5;
  mask[1] = 1U << 31;
  const Adjustment masked{.rules = nullptr, .mask = mask};
  EXPECT_TRUE(masked.Any());
  for (int32_t token = 0; token < 64; ++token) {
    EXPECT_EQ(masked.Adjusted(token, 2.0F), token == 5 || token == 63 ? 2.0F : -kInf) << token;
  }
  const SlotRules rules(GoodRules());
  mask[0] = ~0U;
  const Adjustment both{.rules = &rules, .mask = mask};
  EXPECT_EQ(both.Adjusted(1, 4.0F), 5.0F);
  EXPECT_EQ(both.Adjusted(6, 4.0F), -kInf);
  EXPECT_FALSE(Adjustment().Any());
}

TEST(CheckLogitRules, TakesWhatIsInRange) {
  EXPECT_TRUE(CheckLogitRules({}, 10).ok());
  EXPECT_TRUE(CheckLogitRules(GoodRules(), 10).ok());
  LogitRules ends;
  ends.repetition_penalty = kMinRepetitionPenalty;
  ends.presence_penalty = -kMaxCountPenalty;
  ends.frequency_penalty = kMaxCountPenalty;
  for (int32_t token = 0; token < static_cast<int32_t>(kMaxBiases); ++token) {
    ends.bias.push_back({token, token % 2 == 0 ? kMaxBias : -kMaxBias});
  }
  ends.suppressed = {{0, 1999}};
  EXPECT_TRUE(CheckLogitRules(ends, 2000).ok());
}

struct BadRules {
  const char* says;
  std::function<void(LogitRules&)> spoil;
};

TEST(CheckLogitRules, NamesWhatIsOutOfRange) {
  const BadRules bad[] = {
      {"repetition_penalty 0:", [](auto& r) { r.repetition_penalty = 0.0F; }},
      {"repetition_penalty 10.5", [](auto& r) { r.repetition_penalty = 10.5F; }},
      {"repetition_penalty -1", [](auto& r) { r.repetition_penalty = -1.0F; }},
      {"repetition_penalty nan", [](auto& r) { r.repetition_penalty = kNan; }},
      {"presence_penalty 2.5", [](auto& r) { r.presence_penalty = 2.5F; }},
      {"presence_penalty nan", [](auto& r) { r.presence_penalty = kNan; }},
      {"frequency_penalty -2.5", [](auto& r) { r.frequency_penalty = -2.5F; }},
      {"frequency_penalty inf", [](auto& r) { r.frequency_penalty = kInf; }},
      {"logit_bias of token 10", [](auto& r) { r.bias.back().token = 10; }},
      {"logit_bias of token -1", [](auto& r) { r.bias.front().token = -1; }},
      {"must rise", [](auto& r) { r.bias.back().token = 1; }},
      {"is 100.5", [](auto& r) { r.bias.back().bias = 100.5F; }},
      {"is nan", [](auto& r) { r.bias.back().bias = kNan; }},
      {"at most 1024", [](auto& r) { r.bias.resize(1025); }},
      {"[6, 6)", [](auto& r) { r.suppressed[0].end = 6; }},
      {"[9, 11)", [](auto& r) { r.suppressed[1].end = 11; }},
      {"[-1, 8)", [](auto& r) { r.suppressed[0].begin = -1; }},
      {"[8, 10)", [](auto& r) { r.suppressed[1].begin = 8; }},  // touches the one before
      {"[2, 3)",
       [](auto& r) {
         r.suppressed[1] = {2, 3};
       }},
      {"all 10 tokens",
       [](auto& r) {
         r.suppressed = {{0, 10}};
       }},
      {"history of token 10", [](auto& r) { r.history.back().token = 10; }},
      {"history of token -5", [](auto& r) { r.history.front().token = -5; }},
      {"must rise", [](auto& r) { r.history.back().token = 2; }},
      {"-1 times", [](auto& r) { r.history.back().answer = -1; }},
      {"0 times", [](auto& r) { r.history[1].answer = 0; }},
      {"no penalty",
       [](auto& r) {
         r.repetition_penalty = 1.0F;
         r.presence_penalty = r.frequency_penalty = 0.0F;
       }},
  };
  for (const BadRules& b : bad) {
    LogitRules rules = GoodRules();
    b.spoil(rules);
    const absl::Status status = CheckLogitRules(rules, 10);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << b.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(b.says));
  }
}

}  // namespace
}  // namespace alphecca::kernels

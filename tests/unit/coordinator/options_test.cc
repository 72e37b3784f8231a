#include "coordinator/request/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace alphecca::coordinator {
namespace {

using ::testing::HasSubstr;

struct BadCase {
  const char* name;
  std::function<void(GenerationOptions&)> spoil;
  const char* field;
};

class BadOptions : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadOptions, AreRefusedWithTheirField) {
  GenerationOptions options;
  GetParam().spoil(options);
  Violations violations;
  CheckOptions(options, violations);
  const absl::Status status = violations.ToStatus();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const auto list = ViolationsOf(status);
  ASSERT_EQ(list.size(), 1U) << status;
  EXPECT_EQ(list[0].field, GetParam().field);
  EXPECT_FALSE(list[0].description.empty());
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Table, BadOptions,
    ::testing::Values(
        BadCase{"TemperatureNegative", [](auto& o) { o.temperature = -0.1F; }, "options.sampling.temperature"},
        BadCase{"TemperatureLarge", [](auto& o) { o.temperature = 100.5F; }, "options.sampling.temperature"},
        BadCase{"TemperatureNan", [](auto& o) { o.temperature = kNan; }, "options.sampling.temperature"},
        BadCase{"TemperatureInf", [](auto& o) { o.temperature = kInf; }, "options.sampling.temperature"},
        BadCase{"TopKNegative", [](auto& o) { o.top_k = -1; }, "options.sampling.top_k"},
        BadCase{"TopKLarge", [](auto& o) { o.top_k = 1025; }, "options.sampling.top_k"},
        BadCase{"TopPZero", [](auto& o) { o.top_p = 0; }, "options.sampling.top_p"},
        BadCase{"TopPNegative", [](auto& o) { o.top_p = -1; }, "options.sampling.top_p"},
        BadCase{"TopPLarge", [](auto& o) { o.top_p = 1.01F; }, "options.sampling.top_p"},
        BadCase{"TopPNan", [](auto& o) { o.top_p = kNan; }, "options.sampling.top_p"},
        BadCase{"MinPNegative", [](auto& o) { o.min_p = -0.1F; }, "options.sampling.min_p"},
        BadCase{"MinPLarge", [](auto& o) { o.min_p = 1.1F; }, "options.sampling.min_p"},
        BadCase{"MinPNan", [](auto& o) { o.min_p = kNan; }, "options.sampling.min_p"},
        BadCase{"RepetitionZero", [](auto& o) { o.repetition_penalty = 0.0F; }, "options.sampling.repetition_penalty"},
        BadCase{"RepetitionLow", [](auto& o) { o.repetition_penalty = 0.09F; }, "options.sampling.repetition_penalty"},
        BadCase{"RepetitionLarge", [](auto& o) { o.repetition_penalty = 11; }, "options.sampling.repetition_penalty"},
        BadCase{"RepetitionNan", [](auto& o) { o.repetition_penalty = kNan; }, "options.sampling.repetition_penalty"},
        BadCase{"PresenceLow", [](auto& o) { o.presence_penalty = -2.1F; }, "options.sampling.presence_penalty"},
        BadCase{"PresenceNan", [](auto& o) { o.presence_penalty = kNan; }, "options.sampling.presence_penalty"},
        BadCase{"FrequencyLarge", [](auto& o) { o.frequency_penalty = 2.1F; }, "options.sampling.frequency_penalty"},
        BadCase{"FrequencyInf", [](auto& o) { o.frequency_penalty = kInf; }, "options.sampling.frequency_penalty"},
        BadCase{"BiasLarge",
                [](auto& o) {
                  o.logit_bias = {{3, 100.0F}, {4, 100.5F}};
                },
                "options.sampling.logit_bias[4]"},
        BadCase{"BiasNan", [](auto& o) { o.logit_bias[9] = kNan; }, "options.sampling.logit_bias[9]"},
        BadCase{"BiasTooMany",
                [](auto& o) {
                  for (int32_t id = 0; id < 1025; ++id) {
                    o.logit_bias[id] = 1000.0F;
                  }
                },
                "options.sampling.logit_bias"},
        BadCase{"MaxTokensZero", [](auto& o) { o.max_tokens = 0; }, "options.max_tokens"},
        BadCase{"MaxTokensNegative", [](auto& o) { o.max_tokens = -5; }, "options.max_tokens"},
        BadCase{"NZero", [](auto& o) { o.n = 0; }, "options.n"},
        BadCase{"NLarge", [](auto& o) { o.n = 17; }, "options.n"},
        BadCase{"LogprobsNegative", [](auto& o) { o.logprobs = -1; }, "options.logprobs"},
        BadCase{"LogprobsLarge", [](auto& o) { o.logprobs = 21; }, "options.logprobs"},
        BadCase{"PromptLogprobsNegative", [](auto& o) { o.prompt_logprobs = -1; }, "options.prompt_logprobs"},
        BadCase{"PromptLogprobsLarge", [](auto& o) { o.prompt_logprobs = 21; }, "options.prompt_logprobs"},
        BadCase{"PriorityLow", [](auto& o) { o.priority = -101; }, "options.priority"},
        BadCase{"PriorityHigh", [](auto& o) { o.priority = 101; }, "options.priority"},
        BadCase{"StopTooMany", [](auto& o) { o.stop.assign(17, "x"); }, "options.stop"},
        BadCase{"StopEmpty", [](auto& o) { o.stop = {"a", ""}; }, "options.stop[1]"},
        BadCase{"StopLong", [](auto& o) { o.stop = {std::string(257, 'x')}; }, "options.stop[0]"},
        BadCase{"TenantLong", [](auto& o) { o.tenant = std::string(129, 'x'); }, "options.tenant"},
        BadCase{"TenantSpace", [](auto& o) { o.tenant = "a b"; }, "options.tenant"},
        BadCase{"TenantNotAscii", [](auto& o) { o.tenant = "\xC3\xA9"; }, "options.tenant"},
        BadCase{"RequestIdLong", [](auto& o) { o.request_id = std::string(129, 'x'); }, "options.request_id"},
        BadCase{"RequestIdControl", [](auto& o) { o.request_id = "a\nb"; }, "options.request_id"}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(CheckOptions, TakesTheEndsOfEveryRange) {
  for (const bool high : {false, true}) {
    GenerationOptions o;
    o.temperature = high ? 100.0F : 0.0F;
    o.top_k = high ? 1024 : 0;
    o.top_p = high ? 1.0F : 1e-6F;
    o.min_p = high ? 1.0F : 0.0F;
    o.repetition_penalty = high ? 10.0F : 0.1F;
    o.presence_penalty = high ? 2.0F : -2.0F;
    o.frequency_penalty = high ? 2.0F : -2.0F;
    for (int32_t id = 0; id < 1024; ++id) {
      o.logit_bias[id] = high ? 100.0F : -100.0F;
    }
    o.max_tokens = high ? INT32_MAX : 1;
    o.n = high ? 16 : 1;
    o.logprobs = high ? 20 : 0;
    o.prompt_logprobs = high ? 20 : 0;
    o.priority = high ? 100 : -100;
    o.stop.assign(high ? 16 : 0, std::string(256, 'x'));
    o.tenant = std::string(high ? 128 : 0, 'x');
    o.request_id = std::string(high ? 128 : 0, '~');
    Violations violations;
    CheckOptions(o, violations);
    EXPECT_TRUE(violations.empty()) << violations.ToStatus();
  }
}

TEST(CheckOptions, ListsSeveralButNotWithoutEnd) {
  GenerationOptions o;
  o.temperature = -1;
  o.n = 99;
  o.stop.assign(16, "");
  Violations violations;
  CheckOptions(o, violations);
  const absl::Status status = violations.ToStatus();
  EXPECT_EQ(ViolationsOf(status).size(), 8U);
  EXPECT_LT(status.message().size(), 3000U);
}

const ModelLimits kLimits{.context = 100, .vocabulary = 50};

TEST(ResolveOptions, FillsDefaults) {
  const auto r = ResolveOptions({}, {.temperature = 0.7F, .top_k = 5, .top_p = 0.5F}, kLimits, 10, 42);
  ASSERT_TRUE(r.ok());
  EXPECT_EQ(r->sampling.temperature, 0.7F);
  EXPECT_EQ(r->sampling.top_k, 5);
  EXPECT_EQ(r->sampling.top_p, 0.5F);
  EXPECT_EQ(r->sampling.min_p, 0.0F);
  EXPECT_EQ(r->sampling.seed, 42U);
  EXPECT_EQ(r->sampling.repetition_penalty, 1.0F);
  EXPECT_EQ(r->sampling.presence_penalty, 0.0F);
  EXPECT_EQ(r->sampling.frequency_penalty, 0.0F);
  EXPECT_TRUE(r->sampling.logit_bias.empty());
  EXPECT_EQ(r->max_tokens, 90);
  EXPECT_EQ(r->n, 1);
  EXPECT_EQ(r->logprobs, -1);
  EXPECT_EQ(r->tenant, "default");
  EXPECT_THAT(r->request_id, HasSubstr("req-"));
  EXPECT_EQ(r->request_id.find("000000000000002a"), std::string::npos) << "the seed shows";
}

TEST(ResolveOptions, KeepsWhatIsSet) {
  GenerationOptions o;
  o.temperature = 0;
  o.seed = 7;
  o.max_tokens = 90;
  o.request_id = "mine";
  o.repetition_penalty = 1.1F;
  o.presence_penalty = 0.2F;
  o.frequency_penalty = 0.3F;
  o.logit_bias = {{0, 1.0F}, {49, -1.0F}};
  const auto r = ResolveOptions(o, {}, kLimits, 10, 42);
  ASSERT_TRUE(r.ok());
  EXPECT_EQ(r->sampling.temperature, 0);
  EXPECT_EQ(r->sampling.seed, 7U);
  EXPECT_EQ(r->max_tokens, 90);
  EXPECT_EQ(r->request_id, "mine");
  EXPECT_EQ(r->sampling.repetition_penalty, 1.1F);
  EXPECT_EQ(r->sampling.presence_penalty, 0.2F);
  EXPECT_EQ(r->sampling.frequency_penalty, 0.3F);
  EXPECT_EQ(r->sampling.logit_bias, o.logit_bias);
}

TEST(ResolveOptions, GuardsTheVocabulary) {
  for (const int32_t id : {-1, 50, INT32_MIN, INT32_MAX}) {
    GenerationOptions o;
    o.logit_bias = {{3, 1.0F}, {id, 1.0F}};
    EXPECT_EQ(ViolationsOf(ResolveOptions(o, {}, kLimits, 10, 0).status()).at(0).field,
              "options.sampling.logit_bias[" + std::to_string(id) + "]");
  }
}

TEST(ResolveOptions, GuardsTheContext) {
  GenerationOptions o;
  o.max_tokens = 91;
  EXPECT_EQ(ViolationsOf(ResolveOptions(o, {}, kLimits, 10, 0).status()).at(0).field, "options.max_tokens");
  EXPECT_EQ(ViolationsOf(ResolveOptions({}, {}, kLimits, 100, 0).status()).at(0).field, "prompt");
  EXPECT_EQ(ViolationsOf(ResolveOptions({}, {}, kLimits, 0, 0).status()).at(0).field, "prompt");
  EXPECT_TRUE(ResolveOptions({}, {}, kLimits, 99, 0).ok());
}

TEST(CheckIds, NamesTheFirstThatIsOutside) {
  Violations good;
  CheckIds({0, 49}, 50, "ids", good);
  EXPECT_TRUE(good.empty());
  for (const int32_t bad : {-1, 50, INT32_MAX, INT32_MIN}) {
    Violations violations;
    CheckIds({0, bad}, 50, "ids", violations);
    EXPECT_EQ(ViolationsOf(violations.ToStatus()).at(0).field, "ids[1]");
  }
}

TEST(Shortened, CutsBetweenCharacters) {
  EXPECT_EQ(Shortened("abc", 3), "abc");
  EXPECT_EQ(Shortened("a\xC3\xA9z", 2), "a...");
}

}  // namespace
}  // namespace alphecca::coordinator

// Requests against the real tokenizer of an embedded model: prompts, limits, and text as it streams.
#include "coordinator/request/served_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "coordinator/request/chat_input.h"
#include "coordinator/request/text_flow.h"

namespace alphecca::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int32_t kBos = 2;
constexpr int64_t kContext = 4096;  // all of the model's

const ServedModel& Tiny() {
  static const std::unique_ptr<ServedModel> model = [] {
    ServeOptions options;
    options.name = "tiny";
    options.path = std::string(ALPHECCA_MODELS) + "/tiny-moe";
    options.tp = 2;
    options.ep = 2;
    auto loaded = LoadServedModel(options);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  }();
  return *model;
}

TEST(LoadServedModel, KnowsLimitsPlanAndRevision) {
  EXPECT_EQ(Tiny().limits().context, 4096);
  EXPECT_EQ(Tiny().limits().vocabulary, 4096);
  EXPECT_EQ(Tiny().family(), "gemma4");
  EXPECT_TRUE(Tiny().chat());
  EXPECT_EQ(Tiny().spec().splits.at(0).plan_hash.size(), 16U);
  EXPECT_FALSE(Tiny().spec().revision.empty());
}

TEST(LoadServedModel, SaysWhatIsWrong) {
  ServeOptions options;
  options.name = "x";
  options.path = std::string(ALPHECCA_MODELS) + "/nothing";
  EXPECT_EQ(LoadServedModel(options).status().code(), absl::StatusCode::kNotFound);
  options.path = std::string(ALPHECCA_MODELS) + "/tiny-moe";
  options.ep = 1;
  options.context = 5000;
  EXPECT_THAT(std::string(LoadServedModel(options).status().message()), HasSubstr("at most 4096"));
}

GenerateInput TextInput(std::string text) {
  GenerateInput input;
  input.text = std::move(text);
  return input;
}
GenerateInput IdsInput(std::vector<int32_t> ids) {
  GenerateInput input;
  input.ids = std::move(ids);
  return input;
}

TEST(PlanGenerate, PutsBosBeforeThePromptOnce) {
  const auto ids = Tiny().Tokenize("In the beginning");
  ASSERT_TRUE(ids.ok());
  const auto by_text = Tiny().PlanGenerate(TextInput("In the beginning"), kContext, 1);
  ASSERT_TRUE(by_text.ok()) << by_text.status();
  EXPECT_EQ(by_text->prompt.front(), kBos);
  EXPECT_EQ(by_text->prompt.size(), ids->size() + 1);
  const auto by_ids = Tiny().PlanGenerate(IdsInput(*ids), kContext, 1);
  ASSERT_TRUE(by_ids.ok());
  EXPECT_EQ(by_ids->prompt, by_text->prompt);
  const auto with_bos = Tiny().PlanGenerate(IdsInput(by_text->prompt), kContext, 1);
  ASSERT_TRUE(with_bos.ok());
  EXPECT_EQ(with_bos->prompt, by_text->prompt);
  EXPECT_EQ(by_text->texts.size(), 1U);
}

TEST(PlanGenerate, StopIdsUnlessEosIsIgnored) {
  GenerateInput input = TextInput("a");
  EXPECT_THAT(Tiny().PlanGenerate(input, kContext, 1)->stop_ids, ::testing::Contains(1));
  input.options.ignore_eos = true;
  EXPECT_THAT(Tiny().PlanGenerate(input, kContext, 1)->stop_ids, ::testing::IsEmpty());
}

// Padding, BOS and unknown of the embedded models; never an end token.
TEST(PlanGenerate, NamesWhatTheModelNeverAnswersWith) {
  const auto plan = Tiny().PlanGenerate(TextInput("a"), kContext, 1);
  ASSERT_TRUE(plan.ok());
  const auto suppressed = [&](int32_t id) {
    return std::any_of(plan->suppressed.begin(), plan->suppressed.end(),
                       [id](const kernels::TokenRange& r) { return id >= r.begin && id < r.end; });
  };
  EXPECT_TRUE(suppressed(0));
  EXPECT_TRUE(suppressed(kBos));
  for (const int32_t end : plan->stop_ids) {
    EXPECT_FALSE(suppressed(end)) << end;
  }
  EXPECT_FALSE(suppressed(327));
  kernels::LogitRules rules;
  rules.suppressed = plan->suppressed;
  EXPECT_TRUE(kernels::CheckLogitRules(rules, Tiny().limits().vocabulary).ok());
}

TEST(PlanGenerate, RefusesWhatCannotRun) {
  const auto field = [](const GenerateInput& input) {
    const auto violations = ViolationsOf(Tiny().PlanGenerate(input, kContext, 1).status());
    return violations.empty() ? std::string("none") : violations.front().field;
  };
  EXPECT_EQ(field(GenerateInput{}), "prompt");
  EXPECT_EQ(field(TextInput("")), "text");
  EXPECT_EQ(field(IdsInput({})), "ids");
  EXPECT_EQ(field(IdsInput({4096})), "ids.ids[0]");
  EXPECT_EQ(field(TextInput(std::string(static_cast<size_t>(kMaxTextBytes) + 1, 'a'))), "text");
  EXPECT_EQ(field(IdsInput(std::vector<int32_t>(4096, 5))), "prompt");
}

TEST(PlanGenerate, PromptAndAnswerFillTheContextThereIs) {
  GenerateInput input = IdsInput({5, 6, 7});  // and BOS
  const auto plan = Tiny().PlanGenerate(input, 100, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->options.max_tokens, 96);
  input.options.max_tokens = 97;
  const auto violations = ViolationsOf(Tiny().PlanGenerate(input, 100, 1).status());
  ASSERT_EQ(violations.size(), 1U);
  EXPECT_EQ(violations[0].field, "options.max_tokens");
  EXPECT_THAT(violations[0].description, HasSubstr("the context holds 100, so at most 96 are left"));
}

TEST(ModelCatalogue, FindsByNameOrTheOnlyOne) {
  const auto load = [](const std::string& name) {
    ServeOptions options;
    options.name = name;
    options.path = std::string(ALPHECCA_MODELS) + "/tiny-draft";
    options.ep = 1;
    return *LoadServedModel(options);
  };
  std::vector<std::unique_ptr<ServedModel>> one;
  one.push_back(load("a"));
  EXPECT_EQ((*ModelCatalogue(std::move(one)).Find(""))->spec().name, "a");
  std::vector<std::unique_ptr<ServedModel>> two;
  two.push_back(load("a"));
  two.push_back(load("b"));
  const ModelCatalogue catalogue(std::move(two));
  EXPECT_EQ((*catalogue.Find("b"))->spec().name, "b");
  EXPECT_EQ(catalogue.Find("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(catalogue.Find("c").status().code(), absl::StatusCode::kNotFound);
  EXPECT_LT(catalogue.Find(std::string(1 << 20, 'x')).status().message().size(), 1000U);
}

ChatInput UserSays(const std::string& text) {
  ChatInput input;
  ChatTurn turn;
  turn.role = "user";
  turn.content = {text};
  input.messages.push_back(turn);
  return input;
}

TEST(PlanChat, RendersTurns) {
  const auto plan = Tiny().PlanChat(UserSays("Who made <|turn> heaven?"), kContext, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->prompt.front(), kBos);
  // Two turns are opened by the format; the user's spelling of the token is only text.
  EXPECT_EQ(std::count(plan->prompt.begin(), plan->prompt.end(), 4), 2);
}

TEST(PlanChat, PromptAndAnswerFillTheContextThereIs) {
  const auto plan = Tiny().PlanChat(UserSays("hi"), 100, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(static_cast<int64_t>(plan->prompt.size()) + plan->options.max_tokens, 100);
}

struct BadChat {
  const char* name;
  std::function<void(ChatInput&)> spoil;
  const char* field;
};
class BadChats : public ::testing::TestWithParam<BadChat> {};

TEST_P(BadChats, AreRefusedWithTheirField) {
  ChatInput input = UserSays("hi");
  GetParam().spoil(input);
  const absl::Status status = Tiny().PlanChat(input, kContext, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  const auto violations = ViolationsOf(status);
  ASSERT_FALSE(violations.empty()) << status;
  EXPECT_THAT(violations.front().field, StartsWith(GetParam().field)) << status;
}

INSTANTIATE_TEST_SUITE_P(
    Table, BadChats,
    ::testing::Values(
        BadChat{"NoMessages", [](auto& c) { c.messages.clear(); }, "messages"},
        BadChat{"TooManyMessages", [](auto& c) { c.messages.assign(4097, c.messages[0]); }, "messages"},
        BadChat{"UnknownRole", [](auto& c) { c.messages[0].role = "wizard"; }, "messages[0]"},
        BadChat{"TooLarge",
                [](auto& c) { c.messages[0].content = {std::string(static_cast<size_t>(kMaxTextBytes), 'a')}; },
                "messages"},
        BadChat{"LoneToolMessage", [](auto& c) { c.messages[0].role = "tool"; }, "messages[0]"},
        BadChat{"ToolName",
                [](auto& c) {
                  c.tools.push_back({"a{b", "", ""});
                },
                "tools[0]"},
        BadChat{"ToolSchema",
                [](auto& c) {
                  c.tools.push_back({"f", "", "[1"});
                },
                "tools[0]"},
        BadChat{"CallArguments",
                [](auto& c) {
                  ChatTurn turn;
                  turn.role = "assistant";
                  turn.tool_calls = {{"1", "f", "[]"}};
                  c.messages.push_back(turn);
                },
                "messages[1].tool_calls[0].arguments"},
        BadChat{"UnansweredCall",
                [](auto& c) {
                  ChatTurn turn;
                  turn.role = "assistant";
                  turn.tool_calls = {{"1", "f", ""}};
                  c.messages.push_back(turn);
                },
                "messages[1]"},
        BadChat{"PromptLogprobs", [](auto& c) { c.options.prompt_logprobs = 21; }, "options.prompt_logprobs"},
        BadChat{"Temperature", [](auto& c) { c.options.temperature = -1.0F; }, "options.sampling.temperature"}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(AsViolation, SplitsTheFieldFromTheMessage) {
  const auto one = ViolationsOf(AsViolation(absl::InvalidArgumentError("messages[3].content[1]: bad"), "x"));
  ASSERT_EQ(one.size(), 1U);
  EXPECT_EQ(one[0].field, "messages[3].content[1]");
  EXPECT_EQ(one[0].description, "bad");
  EXPECT_EQ(ViolationsOf(AsViolation(absl::InvalidArgumentError("no good, really: no"), "x"))[0].field, "x");
  EXPECT_EQ(AsViolation(absl::FailedPreconditionError("a: b"), "x").code(), absl::StatusCode::kFailedPrecondition);
}

// The text of ids pushed one by one; ids beyond the vocabulary in between change nothing.
struct Flow {
  std::string text;
  int pushed = 0;
  bool stopped = false;
};
Flow Stream(const std::string& text, std::vector<std::string> stops) {
  GenerateInput input = TextInput("a");
  input.options.stop = std::move(stops);
  auto plan = Tiny().PlanGenerate(input, kContext, 1);
  EXPECT_TRUE(plan.ok());
  const auto ids = Tiny().Tokenize(text);
  EXPECT_TRUE(ids.ok());
  Flow flow;
  TextDelta delta;
  for (const int32_t id : *ids) {
    EXPECT_FALSE(plan->texts[0]->Push(1 << 30, delta));
    ++flow.pushed;
    if (plan->texts[0]->Push(id, delta)) {
      flow.stopped = true;
      break;
    }
  }
  plan->texts[0]->End(!flow.stopped, delta);
  flow.text = delta.text;
  return flow;
}

TEST(CompletionText, GivesBackTheText) {
  const std::string text = "And God said, \xE2\x9C\xA8 caf\xC3\xA9 \xF0\x9F\x8C\x9F let there be light.";
  EXPECT_EQ(Stream(text, {}).text, text);
}

TEST(CompletionText, EndsBeforeAStopString) {
  const Flow flow = Stream("And God said, Let there be light: and there was light.", {"nothing", "there be"});
  EXPECT_TRUE(flow.stopped);
  EXPECT_EQ(flow.text, "And God said, Let ");
}

TEST(CompletionText, GivesOutAPrefixThatCameToNothing) {
  const Flow flow = Stream("And God said, Let there", {"there be"});
  EXPECT_FALSE(flow.stopped);
  EXPECT_EQ(flow.text, "And God said, Let there");
}

}  // namespace
}  // namespace alphecca::coordinator

#include "coordinator/request/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "fake_group_client.h"

namespace alphecca::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Token i reads as the letter 'a' + i; "z" is the stop string, "h" is held back until the next token.
class LetterText : public SampleText {
 public:
  bool Push(int32_t id, TextDelta& out) override {
    const char letter = static_cast<char>('a' + id);
    if (letter == 'z') {
      return true;
    }
    held_ += letter;
    if (letter != 'h') {
      out.text += std::exchange(held_, "");
    }
    return false;
  }
  void End(bool, TextDelta& out) override { out.text += std::exchange(held_, ""); }
  int broken_calls() const override { return 2; }

 private:
  std::string held_;
};

class GenerationTest : public ::testing::Test {
 protected:
  // The fake keeps the sinks of sequences that never ended, as no real group does.
  void TearDown() override { group_->opened.clear(); }
  void Make(int n, int window = 4096) {
    GenerationPlan plan;
    plan.options.n = n;
    plan.options.max_tokens = 10;
    plan.options.sampling.seed = 5;
    plan.options.logprobs = logprobs_;
    plan.options.prompt_logprobs = 2;
    plan.prompt = {1, 2, 3};
    plan.stop_ids = {1};
    plan.suppressed = {{3, 7}};
    plan.window = window;
    plan.options.tenant = "t";
    plan.tenant_weight = 0.5;
    plan.expected_cached = 1;
    for (int i = 0; i < n; ++i) {
      plan.texts.push_back(std::make_unique<LetterText>());
    }
    generation_ = std::make_shared<Generation>(std::move(plan), group_, SequenceId(10), [this] { ++wakes_; });
    generation_->Start();
  }
  // All that can be read now, as one text.
  std::string Read() {
    std::string text;
    while (const auto event = generation_->Next()) {
      text += event->delta.text;
      last_ = *event;
    }
    return text;
  }

  std::shared_ptr<FakeGroupClient> group_ = std::make_shared<FakeGroupClient>();
  std::shared_ptr<Generation> generation_;
  GenerationEvent last_;
  int wakes_ = 0;
  int logprobs_ = -1;
};

TEST_F(GenerationTest, OpensOneSequenceASampleOnOneGroup) {
  Make(3);
  ASSERT_EQ(group_->opened.size(), 3U);
  for (int i = 0; i < 3; ++i) {
    const SequenceSpec& spec = group_->opened[static_cast<size_t>(i)].first;
    EXPECT_EQ(spec.id, SequenceId(10 + static_cast<uint64_t>(i)));
    EXPECT_EQ(spec.sample, i);
    EXPECT_EQ(spec.sampling.seed, 5U);
    EXPECT_EQ(spec.prompt_logprobs, i == 0 ? 2 : -1);
    EXPECT_THAT(spec.prompt, ElementsAre(1, 2, 3));
    EXPECT_THAT(spec.stop_ids, ElementsAre(1));
    EXPECT_EQ(spec.tenant, "t");
    EXPECT_EQ(spec.tenant_weight, 0.5);
    EXPECT_EQ(spec.expected_cached, i == 0 ? 1 : 2);  // the first computes the prompt
    ASSERT_EQ(spec.suppressed.size(), 1U);
    EXPECT_EQ(spec.suppressed[0].end, 7);
  }
}

TEST_F(GenerationTest, StreamsAndEndsWithUsage) {
  Make(1);
  group_->Tokens(0, {0});
  auto event = generation_->Next();
  ASSERT_TRUE(event);
  EXPECT_TRUE(event->first);
  EXPECT_THAT(event->ids, ElementsAre(0));
  EXPECT_EQ(event->delta.text, "a");
  EXPECT_FALSE(event->finish);
  EXPECT_FALSE(generation_->Next());
  EXPECT_FALSE(generation_->Finished());
  group_->End(0, Finish::kLength, {1});
  event = generation_->Next();
  ASSERT_TRUE(event);
  EXPECT_FALSE(event->first);
  EXPECT_EQ(event->finish, FinishReason::kLength);
  ASSERT_TRUE(event->usage);
  EXPECT_EQ(event->usage->prompt_tokens, 3);
  EXPECT_EQ(event->usage->completion_tokens, 2);
  EXPECT_EQ(generation_->Finished(), absl::OkStatus());
  EXPECT_EQ(wakes_, 2);
  EXPECT_THAT(group_->cancelled, IsEmpty());
}

TEST_F(GenerationTest, MergesWhatASlowClientHasNotTaken) {
  Make(2);
  group_->Tokens(0, {0});
  group_->Tokens(1, {1});
  group_->Tokens(0, {2, 3});
  auto event = generation_->Next();
  ASSERT_TRUE(event);
  EXPECT_EQ(event->sample, 0);
  EXPECT_THAT(event->ids, ElementsAre(0, 2, 3));
  EXPECT_EQ(event->delta.text, "acd");
  event = generation_->Next();
  ASSERT_TRUE(event);
  EXPECT_EQ(event->sample, 1);
  EXPECT_FALSE(generation_->Next());
}

TEST_F(GenerationTest, AStopStringEndsTheSampleAndNothingBeyondIsShownOrCounted) {
  Make(1);
  group_->Tokens(0, {0, 25, 2, 3});
  EXPECT_EQ(Read(), "a");
  EXPECT_THAT(last_.ids, ElementsAre(0, 25));
  EXPECT_EQ(last_.finish, FinishReason::kStop);
  EXPECT_EQ(last_.usage->completion_tokens, 2);
  EXPECT_THAT(group_->cancelled, ElementsAre(SequenceId(10)));
  group_->Tokens(0, {4});
  group_->End(0, Finish::kCancelled);
  EXPECT_FALSE(generation_->Next());
  EXPECT_EQ(generation_->Finished(), absl::OkStatus());
}

TEST_F(GenerationTest, AStopStringInTheLastEventNeedsNoCancel) {
  Make(1);
  group_->End(0, Finish::kLength, {0, 25});
  Read();
  EXPECT_EQ(last_.finish, FinishReason::kStop);
  EXPECT_THAT(group_->cancelled, IsEmpty());
}

TEST_F(GenerationTest, HeldTextComesAtTheEnd) {
  Make(1);
  group_->Tokens(0, {7});
  auto event = generation_->Next();
  ASSERT_TRUE(event);
  EXPECT_THAT(event->ids, ElementsAre(7));  // ids do not wait for text
  EXPECT_EQ(event->delta.text, "");
  group_->End(0, Finish::kStop);
  EXPECT_EQ(Read(), "h");
}

TEST_F(GenerationTest, UsageComesLastOfAllSamples) {
  Make(2);
  group_->End(0, Finish::kStop, {0});
  group_->Tokens(1, {1});
  group_->Tokens(1, {2});
  auto event = generation_->Next();
  ASSERT_TRUE(event);
  EXPECT_EQ(event->sample, 0);
  EXPECT_FALSE(event->usage);
  group_->End(1, Finish::kStop);
  event = generation_->Next();
  ASSERT_TRUE(event);
  ASSERT_TRUE(event->usage);
  EXPECT_EQ(event->usage->completion_tokens, 3);
  EXPECT_FALSE(generation_->Next());
}

TEST_F(GenerationTest, TheLastEventIsQueuedLastEvenIfItsSampleWasFirst) {
  Make(2);
  group_->Tokens(0, {0});
  group_->End(1, Finish::kStop, {1});
  group_->End(0, Finish::kStop);
  auto event = generation_->Next();
  ASSERT_TRUE(event);
  EXPECT_EQ(event->sample, 1);
  EXPECT_FALSE(event->usage);
  event = generation_->Next();
  ASSERT_TRUE(event);
  EXPECT_TRUE(event->usage);
}

TEST_F(GenerationTest, OneErrorEndsTheRequestAndCancelsTheOthers) {
  Make(3);
  group_->Tokens(0, {0});
  group_->End(1, Finish::kStop);
  group_->Fail(2, absl::UnavailableError("rank 1 was lost"));
  EXPECT_FALSE(generation_->Next());
  EXPECT_EQ(generation_->Finished()->code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(group_->cancelled, ElementsAre(SequenceId(10)));
  group_->Tokens(0, {1});
  EXPECT_FALSE(generation_->Next());
}

TEST_F(GenerationTest, AGroupThatIsNotConnectedIsUnavailable) {
  group_->is_connected = false;
  Make(2);
  EXPECT_EQ(generation_->Finished()->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(wakes_, 1);
}

TEST_F(GenerationTest, CancelReachesEveryRunningSequenceAtOnce) {
  Make(3);
  group_->End(1, Finish::kStop);
  generation_->Cancel();
  generation_->Cancel();
  EXPECT_THAT(group_->cancelled, ElementsAre(SequenceId(10), SequenceId(12)));
  EXPECT_FALSE(generation_->Next());
  EXPECT_EQ(generation_->Finished()->code(), absl::StatusCode::kCancelled);
  const int before = wakes_;
  group_->End(0, Finish::kCancelled);
  EXPECT_EQ(wakes_, before);
}

TEST_F(GenerationTest, CreditFollowsWhatTheClientTookInQuartersOfTheWindow) {
  Make(1, 16);
  group_->Tokens(0, {0, 1, 2});
  ASSERT_TRUE(generation_->Next());
  EXPECT_FALSE(generation_->Next());  // three taken: not yet worth a message
  EXPECT_THAT(group_->credits, IsEmpty());
  group_->Tokens(0, {3, 4});
  ASSERT_TRUE(generation_->Next());
  EXPECT_THAT(group_->credits, IsEmpty());  // given out, not taken
  EXPECT_FALSE(generation_->Next());
  EXPECT_EQ(group_->credits[SequenceId(10)], 5);
}

TEST_F(GenerationTest, LogprobsStayWithTheirIds) {
  logprobs_ = 1;
  Make(1);
  SequenceEvent event;
  event.ids = {0, 25, 3};
  event.logprobs.resize(3);
  event.logprobs[1].logprob = -1.5F;
  event.prompt_logprobs.resize(2);
  group_->Send(0, std::move(event));
  Read();
  ASSERT_EQ(last_.logprobs.size(), 2U);
  EXPECT_EQ(last_.logprobs[1].logprob, -1.5F);
  EXPECT_EQ(last_.prompt_logprobs.size(), 2U);
}

TEST_F(GenerationTest, AnEngineThatSendsTooFewLogprobsDoesNoHarm) {
  logprobs_ = 1;
  Make(1);
  group_->Tokens(0, {0, 1});
  Read();
  EXPECT_EQ(last_.logprobs.size(), 2U);
}

TEST_F(GenerationTest, ADroppedSequenceIsAnErrorNotAShortAnswer) {
  Make(1);
  group_->End(0, Finish::kCancelled);
  EXPECT_EQ(generation_->Finished()->code(), absl::StatusCode::kUnavailable);
}

TEST_F(GenerationTest, MeasuresTokens) {
  Make(2);
  EXPECT_FALSE(generation_->times().first_token);
  EXPECT_EQ(generation_->times().broken_calls, 4);  // two of each sample
  group_->Tokens(0, {0});
  EXPECT_TRUE(generation_->times().first_token);
  EXPECT_THAT(generation_->times().per_token, IsEmpty());
  group_->Tokens(0, {1});
  EXPECT_EQ(generation_->times().per_token.size(), 1U);
  EXPECT_EQ(generation_->usage().completion_tokens, 2);
}

TEST_F(GenerationTest, EventsReadsAndACancelFromThreeThreads) {
  for (int round = 0; round < 50; ++round) {
    group_ = std::make_shared<FakeGroupClient>();
    GenerationPlan plan;
    plan.options.n = 2;
    plan.prompt = {1};
    for (int i = 0; i < 2; ++i) {
      plan.texts.push_back(std::make_unique<LetterText>());
    }
    std::atomic<int> wakes{0};
    generation_ = std::make_shared<Generation>(std::move(plan), group_, SequenceId(1), [&] { ++wakes; });
    generation_->Start();
    std::thread engine([&] {
      for (int i = 0; i < 100; ++i) {
        group_->Tokens(static_cast<size_t>(i % 2), {i % 7});
      }
      group_->End(0, Finish::kStop);
      group_->End(1, Finish::kLength);
    });
    std::thread client([&] {
      size_t tokens = 0;
      while (!generation_->Finished()) {
        while (const auto event = generation_->Next()) {
          tokens += event->ids.size();
        }
      }
      EXPECT_LE(tokens, 100U);
      if (generation_->Finished()->ok()) {
        EXPECT_EQ(tokens, 100U);
      }
    });
    if (round % 2 == 0) {
      generation_->Cancel();
    }
    engine.join();
    client.join();
    group_->opened.clear();
  }
}

}  // namespace
}  // namespace alphecca::coordinator

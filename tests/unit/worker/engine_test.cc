// The engine over a fake shard: ends, limits, cancellation, deadlines, flow control, failure.
#include "worker/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "tests/unit/worker/engine_fixture.h"

namespace alphecca::engine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(EngineTest, RunsToMaxTokens) {
  Start();
  const SequenceRequest request = Request(1, {5, 6, 7}, 9);
  ASSERT_TRUE(Open(request).ok());
  const auto heard = sink_->AwaitEnd(1);
  EXPECT_EQ(heard.ids, Expected(request));
  EXPECT_EQ(heard.finish, Finish::kLength);
  EXPECT_TRUE(heard.error.ok());
  EXPECT_TRUE(heard.logprobs.empty());
  EXPECT_EQ(heard.last_updates, 1);
}

TEST_F(EngineTest, StopIdIsTheLastToken) {
  Start();
  SequenceRequest request = Request(1, {5, 6, 7}, 20);
  request.stop_ids = {kVocab - 1, Expected(request)[4]};
  ASSERT_TRUE(Open(request).ok());
  const auto heard = sink_->AwaitEnd(1);
  EXPECT_EQ(heard.ids, Expected(request));
  EXPECT_LT(heard.ids.size(), 20U);
  EXPECT_EQ(heard.finish, Finish::kStop);
}

TEST_F(EngineTest, StopIdAtMaxTokensIsAStop) {
  Start();
  SequenceRequest request = Request(1, {5, 6, 7}, 5);
  request.stop_ids = {Expected(request)[4]};
  ASSERT_TRUE(Open(request).ok());
  EXPECT_EQ(sink_->AwaitEnd(1).finish, Finish::kStop);
}

TEST_F(EngineTest, LongPromptsRunInChunksWithTheSameAnswer) {
  Start();
  std::vector<int32_t> prompt(50);
  for (size_t i = 0; i < prompt.size(); ++i) {
    prompt[i] = static_cast<int32_t>(i * 7);
  }
  const SequenceRequest request = Request(1, prompt, 10);
  ASSERT_TRUE(Open(request).ok());
  EXPECT_EQ(sink_->AwaitEnd(1).ids, Expected(request));
  const std::vector<StepPlan> plans = runner_->plans();
  ASSERT_GE(plans.size(), 4U);
  EXPECT_EQ(plans[0].rows.size(), 16U);
  EXPECT_TRUE(plans[0].logits.empty());
  EXPECT_EQ(plans[3].rows.size(), 2U);
  EXPECT_EQ(plans[3].logits.size(), 1U);
}

TEST_F(EngineTest, DecodeRowsReferToTheSlotsLastToken) {
  Start();
  ASSERT_TRUE(Open(Request(1, {5, 6, 7}, 3)).ok());
  sink_->AwaitEnd(1);
  const std::vector<StepPlan> plans = runner_->plans();
  ASSERT_EQ(plans.size(), 3U);
  ASSERT_EQ(plans[1].rows.size(), 1U);
  EXPECT_EQ(plans[1].rows[0].token, -1 - plans[1].rows[0].slot);
  EXPECT_EQ(plans[1].rows[0].position, 3);
  EXPECT_EQ(plans[1].epoch, Epoch(3));
}

TEST_F(EngineTest, SlotsOpenWithTheHistoryThatPenaltiesNeed) {
  Start();
  SequenceRequest request = Request(1, {5, 6, 7, 6, 5, 5}, 2);
  request.rules.frequency_penalty = 0.5F;
  request.rules.suppressed = {{30, 40}};
  request.answer_tokens = 2;
  ASSERT_TRUE(Open(request).ok());
  sink_->AwaitEnd(1);
  request.id = SequenceId(2);
  request.rules.frequency_penalty = 0.0F;
  ASSERT_TRUE(Open(request).ok());
  sink_->AwaitEnd(2);
  const std::vector<StepPlan> plans = runner_->plans();
  ASSERT_EQ(plans.size(), 4U);
  ASSERT_EQ(plans[0].opens.size(), 1U);
  const kernels::LogitRules& rules = plans[0].opens[0].rules;
  EXPECT_EQ(rules.frequency_penalty, 0.5F);
  EXPECT_EQ(rules.suppressed.size(), 1U);
  ASSERT_EQ(rules.history.size(), 3U);
  const std::vector<std::vector<int32_t>> want = {{5, 2, 1}, {6, 0, 1}, {7, 0, 1}};
  for (size_t i = 0; i < 3; ++i) {
    const kernels::TokenCount& count = rules.history[i];
    EXPECT_EQ((std::vector<int32_t>{count.token, count.answer, count.prompt ? 1 : 0}), want[i]);
  }
  ASSERT_EQ(plans[2].opens.size(), 1U);
  EXPECT_TRUE(plans[2].opens[0].rules.history.empty());  // nothing reads it
  EXPECT_EQ(plans[2].opens[0].rules.suppressed.size(), 1U);
}

// Allows the token after the last one, and records what it was told.
class Successor final : public TokenConstraint {
 public:
  void Allow(std::span<uint32_t> words) override {
    ASSERT_EQ(words.size(), 32U);  // of 1000 tokens
    ASSERT_EQ(std::count(words.begin(), words.end(), 0U), 32);
    words[taken.size()] = 1U << 3;
  }
  void Take(int32_t token) override { taken.push_back(token); }

  std::vector<int32_t> taken;
};

TEST_F(EngineTest, AConstraintMasksEachSampledRow) {
  Start();
  SequenceRequest request = Request(1, {5, 6, 7}, 3);
  request.prompt_logprobs = 1;
  const auto constraint = std::make_shared<Successor>();
  request.constraint = constraint;
  ASSERT_TRUE(Open(request).ok());
  EXPECT_EQ(sink_->AwaitEnd(1).ids, constraint->taken);
  const std::vector<StepPlan> plans = runner_->plans();
  ASSERT_EQ(plans.size(), 3U);
  ASSERT_EQ(plans[0].logits.size(), 3U);
  EXPECT_EQ(plans[0].logits[0].mask, -1);  // prompt rows report only
  EXPECT_EQ(plans[0].logits[1].mask, -1);
  for (size_t step = 0; step < 3; ++step) {
    EXPECT_EQ(plans[step].logits.back().mask, 0);
    ASSERT_EQ(plans[step].masks.size(), 1U);
    EXPECT_EQ(plans[step].masks[0][step], 1U << 3);
  }
}

TEST_F(EngineTest, ManyAtOnceGiveWhatEachGivesAlone) {
  Start();
  std::vector<SequenceRequest> requests;
  for (uint64_t id = 1; id <= 20; ++id) {
    const std::vector<int32_t> prompt(1 + id * 2, static_cast<int32_t>(id));
    requests.push_back(Request(id, prompt, static_cast<int32_t>(1 + id % 7)));
    ASSERT_TRUE(Open(requests.back()).ok());
  }
  for (const SequenceRequest& request : requests) {
    EXPECT_EQ(sink_->AwaitEnd(request.id.value).ids, Expected(request)) << request.id.value;
  }
  const EngineCounts counts = engine_->counts();
  EXPECT_EQ(counts.running, 0);
  EXPECT_EQ(counts.waiting, 0);
  EXPECT_EQ(counts.full_blocks_used, 0);
  EXPECT_EQ(counts.sliding_blocks_used, 0);
}

TEST_F(EngineTest, HigherPriorityGoesFirst) {
  ShardLimits limits = SmallLimits();
  limits.max_sequences = 1;
  Start(limits);
  runner_->Hold();
  ASSERT_TRUE(Open(Request(1, {1}, 2)).ok());
  runner_->AwaitStep(1);
  ASSERT_TRUE(Open(Request(2, {2}, 1)).ok());
  SequenceRequest urgent = Request(3, {3}, 1);
  urgent.priority = 5;
  ASSERT_TRUE(Open(urgent).ok());
  runner_->Release();
  sink_->AwaitEnd(2);
  const std::vector<StepPlan> plans = runner_->plans();
  ASSERT_EQ(plans.size(), 4U);
  EXPECT_EQ(plans[2].rows[0].token, 3);
  EXPECT_EQ(plans[3].rows[0].token, 2);
}

// ---- Log-probabilities ----------------------------------------------------------------------------------------------

TEST_F(EngineTest, LogprobsComeWithEachToken) {
  Start();
  SequenceRequest request = Request(1, {5, 6, 7}, 4);
  request.logprobs = 2;
  ASSERT_TRUE(Open(request).ok());
  const auto heard = sink_->AwaitEnd(1);
  ASSERT_EQ(heard.logprobs.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(heard.logprobs[i].token, heard.ids[i]);
    EXPECT_EQ(heard.logprobs[i].logprob, -1.0F - static_cast<float>(heard.ids[i]));
    EXPECT_EQ(heard.logprobs[i].top.size(), 2U);
  }
  EXPECT_TRUE(heard.prompt_logprobs.empty());
}

TEST_F(EngineTest, PromptLogprobsComeOnceForTokensFromTheSecondOn) {
  Start();
  SequenceRequest request = Request(1, {}, 3);
  for (int32_t i = 0; i < 30; ++i) {
    request.prompt.push_back(100 + i);
  }
  request.prompt_logprobs = 3;
  request.logprobs = 0;
  ASSERT_TRUE(Open(request).ok());
  const auto heard = sink_->AwaitEnd(1);
  EXPECT_EQ(heard.ids, Expected(request));
  ASSERT_EQ(heard.prompt_logprobs.size(), 29U);
  for (size_t i = 0; i < 29; ++i) {
    EXPECT_EQ(heard.prompt_logprobs[i].token, request.prompt[i + 1]);
    EXPECT_EQ(heard.prompt_logprobs[i].logprob, -0.5F - static_cast<float>(request.prompt[i + 1]));
    EXPECT_EQ(heard.prompt_logprobs[i].top.size(), 3U);
  }
  ASSERT_EQ(heard.logprobs.size(), 3U);
  EXPECT_TRUE(heard.logprobs[0].top.empty());
  for (const StepPlan& plan : runner_->plans()) {
    EXPECT_LE(plan.logits.size(), 8U);
  }
}

TEST_F(EngineTest, PromptOfOneTokenHasNoPromptLogprobs) {
  Start();
  SequenceRequest request = Request(1, {5}, 2);
  request.prompt_logprobs = 0;
  ASSERT_TRUE(Open(request).ok());
  const auto heard = sink_->AwaitEnd(1);
  EXPECT_EQ(heard.ids, Expected(request));
  EXPECT_TRUE(heard.prompt_logprobs.empty());
}

// ---- Cancellation, deadlines, flow control --------------------------------------------------------------------------

TEST_F(EngineTest, CancelEndsARunningSequenceAndFreesItsBlocksWhileAStepRuns) {
  Start();
  runner_->Hold();
  ASSERT_TRUE(Open(Request(1, {5, 6, 7}, 50)).ok());
  runner_->Allow(3);
  runner_->AwaitStep(4);
  EXPECT_GT(engine_->counts().full_blocks_used, 0);
  EXPECT_EQ(engine_->counts().running, 1);
  engine_->Cancel(sink_, SequenceId(1));
  const auto heard = sink_->AwaitEnd(1);
  EXPECT_EQ(heard.finish, Finish::kCancelled);
  EXPECT_LE(heard.ids.size(), 3U);
  const EngineCounts counts = engine_->counts();
  runner_->Allow(2);
  EXPECT_LE(counts.steps, 5U);  // one runs, one was planned behind it
  EXPECT_EQ(counts.running, 0);
  EXPECT_EQ(counts.full_blocks_used, 0);
  EXPECT_EQ(counts.sliding_blocks_used, 0);
}

TEST_F(EngineTest, CancelEndsAWaitingSequence) {
  ShardLimits limits = SmallLimits();
  limits.max_sequences = 1;
  Start(limits);
  runner_->Hold();
  ASSERT_TRUE(Open(Request(1, {5}, 3)).ok());
  runner_->AwaitStep(1);
  ASSERT_TRUE(Open(Request(2, {5}, 3)).ok());
  engine_->Cancel(sink_, SequenceId(2));
  engine_->Cancel(sink_, SequenceId(99));  // unknown: nothing happens
  runner_->Allow(1);
  const auto heard = sink_->AwaitEnd(2);
  EXPECT_EQ(heard.finish, Finish::kCancelled);
  EXPECT_TRUE(heard.ids.empty());
}

TEST_F(EngineTest, DeadlineEndsRunningAndWaitingSequences) {
  ShardLimits limits = SmallLimits();
  limits.max_sequences = 1;
  Start(limits);
  runner_->Hold();
  SequenceRequest first = Request(1, {5}, 50);
  first.deadline = absl::FromUnixSeconds(1010);
  SequenceRequest second = first;
  second.id = SequenceId(2);
  SequenceRequest patient = Request(3, {5}, 2);
  ASSERT_TRUE(Open(first).ok());
  runner_->AwaitStep(1);
  ASSERT_TRUE(Open(second).ok());
  ASSERT_TRUE(Open(patient).ok());
  now_s_ = 1009;
  runner_->Allow(2);
  runner_->AwaitStep(3);
  EXPECT_FALSE(sink_->AwaitTokens(1, 2).ended());
  now_s_ = 1010;
  runner_->Release();
  EXPECT_EQ(sink_->AwaitEnd(1).error.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(sink_->AwaitEnd(2).error.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(sink_->AwaitEnd(3).finish, Finish::kLength);
}

TEST_F(EngineTest, QueueTimeIsFromArrivalToTheFirstStep) {
  ShardLimits limits = SmallLimits();
  limits.max_sequences = 1;
  std::vector<absl::Duration> queued;  // written on the engine's thread, read after its last update
  EngineOptions options;
  options.on_admitted = [&queued](absl::Duration time) { queued.push_back(time); };
  Start(limits, options);
  runner_->Hold();
  ASSERT_TRUE(Open(Request(1, {5}, 2)).ok());
  runner_->AwaitStep(1);
  ASSERT_TRUE(Open(Request(2, {5}, 2)).ok());
  now_s_ = 1003;
  runner_->Release();
  sink_->AwaitEnd(2);
  EXPECT_EQ(queued, (std::vector{absl::ZeroDuration(), absl::Seconds(3)}));
}

TEST_F(EngineTest, DeadlineInThePastEndsASequenceBeforeItRuns) {
  Start();
  SequenceRequest request = Request(1, {5}, 50);
  request.deadline = absl::FromUnixSeconds(999);
  ASSERT_TRUE(Open(request).ok());
  EXPECT_EQ(sink_->AwaitEnd(1).error.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(engine_->counts().steps, 0U);
}

TEST_F(EngineTest, SlowReaderIsEndedAtItsWindow) {
  Start();
  SequenceRequest request = Request(1, {5, 6}, 10);
  request.window = 4;
  ASSERT_TRUE(Open(request).ok());
  const auto heard = sink_->AwaitEnd(1);
  EXPECT_EQ(heard.error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(heard.ids.size(), 4U);
  EXPECT_EQ(engine_->counts().full_blocks_used, 0);
}

TEST_F(EngineTest, CreditKeepsASequenceGoing) {
  Start();
  SequenceRequest request = Request(1, {5, 6}, 10);
  request.window = 1;
  sink_->set_on_step([&] { engine_->Credit(sink_, SequenceId(1), 1); });
  ASSERT_TRUE(Open(request).ok());
  EXPECT_EQ(sink_->AwaitEnd(1).ids, Expected(request));
}

TEST_F(EngineTest, CreditForTokensNotYetSentIsNotSavedUp) {
  Start();
  SequenceRequest request = Request(1, {5, 6}, 10);
  request.window = 1;
  int calls = 0;
  sink_->set_on_step([&] { engine_->Credit(sink_, SequenceId(1), ++calls == 1 ? 100 : -100); });
  ASSERT_TRUE(Open(request).ok());
  const auto heard = sink_->AwaitEnd(1);
  EXPECT_EQ(heard.error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(heard.ids.size(), 2U);  // one credited, one in the window
}

// ---- Detach, failure, stop ------------------------------------------------------------------------------------------

TEST_F(EngineTest, DetachEndsTheSinksSequencesSilently) {
  Start();
  runner_->Hold();
  auto other = std::make_shared<RecordingSink>();
  ASSERT_TRUE(Open(Request(1, {5}, 50)).ok());
  ASSERT_TRUE(Open(Request(2, {5}, 50)).ok());
  ASSERT_TRUE(engine_->Open(other, Request(1, {9}, 20)).ok());
  runner_->AwaitStep(1);
  engine_->Detach(sink_);
  const int calls = sink_->calls();
  runner_->Release();
  EXPECT_EQ(other->AwaitEnd(1).ids.size(), 20U);
  EXPECT_EQ(sink_->calls(), calls);
  EXPECT_EQ(engine_->counts().running, 0);
  EXPECT_EQ(engine_->counts().full_blocks_used, 0);
  // The sink may come back.
  ASSERT_TRUE(Open(Request(1, {5}, 2)).ok());
  sink_->AwaitEnd(1);
}

TEST_F(EngineTest, DetachWaitsForACallUnderWay) {
  Start();
  Mutex mutex;
  CondVar changed;
  bool in_call = false;
  bool let_go = false;
  std::atomic<bool> call_over = false;
  sink_->set_on_step([&] {
    MutexLock lock(mutex);
    in_call = true;
    changed.NotifyAll();
    while (!let_go) {
      changed.Wait(mutex);
    }
    call_over = true;
  });
  ASSERT_TRUE(Open(Request(1, {5}, 1)).ok());  // its only call is its last
  {
    MutexLock lock(mutex);
    while (!in_call) {
      changed.Wait(mutex);
    }
  }
  bool over_at_return = false;
  std::thread detacher([&] {
    engine_->Detach(sink_);
    over_at_return = call_over;
  });
  {
    MutexLock lock(mutex);
    let_go = true;
    changed.NotifyAll();
  }
  detacher.join();
  EXPECT_TRUE(over_at_return);
}

TEST_F(EngineTest, SinkMayDetachItselfFromItsOwnCall) {
  Start();
  std::atomic<int> calls = 0;
  sink_->set_on_step([&] {
    ++calls;
    engine_->Detach(sink_);
  });
  ASSERT_TRUE(Open(Request(1, {5}, 30)).ok());
  auto other = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine_->Open(other, Request(1, {5}, 40)).ok());
  other->AwaitEnd(1);
  EXPECT_EQ(calls, 1);
}

TEST_F(EngineTest, FailedStepEndsEverySequenceAndTheGroup) {
  ShardLimits limits = SmallLimits();
  limits.max_sequences = 1;
  Start(limits);
  std::vector<absl::Status> told;
  engine_->set_on_broken([&](const absl::Status& status) { told.push_back(status); });
  runner_->Hold();
  ASSERT_TRUE(Open(Request(1, {5}, 50)).ok());
  runner_->AwaitStep(1);
  ASSERT_TRUE(Open(Request(2, {5}, 50)).ok());
  runner_->Allow(1);
  runner_->AwaitStep(2);
  ASSERT_TRUE(Open(Request(3, {5}, 50)).ok());
  runner_->Fail(absl::UnavailableError("rank 1 died"));
  runner_->Allow(1);
  for (const uint64_t id : {1, 2, 3}) {
    const auto heard = sink_->AwaitEnd(id);
    EXPECT_EQ(heard.error.code(), absl::StatusCode::kUnavailable) << id;
    EXPECT_THAT(std::string(heard.error.message()), HasSubstr("rank 1 died"));
  }
  engine_->Stop(absl::CancelledError("over"));
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(engine_->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Open(Request(4, {5}, 2)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(engine_->counts().full_blocks_used, 0);
}

class GoneFollower final : public Followers {
 public:
  absl::Status Send(const StepPlan& plan) override {
    sent.push_back(plan.step);
    return plan.step < 3 ? absl::OkStatus() : absl::UnavailableError("follower 2 is gone");
  }
  std::vector<uint64_t> sent;
};

TEST_F(EngineTest, LostFollowerEndsTheGroupBeforeTheStepRuns) {
  GoneFollower followers;
  followers_ = &followers;
  Start();
  ASSERT_TRUE(Open(Request(1, {5}, 50)).ok());
  const auto heard = sink_->AwaitEnd(1);
  EXPECT_EQ(heard.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_LE(heard.ids.size(), 2U);  // the third step was to be sent while the second ran
  engine_->Stop(absl::CancelledError("over"));
  EXPECT_THAT(followers.sent, ElementsAre(1, 2, 3));
  EXPECT_LE(runner_->plans().size(), 2U);
  engine_.reset();
}

TEST_F(EngineTest, StopEndsEverySequenceWithItsReason) {
  Start();
  bool broken = false;
  engine_->set_on_broken([&](const absl::Status&) { broken = true; });
  runner_->Hold();
  ASSERT_TRUE(Open(Request(1, {5}, 50)).ok());
  runner_->AwaitStep(1);
  ASSERT_TRUE(Open(Request(2, {5}, 50)).ok());
  std::thread stopper([&] { engine_->Stop(absl::AbortedError("draining")); });
  // Stop waits for the step; once it has been heard, nothing is admitted.
  uint64_t last = 2;
  while (Open(Request(last + 1, {5}, 50)).code() != absl::StatusCode::kUnavailable) {
    last = std::min<uint64_t>(last + 1, 1000);
    std::this_thread::yield();
  }
  runner_->Release();
  stopper.join();
  for (uint64_t id = 1; id <= last; ++id) {
    const auto heard = sink_->AwaitEnd(id);
    EXPECT_EQ(heard.error.code(), absl::StatusCode::kAborted) << id;
    EXPECT_EQ(heard.last_updates, 1);
  }
  engine_->Stop(absl::CancelledError("again"));
  EXPECT_FALSE(broken);
  EXPECT_TRUE(engine_->status().ok());
  EXPECT_EQ(Open(Request(2000, {5}, 2)).code(), absl::StatusCode::kUnavailable);
  engine_->Cancel(sink_, SequenceId(1));
  engine_->Detach(sink_);
}

TEST_F(EngineTest, WithoutWorkNoStepRuns) {
  Start();
  ASSERT_TRUE(Open(Request(1, {5}, 3)).ok());
  sink_->AwaitEnd(1);
  engine_->Credit(sink_, SequenceId(1), 3);
  engine_->Stop(absl::CancelledError("over"));
  EXPECT_EQ(engine_->counts().steps, 3U);
}

}  // namespace
}  // namespace alphecca::engine

// What the engine keeps and shares between sequences: steps planned ahead, the prefix cache and those who follow it,
// blocks of one prompt, blocks under pressure.
#include <set>
#include <thread>

#include "tests/unit/worker/engine_fixture.h"

namespace alphecca::engine {
namespace {

using EngineCacheTest = EngineTest;

TEST_F(EngineCacheTest, TheNextStepIsPlannedWhileOneRuns) {
  Start();
  runner_->Hold();
  ASSERT_TRUE(Open(Request(1, {5, 6, 7}, 50)).ok());
  runner_->AwaitStep(1);
  while (engine_->counts().steps < 2) {
    std::this_thread::yield();
  }
  runner_->Allow(60);
  EXPECT_EQ(sink_->AwaitEnd(1).ids.size(), 50U);
  const std::vector<StepPlan> plans = runner_->plans();
  EXPECT_EQ(plans[1].rows[0].token, -1);  // what slot 0 sampled: the host did not know it yet
}

TEST_F(EngineCacheTest, AStopTokenCostsOneRowThatNobodySees) {
  Start();
  const SequenceRequest whole = Request(1, {5, 6, 7}, 10);
  SequenceRequest request = whole;
  const std::vector<int32_t> expected = Expected(whole);
  request.stop_ids = {expected[3]};
  ASSERT_TRUE(Open(request).ok());
  const auto heard = sink_->AwaitEnd(1);
  EXPECT_EQ(heard.finish, Finish::kStop);
  EXPECT_EQ(heard.ids, std::vector<int32_t>(expected.begin(), expected.begin() + 4));
  EXPECT_LE(engine_->counts().steps, 5U);
}

TEST_F(EngineCacheTest, APrefixThatWasThereIsNotRunAgain) {
  Start();
  std::vector<int32_t> prompt(3 * SmallLimits().block_tokens + 1, 5);
  const SequenceRequest first = Request(1, prompt, 2);
  ASSERT_TRUE(Open(first).ok());
  EXPECT_EQ(sink_->AwaitEnd(1).cached_tokens, 0);
  prompt.push_back(6);
  const SequenceRequest second = Request(2, prompt, 2);
  ASSERT_TRUE(Open(second).ok());
  const auto heard = sink_->AwaitEnd(2);
  EXPECT_EQ(heard.cached_tokens, 3 * SmallLimits().block_tokens);
  EXPECT_EQ(heard.ids, Expected(second));
  EXPECT_EQ(engine_->counts().cached_tokens, 3 * SmallLimits().block_tokens);

  SequenceRequest other = Request(3, prompt, 2);
  other.tenant = "another";
  ASSERT_TRUE(Open(other).ok());
  EXPECT_EQ(sink_->AwaitEnd(3).cached_tokens, 0) << "a tenant met another's prefix";
}

TEST_F(EngineCacheTest, SamplesOfOnePromptShareItsBlocks) {
  Start();
  runner_->Hold();
  const std::vector<int32_t> prompt(3 * SmallLimits().block_tokens + 2, 5);
  for (uint64_t id = 1; id <= 3; ++id) {
    ASSERT_TRUE(Open(Request(id, prompt, 12)).ok());
  }
  runner_->Release();
  for (uint64_t id = 1; id <= 3; ++id) {
    const auto heard = sink_->AwaitEnd(id);
    EXPECT_EQ(heard.ids, Expected(Request(id, prompt, 12))) << id;
    EXPECT_EQ(heard.cached_tokens, id == 1 ? 0 : static_cast<int32_t>(prompt.size()) - 1) << id;
  }
  size_t copies = 0;
  for (const StepPlan& plan : runner_->plans()) {
    copies += plan.copies[kernels::kFullPool].size();
  }
  EXPECT_EQ(copies, 2U);
}

TEST_F(EngineCacheTest, UnderPressureEveryAnswerIsStillWhole) {
  ShardLimits limits = SmallLimits();
  limits.full_blocks = 18;  // one sequence of 64 tokens, hardly two
  Start(limits);
  std::vector<SequenceRequest> requests;
  for (uint64_t id = 1; id <= 8; ++id) {
    requests.push_back(Request(id, std::vector<int32_t>(5 + id, static_cast<int32_t>(id)), 40));
    requests.back().logprobs = 0;
    requests.back().prompt_logprobs = 0;
    ASSERT_TRUE(Open(requests.back()).ok());
  }
  for (const SequenceRequest& request : requests) {
    const auto heard = sink_->AwaitEnd(request.id.value);
    EXPECT_TRUE(heard.error.ok()) << heard.error;
    EXPECT_EQ(heard.ids, Expected(request));
    EXPECT_EQ(heard.logprobs.size(), 40U);
    EXPECT_EQ(heard.prompt_logprobs.size(), request.prompt.size() - 1);
  }
  EXPECT_GT(engine_->counts().preemptions, 0);
}

class BlockLog final : public BlockWatcher {
 public:
  void OnBlocks(const BlockEvents& events) override {
    MutexLock lock(mutex_);
    for (const model::BlockHash& name : events.removed) {
      known_.erase(name);
    }
    known_.insert(events.stored.begin(), events.stored.end());
    changed_.NotifyAll();
  }
  void Await(size_t count) {
    MutexLock lock(mutex_);
    while (known_.size() != count) {
      changed_.Wait(mutex_);
    }
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::set<model::BlockHash> known_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(EngineCacheTest, WatchersLearnWhatIsCachedAndWhatChanges) {
  Start();
  const auto early = std::make_shared<BlockLog>();
  engine_->Watch(early);
  ASSERT_TRUE(Open(Request(1, std::vector<int32_t>(2 * SmallLimits().block_tokens, 5), 1)).ok());
  sink_->AwaitEnd(1);
  early->Await(2);
  const auto late = std::make_shared<BlockLog>();
  engine_->Watch(late);
  late->Await(2);
  engine_->Unwatch(early);
  ASSERT_TRUE(Open(Request(2, std::vector<int32_t>(SmallLimits().block_tokens, 6), 1)).ok());
  late->Await(3);
  engine_->Unwatch(late);
}

class CountingFollower final : public Followers {
 public:
  absl::Status Send(const StepPlan& plan) override {
    sent = plan.step;
    return absl::OkStatus();
  }
  std::atomic<uint64_t> sent{0};
};

TEST_F(EngineCacheTest, StoppingRunsEveryPlanThatTheFollowersHave) {
  for (int round = 0; round < 100; ++round) {  // where Stop meets the step varies
    CountingFollower followers;
    followers_ = &followers;
    engine_.reset();
    Start();
    runner_->Hold();
    ASSERT_TRUE(Open(Request(1, {5}, 50)).ok());
    while (followers.sent < 2) {  // one runs, one is planned behind it
      std::this_thread::yield();
    }
    std::thread stopper([&] { engine_->Stop(absl::AbortedError("draining")); });
    while (Open(Request(1, {5}, 50)).code() != absl::StatusCode::kUnavailable) {
      std::this_thread::yield();  // in use, until the engine stops
    }
    runner_->Release();
    stopper.join();
    ASSERT_EQ(runner_->plans().size(), followers.sent);
    sink_ = std::make_shared<RecordingSink>();
    engine_.reset();
  }
}

}  // namespace
}  // namespace alphecca::engine

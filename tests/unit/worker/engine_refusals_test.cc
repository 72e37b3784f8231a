// What the engine takes no part in: a full queue, bad requests, ids in use, options that cannot run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <climits>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "tests/unit/worker/engine_fixture.h"
#include "worker/engine/engine.h"

namespace alphecca::engine {
namespace {

using testing::HasSubstr;

TEST_F(EngineTest, QueueFullIsRefused) {
  ShardLimits limits = SmallLimits();
  limits.max_sequences = 1;
  Start(limits, {.max_waiting = 2});
  runner_->Hold();
  ASSERT_TRUE(Open(Request(1, {5}, 2)).ok());
  runner_->AwaitStep(1);
  ASSERT_TRUE(Open(Request(2, {5}, 2)).ok());
  ASSERT_TRUE(Open(Request(3, {5}, 2)).ok());
  const absl::Status refused = Open(Request(4, {5}, 2));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("2 sequences wait"));
  EXPECT_EQ(engine_->counts().waiting, 2);
  runner_->Release();
  sink_->AwaitEnd(3);
  EXPECT_TRUE(Open(Request(4, {5}, 2)).ok());
  sink_->AwaitEnd(4);
}

TEST_F(EngineTest, AFullQueueStillTakesWhoHasLessThanAnEqualPartOfIt) {
  ShardLimits limits = SmallLimits();
  limits.max_sequences = 1;
  Start(limits, {.max_waiting = 2});
  const auto open = [&](uint64_t id, const std::string& tenant) {
    SequenceRequest request = Request(id, {5}, 2);
    request.tenant = tenant;
    return Open(request).code();
  };
  for (const uint64_t first : {1, 11}) {  // what has ended counts for nobody
    runner_->Hold();
    const uint64_t step = engine_->counts().steps + 1;
    EXPECT_EQ(open(first, "a"), absl::StatusCode::kOk);
    runner_->AwaitStep(step);
    EXPECT_EQ(open(first + 1, "a"), absl::StatusCode::kOk);
    EXPECT_EQ(open(first + 2, "a"), absl::StatusCode::kOk);
    EXPECT_EQ(open(first + 3, "a"), absl::StatusCode::kResourceExhausted);
    ASSERT_EQ(open(first + 4, "b"), absl::StatusCode::kOk);
    EXPECT_EQ(open(first + 5, "b"), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(open(first + 6, "c"), absl::StatusCode::kResourceExhausted);  // a third of two is none
    runner_->Release();
    for (const uint64_t id : {first, first + 1, first + 2, first + 4}) {
      sink_->AwaitEnd(id);
    }
  }
}

TEST_F(EngineTest, BadRequestsAreRefused) {
  Start();
  const auto refused = [&](const std::function<void(SequenceRequest&)>& spoil, const std::string& says) {
    SequenceRequest request = Request(1, {5, 6}, 4);
    spoil(request);
    const absl::Status status = Open(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  };
  refused([](auto& r) { r.prompt.clear(); }, "prompt is empty");
  refused([](auto& r) { r.prompt[1] = 1000; }, "prompt[1] is 1000: must be 0 to 999");
  refused([](auto& r) { r.prompt[0] = -1; }, "prompt[0] is -1");
  refused([](auto& r) { r.max_tokens = 0; }, "max_tokens 0");
  refused([](auto& r) { r.max_tokens = 63; }, "exceed the context of 64");
  refused([](auto& r) { r.max_tokens = INT32_MAX; }, "exceed the context of 64");
  refused([](auto& r) { r.stop_ids = {-1}; }, "stop_ids[0] is -1");
  refused([](auto& r) { r.logprobs = 21; }, "logprobs 21");
  refused([](auto& r) { r.prompt_logprobs = -2; }, "prompt_logprobs -2");
  refused([](auto& r) { r.window = 0; }, "window 0");
  refused([](auto& r) { r.sampling.temperature = -0.5F; }, "temperature -0.5");
  refused([](auto& r) { r.sampling.temperature = std::numeric_limits<float>::quiet_NaN(); }, "temperature nan");
  refused([](auto& r) { r.sampling.top_k = -1; }, "top_k -1");
  refused([](auto& r) { r.sampling.top_k = 1025; }, "top_k 1025");
  refused([](auto& r) { r.sampling.top_p = 0.0F; }, "top_p 0");
  refused([](auto& r) { r.sampling.top_p = 1.5F; }, "top_p 1.5");
  refused([](auto& r) { r.sampling.min_p = -1.0F; }, "min_p -1");
  refused([](auto& r) { r.sampling.sample = -1; }, "sample index -1");
  refused([](auto& r) { r.rules.repetition_penalty = 0.0F; }, "repetition_penalty 0");
  refused([](auto& r) { r.rules.presence_penalty = 3.0F; }, "presence_penalty 3");
  refused([](auto& r) { r.rules.bias = {{1000, 1.0F}}; }, "logit_bias of token 1000");
  refused([](auto& r) { r.rules.suppressed = {{0, 1000}}; }, "all 1000 tokens");
  refused([](auto& r) { r.rules.history = {{1, 1, true}}; }, "rules have a history");
  refused([](auto& r) { r.answer_tokens = -1; }, "answer_tokens -1");
  refused([](auto& r) { r.answer_tokens = 2; }, "answer_tokens 2: must be 0 to 1");
  EXPECT_TRUE(Open(Request(1, {5, 6}, 62)).ok());
  EXPECT_EQ(sink_->AwaitEnd(1).ids.size(), 62U);
}

TEST_F(EngineTest, IdInUseIsRefusedUntilItsSequenceEnds) {
  Start();
  runner_->Hold();
  ASSERT_TRUE(Open(Request(1, {5}, 2)).ok());
  EXPECT_EQ(Open(Request(1, {6}, 2)).code(), absl::StatusCode::kInvalidArgument);
  auto other = std::make_shared<RecordingSink>();
  EXPECT_TRUE(engine_->Open(other, Request(1, {6}, 2)).ok());  // ids are the sink's own
  runner_->Release();
  sink_->AwaitEnd(1);
  other->AwaitEnd(1);
  auto again = std::make_shared<RecordingSink>();
  EXPECT_TRUE(Open(Request(2, {6}, 2)).ok());
  sink_->AwaitEnd(2);
}

TEST(EngineCreate, RefusesWhatCannotRun) {
  FakeShardRunner runner(SmallLimits());
  EXPECT_EQ(Engine::Create({.step_tokens = 0}, runner, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Engine::Create({.max_waiting = 0}, runner, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  ShardLimits limits = SmallLimits();
  limits.sliding_blocks = 1;
  FakeShardRunner tight(limits);
  EXPECT_EQ(Engine::Create({}, tight, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace alphecca::engine

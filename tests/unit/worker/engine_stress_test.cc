// Many clients at once, doing everything at random: each opened sequence has exactly one last update, and what it was
// sent is a prefix of its own answer. Run under ThreadSanitizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <thread>

#include "tests/fakes/fake_shard_runner.h"
#include "tests/fakes/recording_sink.h"
#include "worker/engine/engine.h"

namespace alphecca::engine {
namespace {

constexpr int kWindow = 7;
constexpr int64_t kVocab = 50;

ShardLimits Limits() {
  return {.context = 48,
          .vocab = kVocab,
          .sliding_window = kWindow,
          .max_sequences = 5,
          .max_rows = 12,
          .max_logit_rows = 6,
          .block_tokens = 4,
          .full_blocks = 30,
          .sliding_blocks = 26};
}

// One client's life: opens, cancels and credits at random, waits for its sequences or detaches.
void Client(Engine& engine, uint32_t seed) {
  std::mt19937 random(seed);
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  auto sink = std::make_shared<RecordingSink>();
  std::map<uint64_t, SequenceRequest> opened;
  for (uint64_t id = 1; id <= 40; ++id) {
    SequenceRequest request;
    request.id = SequenceId(id);
    request.sampling.seed = seed * 1000 + id;
    request.prompt.resize(static_cast<size_t>(draw(1, 24)));
    std::generate(request.prompt.begin(), request.prompt.end(), [&] { return draw(0, kVocab - 1); });
    request.max_tokens = draw(1, 24);
    request.stop_ids = {draw(0, kVocab - 1)};
    request.priority = draw(-1, 1);
    request.prompt_logprobs = draw(0, 4) == 0 ? 1 : -1;
    request.window = draw(0, 4) == 0 ? 3 : 4096;
    if (engine.Open(sink, request).ok()) {
      opened[id] = request;
    }
    const SequenceId other(static_cast<uint64_t>(draw(1, static_cast<int>(id))));
    switch (draw(0, 5)) {
      case 0:
        engine.Cancel(sink, other);
        break;
      case 1:
        engine.Credit(sink, other, draw(1, 4));
        break;
      case 2:
        sink->AwaitTokens(opened.empty() ? id : opened.begin()->first, opened.empty() ? 0 : 1);
        break;
      default:
        break;
    }
  }
  const bool detaches = draw(0, 3) == 0;
  if (detaches) {
    engine.Detach(sink);
    const int calls = sink->calls();
    engine.Cancel(sink, SequenceId(1));
    EXPECT_EQ(sink->calls(), calls) << "seed " << seed;
  }
  for (const auto& [id, request] : opened) {
    const RecordingSink::Heard heard = detaches ? sink->all()[id] : sink->AwaitEnd(id);
    EXPECT_LE(heard.last_updates, 1);
    EXPECT_FALSE(heard.after_end);
    const std::vector<int32_t> answer =
        FakeAnswer(request.prompt, request.sampling.seed, request.max_tokens, kWindow, kVocab, request.stop_ids);
    ASSERT_LE(heard.ids.size(), answer.size());
    EXPECT_TRUE(std::equal(heard.ids.begin(), heard.ids.end(), answer.begin())) << "seed " << seed << " id " << id;
    if (heard.finish == Finish::kStop || heard.finish == Finish::kLength) {
      EXPECT_EQ(heard.ids, answer) << "seed " << seed << " id " << id;
      EXPECT_EQ(heard.prompt_logprobs.size(), request.prompt_logprobs < 0 ? 0U : request.prompt.size() - 1);
    }
  }
  if (!detaches) {
    engine.Detach(sink);
  }
}

void RunClients(uint32_t seed, bool stop_midway) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  FakeShardRunner runner(Limits());
  auto engine = Engine::Create({.epoch = Epoch(1), .max_waiting = 50}, runner, nullptr);
  ASSERT_TRUE(engine.ok()) << engine.status();
  std::vector<std::thread> clients;
  for (uint32_t client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] { Client(**engine, seed * 10 + client); });
  }
  if (stop_midway) {
    runner.AwaitStep(20);
    (*engine)->Stop(absl::AbortedError("stopped midway"));
  }
  for (std::thread& client : clients) {
    client.join();
  }
  (*engine)->Stop(absl::CancelledError("over"));
  const EngineCounts counts = (*engine)->counts();
  EXPECT_EQ(counts.running, 0);
  EXPECT_EQ(counts.waiting, 0);
  EXPECT_EQ(counts.full_blocks_used, 0);
  EXPECT_EQ(counts.sliding_blocks_used, 0);
}

TEST(EngineStress, ManyClientsAtRandom) {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    RunClients(seed, false);
  }
}

TEST(EngineStress, StoppedMidway) {
  for (uint32_t seed = 100; seed <= 106; ++seed) {
    RunClients(seed, true);
  }
}

}  // namespace
}  // namespace alphecca::engine

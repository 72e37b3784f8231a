// An engine over a FakeShardRunner, and what its tests ask of it.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "tests/fakes/fake_shard_runner.h"
#include "tests/fakes/recording_sink.h"
#include "worker/engine/engine.h"

namespace alphecca::engine {

inline constexpr int kWindow = 5;
inline constexpr int64_t kVocab = 1000;

inline ShardLimits SmallLimits() {
  return {.context = 64,
          .vocab = kVocab,
          .sliding_window = kWindow,
          .max_sequences = 4,
          .max_rows = 16,
          .max_logit_rows = 8,
          .block_tokens = 4,
          .full_blocks = 40,
          .sliding_blocks = 32};
}

inline SequenceRequest Request(uint64_t id, std::vector<int32_t> prompt, int32_t max_tokens) {
  SequenceRequest request;
  request.id = SequenceId(id);
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

inline std::vector<int32_t> Expected(const SequenceRequest& request) {
  return FakeAnswer(request.prompt, request.sampling.seed, request.max_tokens, kWindow, kVocab, request.stop_ids);
}

class EngineTest : public testing::Test {
 protected:
  void Start(const ShardLimits& limits = SmallLimits(), EngineOptions options = {}) {
    options.epoch = Epoch(3);
    options.now = [this] { return absl::FromUnixSeconds(now_s_.load()); };
    runner_ = std::make_unique<FakeShardRunner>(limits);
    auto engine = Engine::Create(options, *runner_, followers_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
  }

  ~EngineTest() override {
    if (runner_ != nullptr) {
      runner_->Release();
    }
    engine_.reset();
    for (const auto& [id, heard] : sink_->all()) {
      EXPECT_FALSE(heard.after_end) << "sequence " << id;
    }
  }

  absl::Status Open(SequenceRequest request) { return engine_->Open(sink_, std::move(request)); }

  std::atomic<int64_t> now_s_{1000};
  Followers* followers_ = nullptr;
  std::unique_ptr<FakeShardRunner> runner_;
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<RecordingSink> sink_ = std::make_shared<RecordingSink>();
};

}  // namespace alphecca::engine

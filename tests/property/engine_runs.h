// Whole groups inside the test, on the embedded models: open sequences, collect answers.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "model/checkpoint.h"
#include "model/weight_type.h"
#include "tests/fakes/recording_sink.h"
#include "worker/engine/engine.h"
#include "worker/engine/local_group.h"

namespace alphecca::engine {

// What makes a run: how the model is held and split, and how steps are cut.
struct RunOptions {
  std::string model = "tiny-moe";
  int tp = 1;
  int ep = 1;
  model::ExpertMode expert_mode = model::ExpertMode::kFused;
  model::ExpertReplicas replicas = {};
  int64_t step_tokens = 256;
  int max_sequences = 8;
  int block_tokens = 16;
  int64_t full_blocks = 0;  // 0: as many as sequences may want
  kernels::DType kv_type = kernels::DType::kBF16;
  model::WeightType weights = model::WeightType::kAsFile;
  int threads = 1;  // of each rank
};

inline std::shared_ptr<const model::Checkpoint> OpenModel(const std::string& name) {
  auto checkpoint = model::Checkpoint::Open(std::string(ALPHECCA_MODELS) + "/" + name);
  if (!checkpoint.ok()) {
    ADD_FAILURE() << name << ": " << checkpoint.status();
    return nullptr;
  }
  return std::move(*checkpoint);
}

inline std::unique_ptr<LocalGroup> MakeGroup(const model::Checkpoint& checkpoint, const RunOptions& options) {
  LocalGroupOptions group;
  group.sharding = {.tp = options.tp, .ep = options.ep, .mode = options.expert_mode, .replicas = options.replicas};
  group.backend = [threads = options.threads](int) -> absl::StatusOr<std::unique_ptr<kernels::Backend>> {
    return kernels::CreateCpuBackend({.threads = threads});
  };
  group.shard.context = 512;
  group.shard.max_sequences = options.max_sequences;
  group.shard.max_rows = 256;
  group.shard.block_tokens = options.block_tokens;
  group.shard.full_blocks = options.full_blocks;
  group.shard.kv_type = options.kv_type;
  group.shard.weights = options.weights;
  auto made = LocalGroup::Create(checkpoint, group);
  if (!made.ok()) {
    ADD_FAILURE() << made.status();
    return nullptr;
  }
  return std::move(*made);
}

using Answers = std::map<uint64_t, RecordingSink::Heard>;

// Opens the requests on an engine of its own, all before anyone hears of a token or each when the one before has ended,
// and waits for their ends. `counts`: the engine's then, but in `running` the most that ran at once.
inline Answers RunAll(LocalGroup& group, int64_t step_tokens, uint64_t epoch,
                      const std::vector<SequenceRequest>& requests, bool in_turn = false,
                      EngineCounts* counts = nullptr) {
  Answers answers;
  auto sink = std::make_shared<RecordingSink>();
  int most_running = 0;
  std::promise<void> all_open;
  sink->set_on_step([ready = all_open.get_future().share(), heard = sink.get(), &most_running] {
    ready.wait();
    most_running = std::max(most_running, heard->running());
  });
  if (in_turn) {
    all_open.set_value();
  }
  auto engine = Engine::Create({.epoch = Epoch(epoch), .step_tokens = step_tokens}, group.runner(0), group.followers());
  if (!engine.ok()) {
    ADD_FAILURE() << engine.status();
    return answers;
  }
  std::vector<uint64_t> opened;
  for (const SequenceRequest& request : requests) {
    const absl::Status status = (*engine)->Open(sink, request);
    EXPECT_TRUE(status.ok()) << status;
    if (status.ok()) {
      opened.push_back(request.id.value);
    }
    if (in_turn && status.ok()) {
      sink->AwaitEnd(request.id.value);
    }
  }
  if (!in_turn) {
    all_open.set_value();
  }
  for (const uint64_t id : opened) {
    answers[id] = sink->AwaitEnd(id);
    EXPECT_TRUE(answers[id].error.ok()) << answers[id].error;
  }
  if (counts != nullptr) {
    *counts = (*engine)->counts();
    counts->running = most_running;
  }
  return answers;
}

// As above, on a group made for it.
inline Answers RunFresh(const RunOptions& options, const std::vector<SequenceRequest>& requests) {
  const auto checkpoint = OpenModel(options.model);
  if (checkpoint == nullptr) {
    return {};
  }
  const auto group = MakeGroup(*checkpoint, options);
  return group == nullptr ? Answers{} : RunAll(*group, options.step_tokens, 1, requests);
}

inline SequenceRequest MakeRequest(uint64_t id, std::vector<int32_t> prompt, int32_t max_tokens) {
  SequenceRequest request;
  request.id = SequenceId(id);
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  return request;
}

// A prompt of n tokens that is not a repetition.
inline std::vector<int32_t> MakePrompt(int n, int32_t salt) {
  std::vector<int32_t> prompt = {2};
  uint32_t state = 12345U + static_cast<uint32_t>(salt) * 7919U;
  while (static_cast<int>(prompt.size()) < n) {
    state = state * 1664525U + 1013904223U;
    prompt.push_back(static_cast<int32_t>(100 + (state >> 16) % 900));
  }
  return prompt;
}

inline void SampleWith(SequenceRequest& request, uint64_t seed, float temperature, int32_t top_k, float top_p) {
  request.sampling.seed = seed;
  request.sampling.temperature = temperature;
  request.sampling.top_k = top_k;
  request.sampling.top_p = top_p;
}

// Ids and every bit of the log-probabilities.
inline void ExpectSameBits(const RecordingSink::Heard& a, const RecordingSink::Heard& b) {
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.finish, b.finish);
  const auto same = [](const std::vector<StepChoice>& x, const std::vector<StepChoice>& y) {
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(x[i].token, y[i].token) << i;
      ASSERT_EQ(x[i].logprob, y[i].logprob) << i;
      ASSERT_EQ(x[i].top.size(), y[i].top.size()) << i;
      for (size_t j = 0; j < x[i].top.size(); ++j) {
        ASSERT_EQ(x[i].top[j].token, y[i].top[j].token) << i;
        ASSERT_EQ(x[i].top[j].logit, y[i].top[j].logit) << i;
      }
    }
  };
  same(a.logprobs, b.logprobs);
  same(a.prompt_logprobs, b.prompt_logprobs);
}

}  // namespace alphecca::engine

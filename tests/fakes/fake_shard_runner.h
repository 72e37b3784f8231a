// A shard without a model. It keeps the tokens of each sequence in paged memory just as KV is kept, and what it
// "samples" is a hash of the tokens that a row sees through the block tables: a block that is shared, lost or given
// back too early changes the answer. Plans are checked as a real runner checks them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "common/status_macros.h"
#include "worker/engine/block_manager.h"
#include "worker/engine/plan_check.h"
#include "worker/engine/shard_runner.h"

namespace alphecca::engine {

// What the fake samples after `tokens` (a whole sequence), for a window of `window` tokens.
inline int32_t FakeNextToken(const std::vector<int32_t>& tokens, uint64_t seed, int window, int64_t vocab) {
  uint64_t hash = 1469598103934665603U ^ seed;
  const auto mix = [&hash](int32_t token) { hash = (hash ^ static_cast<uint32_t>(token)) * 1099511628211U; };
  for (const int32_t token : tokens) {
    mix(token);
  }
  const size_t first = tokens.size() > static_cast<size_t>(window) ? tokens.size() - static_cast<size_t>(window) : 0;
  for (size_t i = first; i < tokens.size(); ++i) {
    mix(tokens[i]);
  }
  return static_cast<int32_t>((hash >> 20) % static_cast<uint64_t>(vocab));
}

// The whole answer to a prompt: up to max_tokens, or to the first of stop_ids.
inline std::vector<int32_t> FakeAnswer(std::vector<int32_t> tokens, uint64_t seed, int32_t max_tokens, int window,
                                       int64_t vocab, const std::vector<int32_t>& stop_ids = {}) {
  std::vector<int32_t> answer;
  while (static_cast<int32_t>(answer.size()) < max_tokens) {
    answer.push_back(FakeNextToken(tokens, seed, window, vocab));
    tokens.push_back(answer.back());
    for (const int32_t stop : stop_ids) {
      if (answer.back() == stop) {
        return answer;
      }
    }
  }
  return answer;
}

class FakeShardRunner final : public ShardRunner {
 public:
  explicit FakeShardRunner(const ShardLimits& limits) : limits_(limits), check_(limits) {
    const int64_t columns = BlocksFor(limits.context, limits.block_tokens);
    const int64_t blocks[2] = {limits.full_blocks, limits.sliding_blocks};
    for (int pool = 0; pool < 2; ++pool) {
      tables_[pool].assign(static_cast<size_t>(limits.max_sequences * columns), -1);
      memory_[pool].assign(static_cast<size_t>(blocks[pool] * limits.block_tokens), -1);
    }
    seeds_.resize(static_cast<size_t>(limits.max_sequences));
    last_.resize(static_cast<size_t>(limits.max_sequences), -1);
  }

  // --- Control by the test. From the start steps run freely.
  // From now on a step waits until it is allowed.
  void Hold() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    allowed_ = 0;
  }
  void Allow(int steps) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    allowed_ = allowed_.value_or(0) + steps;
    changed_.NotifyAll();
  }
  void Release() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    allowed_.reset();
    changed_.NotifyAll();
  }
  // Until the step of this number waits to be allowed (or has run).
  void AwaitStep(uint64_t step) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    while (arrived_ < step) {
      changed_.Wait(mutex_);
    }
  }
  // The next step to run fails.
  void Fail(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    failure_ = std::move(status);
  }
  std::vector<StepPlan> plans() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    return plans_;
  }

  // --- ShardRunner.
  const ShardLimits& limits() const override { return limits_; }
  forward::Gemma& gemma() override { std::abort(); }
  int64_t weight_bytes() const override { return 0; }
  int64_t kv_bytes() const override { return 0; }
  std::string fingerprint() const override { return "fake"; }
  absl::StatusOr<forward::ExpertLoad> ReadExpertLoad() override { return forward::ExpertLoad(); }

  absl::StatusOr<StepResult> Run(const StepPlan& plan) override {
    {
      MutexLock lock(mutex_);
      plans_.push_back(plan);
      arrived_ = plan.step;
      changed_.NotifyAll();
      while (allowed_.has_value() && *allowed_ == 0) {
        changed_.Wait(mutex_);
      }
      if (allowed_.has_value()) {
        --*allowed_;
      }
      if (failure_.has_value()) {
        return *failure_;
      }
    }
    RETURN_IF_ERROR(check_.Check(plan));
    Write(plan);
    return Answer(plan);
  }

 private:
  int32_t& Cell(int pool, int32_t slot, int64_t position) {
    const int64_t columns = BlocksFor(limits_.context, limits_.block_tokens);
    const int32_t block = tables_[pool][static_cast<size_t>(slot * columns + position / limits_.block_tokens)];
    return memory_[pool][static_cast<size_t>(int64_t{block} * limits_.block_tokens + position % limits_.block_tokens)];
  }

  void Write(const StepPlan& plan) {
    const int64_t columns = BlocksFor(limits_.context, limits_.block_tokens);
    for (const OpenSlot& open : plan.opens) {
      seeds_[static_cast<size_t>(open.slot)] = open.sampling.seed;
    }
    for (int pool = 0; pool < 2; ++pool) {
      for (const kernels::BlockTableUpdate& update : plan.tables[pool]) {
        tables_[pool][static_cast<size_t>(update.slot * columns + update.index)] = update.block;
      }
    }
    for (int pool = 0; pool < 2; ++pool) {
      for (const BlockCopy& copy : plan.copies[pool]) {
        const auto at = [&](int32_t block) { return memory_[pool].begin() + int64_t{block} * limits_.block_tokens; };
        std::copy_n(at(copy.from), limits_.block_tokens, at(copy.to));
      }
    }
    for (const PlanRow& row : plan.rows) {
      for (int pool = 0; pool < 2; ++pool) {
        if (!memory_[pool].empty()) {
          Cell(pool, row.slot, row.position) = row.token < 0 ? last_[static_cast<size_t>(row.slot)] : row.token;
        }
      }
    }
  }

  StepResult Answer(const StepPlan& plan) {
    StepResult result{.epoch = plan.epoch, .step = plan.step, .choices = {}};
    for (const LogitRequest& request : plan.logits) {
      const PlanRow& row = plan.rows[static_cast<size_t>(request.row)];
      std::vector<int32_t> seen;
      for (int64_t position = 0; position <= row.position; ++position) {
        seen.push_back(Cell(0, row.slot, position));
      }
      // The window's tokens come from the sliding pool, so that what it lost shows.
      std::vector<int32_t> mixed = seen;
      if (!memory_[1].empty()) {
        const int64_t first = std::max<int64_t>(0, row.position + 1 - limits_.sliding_window);
        for (int64_t position = first; position <= row.position; ++position) {
          if (Cell(1, row.slot, position) != seen[static_cast<size_t>(position)]) {
            mixed.back() = -7;  // an answer that no test expects
          }
        }
      }
      StepChoice choice;
      choice.token = FakeNextToken(mixed, seeds_[static_cast<size_t>(row.slot)], limits_.sliding_window, limits_.vocab);
      choice.logprob = -1.0F - static_cast<float>(choice.token);
      choice.wanted_logprob = request.wanted < 0 ? 0.0F : -0.5F - static_cast<float>(request.wanted);
      for (int32_t i = 0; i < kernels::kMaxTopLogprobs; ++i) {
        choice.top.push_back({i, -static_cast<float>(i)});
      }
      if (request.keep) {
        last_[static_cast<size_t>(row.slot)] = choice.token;
      }
      result.choices.push_back(std::move(choice));
    }
    return result;
  }

  const ShardLimits limits_;
  PlanCheck check_;
  std::vector<int32_t> tables_[2];  // [slots, columns]
  std::vector<int32_t> memory_[2];  // the token at each place of each block
  std::vector<uint64_t> seeds_;     // by slot
  std::vector<int32_t> last_;       // by slot

  Mutex mutex_;
  CondVar changed_;
  std::optional<int> allowed_ ABSL_GUARDED_BY(mutex_);
  uint64_t arrived_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<absl::Status> failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<StepPlan> plans_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::engine

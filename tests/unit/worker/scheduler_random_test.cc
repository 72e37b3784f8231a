// The scheduler against a naive device: a model of paged KV that remembers, for each place of each block, which prefix
// of tokens was written there. Every row checks that it sees, at every position it may see, its own sequence's prefix.
// So tables, copies, evictions, shared blocks and returns after giving way are right or a row finds something else.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "worker/engine/scheduler.h"

namespace alphecca::engine {
namespace {

constexpr kernels::PoolKind kPools[] = {kernels::kFullPool, kernels::kSlidingPool};
constexpr model::PrefixKey kKey = {1, 2};

// Names the tokens up to and with one position.
using Content = model::BlockHash;

class NaiveDevice {
 public:
  explicit NaiveDevice(const SchedulerOptions& options) : options_(options), tables_(kMostSlots) {
    for (const auto pool : kPools) {
      const int64_t blocks = pool == kernels::kFullPool ? options.full_blocks : options.sliding_blocks;
      for (int owner = 0; owner < options.owners; ++owner) {
        memory_[pool].emplace_back(static_cast<size_t>(blocks * options.block_tokens));
      }
    }
  }

  // `contents` gives the content of a sequence at each position up to the share's end.
  void Run(const Batch& batch, const std::map<uint64_t, std::vector<Content>>& contents) {
    for (const Share& share : batch.shares) {
      owners_[share.slot] = share.owner;
      if (share.opens) {
        tables_[static_cast<size_t>(share.slot)] = {};
      }
    }
    for (const auto pool : kPools) {
      for (const kernels::BlockTableUpdate& update : batch.tables[pool]) {
        tables_[static_cast<size_t>(update.slot)].blocks[pool][update.index] = update.block;
      }
      for (const BlockCopy& copy : batch.copies[pool]) {
        for (int i = 0; i < options_.block_tokens; ++i) {
          Place(pool, owners_.at(copy.slot), copy.to, i) = Place(pool, owners_.at(copy.slot), copy.from, i);
        }
      }
    }
    for (const Share& share : batch.shares) {
      for (int64_t p = share.begin; p < share.end; ++p) {
        ForPools([&](auto pool) { *At(pool, share, p) = contents.at(share.key.value)[static_cast<size_t>(p)]; });
      }
    }
    for (const Share& share : batch.shares) {
      for (int64_t p = share.begin; p < share.end; ++p) {
        ForPools([&](auto pool) {
          const int64_t first = pool == kernels::kFullPool ? 0 : std::max<int64_t>(p - options_.sliding_window + 1, 0);
          for (int64_t seen = first; seen <= p; ++seen) {
            const auto* place = At(pool, share, seen);
            ASSERT_NE(place, nullptr) << "no block for position " << seen;
            ASSERT_TRUE(*place == contents.at(share.key.value)[static_cast<size_t>(seen)])
                << "row " << p << " of sequence " << share.key.value << " sees another's token at " << seen
                << " in pool " << pool;
          }
        });
      }
    }
  }

 private:
  static constexpr size_t kMostSlots = 16;
  struct Table {
    std::array<std::map<int64_t, int32_t>, 2> blocks;
  };
  template <typename F>
  void ForPools(const F& f) {
    for (const auto pool : kPools) {
      if (!memory_[pool][0].empty()) {
        f(pool);
      }
    }
  }
  std::optional<Content>& Place(kernels::PoolKind pool, int owner, int32_t block, int64_t offset) {
    return memory_[pool][static_cast<size_t>(owner)].at(static_cast<size_t>(block * options_.block_tokens + offset));
  }
  std::optional<Content>* At(kernels::PoolKind pool, const Share& share, int64_t position) {
    const auto& blocks = tables_[static_cast<size_t>(share.slot)].blocks[pool];
    const auto block = blocks.find(position / options_.block_tokens);
    return block == blocks.end() ? nullptr : &Place(pool, share.owner, block->second, position % options_.block_tokens);
  }

  const SchedulerOptions options_;
  std::vector<std::vector<std::optional<Content>>> memory_[2];  // by owner
  std::vector<Table> tables_;
  std::map<int, int> owners_;  // by slot
};

struct Running {
  std::vector<int32_t> tokens;    // known to the host
  std::vector<Content> contents;  // of these, and of those only the device knows
  std::vector<int32_t> device;    // all tokens
  int64_t prompt = 0;
  int64_t max_tokens = 0;
  int64_t ends_at = 0;  // tokens it generates before a stop token
  bool uses_cache = false;
  bool prompt_logits = false;
  bool one_at_a_time = false;
  absl::Time deadline = absl::InfiniteFuture();
};

class Simulation {
 public:
  explicit Simulation(uint32_t seed)
      : random_(seed),
        options_{.step_tokens = Draw(1, 20),
                 .logit_rows = Draw(1, 8),
                 .max_sequences = static_cast<int>(Draw(1, 6)),
                 .owners = Draw(0, 3) == 0 ? 2 : 1,
                 .block_tokens = static_cast<int>(Draw(1, 6)),
                 .full_blocks = Draw(0, 5) == 0 ? 0 : Draw(10, 40),
                 .sliding_blocks = 0,
                 .sliding_window = static_cast<int>(Draw(1, 10)),
                 .step_time = Draw(0, 1) == 0 ? absl::InfiniteDuration() : absl::Milliseconds(20)},
        hasher_(kKey, "revision", options_.block_tokens) {
    if (options_.full_blocks == 0 || Draw(0, 3) > 0) {
      options_.sliding_blocks = Draw(12, 40);
    }
    device_.emplace(options_);
  }

  void Go() {
    auto created = Scheduler::Create(options_);
    ASSERT_TRUE(created.ok()) << created.status();
    scheduler_.emplace(*std::move(created));
    for (int operation = 0; operation < 150; ++operation) {
      const int64_t kind = Draw(0, 9);
      if (kind < 2) {
        ASSERT_NO_FATAL_FAILURE(Add());
      } else if (kind == 2 && keys_ > 0) {
        const SequenceKey key(static_cast<uint64_t>(Draw(1, static_cast<int64_t>(keys_))));
        ASSERT_EQ(scheduler_->Remove(key), live_.erase(key.value) > 0);
      } else if (kind == 3) {
        ASSERT_NO_FATAL_FAILURE(Expire());
      } else {
        ASSERT_NO_FATAL_FAILURE(Step());
      }
      ASSERT_EQ(scheduler_->running() + scheduler_->waiting(), static_cast<int>(live_.size()));
    }
    // Left alone, everything ends, each in as many steps as it has tokens, though some are computed again.
    int64_t bound = 10;
    for (const auto& [key, sequence] : live_) {
      bound += 3 * (sequence.prompt + sequence.max_tokens) * static_cast<int64_t>(live_.size() + 1);
    }
    while (!live_.empty()) {
      ASSERT_GE(bound--, 0) << "no progress";
      ASSERT_NO_FATAL_FAILURE(Step());
    }
    EXPECT_EQ(scheduler_->blocks_used(kernels::kFullPool), 0);
    EXPECT_EQ(scheduler_->blocks_used(kernels::kSlidingPool), 0);
  }

  int64_t preemptions() const { return scheduler_->counts().preemptions; }
  int64_t cached() const { return scheduler_->counts().cached_tokens; }

 private:
  int64_t Draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }

  Content After(const std::vector<int32_t>& tokens) const { return hasher_.Next(hasher_.Root("content"), tokens); }

  void Expire() {
    now_ += absl::Seconds(Draw(0, 3));
    std::vector<SequenceKey> expired;
    for (const auto& [key, sequence] : live_) {
      if (sequence.deadline <= now_) {
        expired.emplace_back(key);
      }
    }
    ASSERT_EQ(scheduler_->TakeExpired(now_), expired);
    for (const SequenceKey key : expired) {
      live_.erase(key.value);
    }
  }

  void Add() {
    Running sequence;
    sequence.prompt = Draw(1, 30);
    // Few tokens and a common beginning: prefixes are shared, and whole prompts.
    for (int64_t i = 0; i < sequence.prompt; ++i) {
      sequence.tokens.push_back(i < 12 ? static_cast<int32_t>(i) : static_cast<int32_t>(Draw(0, 1)));
    }
    sequence.max_tokens = Draw(1, 16);
    sequence.ends_at = Draw(1, 2 * sequence.max_tokens);
    sequence.uses_cache = Draw(0, 3) > 0;
    sequence.prompt_logits = Draw(0, 5) == 0;
    sequence.one_at_a_time = Draw(0, 5) == 0;
    sequence.deadline = Draw(0, 3) == 0 ? now_ + absl::Seconds(Draw(0, 20)) : absl::InfiniteFuture();
    sequence.device = sequence.tokens;
    for (size_t i = 1; i <= sequence.tokens.size(); ++i) {
      sequence.contents.push_back(After({sequence.tokens.begin(), sequence.tokens.begin() + static_cast<long>(i)}));
    }
    Arrival arrival{.key = SequenceKey(++keys_),
                    .prompt_tokens = sequence.prompt,
                    .max_tokens = sequence.max_tokens,
                    .prompt_logits = sequence.prompt_logits,
                    .one_at_a_time = sequence.one_at_a_time,
                    .names = {},
                    .whole = std::nullopt,
                    .tenant = Draw(0, 1) == 0 ? "a" : "b",
                    .weight = 1.0,
                    .priority = static_cast<int32_t>(Draw(-1, 1)),
                    .deadline = sequence.deadline};
    if (sequence.uses_cache) {
      arrival.names = hasher_.Blocks("t", sequence.tokens);
      arrival.whole = After(sequence.tokens);
    }
    const bool fits = scheduler_->Fits(sequence.prompt + sequence.max_tokens);
    ASSERT_EQ(scheduler_->Add(arrival).ok(), fits);
    if (fits) {
      live_.emplace(keys_, std::move(sequence));
    }
  }

  // Plans a step, which the device runs, unless two results are awaited; or takes in the oldest result.
  void Step() {
    if (in_flight_.size() == 2 || (!in_flight_.empty() && Draw(0, 1) == 0)) {
      TakeResult();
      return;
    }
    auto batch = scheduler_->Next();
    ASSERT_TRUE(batch.ok()) << batch.status();
    if (batch->shares.empty()) {
      ASSERT_TRUE(!in_flight_.empty() || live_.empty()) << "nothing runs though somebody waits";
      if (!in_flight_.empty()) {
        TakeResult();
      }
      return;
    }
    ASSERT_NO_FATAL_FAILURE(CheckBatch(*batch));
    std::map<uint64_t, std::vector<Content>> contents;
    for (const Share& share : batch->shares) {
      contents[share.key.value] = live_.at(share.key.value).contents;
    }
    ASSERT_NO_FATAL_FAILURE(device_->Run(*batch, contents));
    for (const Share& share : batch->shares) {
      if (share.samples) {
        Running& sequence = live_.at(share.key.value);
        ASSERT_EQ(share.end, static_cast<int64_t>(sequence.device.size())) << "samples from a row that is not its last";
        sequence.device.push_back(static_cast<int32_t>(sequence.contents.back().lo % 2));
        sequence.contents.push_back(After(sequence.device));
      }
    }
    in_flight_.push_back(*std::move(batch));
  }

  void CheckBatch(const Batch& batch) {
    int64_t rows = 0;
    int64_t logits = 0;
    std::set<int> used;
    for (const Share& share : batch.shares) {
      ASSERT_TRUE(used.insert(share.slot).second) << "a slot has two sequences";
      ASSERT_TRUE(live_.contains(share.key.value));
      const Running& sequence = live_.at(share.key.value);
      ASSERT_LT(share.begin, share.end);
      ASSERT_LE(share.end, static_cast<int64_t>(sequence.device.size())) << "a row whose token does not exist";
      ASSERT_LE(share.end, sequence.prompt + sequence.max_tokens - 1);
      rows += share.end - share.begin;
      const bool all_logits = sequence.prompt_logits && share.begin < sequence.prompt;
      logits += all_logits ? share.end - share.begin : static_cast<int64_t>(share.samples);
      ASSERT_TRUE(!share.decodes || !sequence.one_at_a_time || sequence.device.size() == sequence.tokens.size())
          << "a token is not known yet";
      if (share.opens) {
        ASSERT_TRUE(sequence.uses_cache || share.begin == 0);
        slots_[share.key.value] = share.slot;
        sampled_[share.key.value] = false;
        next_[share.key.value] = share.begin;
      }
      ASSERT_EQ(slots_.at(share.key.value), share.slot);
      ASSERT_EQ(next_.at(share.key.value), share.begin);
      next_[share.key.value] = share.end;
      ASSERT_TRUE(!share.decodes || sampled_[share.key.value]) << "its slot has no token";
      sampled_[share.key.value] = sampled_[share.key.value] || share.samples;
    }
    ASSERT_EQ(rows, batch.decode_rows + batch.prompt_rows);
    ASSERT_LE(rows, options_.step_tokens);
    ASSERT_LE(logits, options_.logit_rows);
    ASSERT_LE(scheduler_->running(), options_.max_sequences);
  }

  void TakeResult() {
    const Batch batch = in_flight_.front();
    in_flight_.pop_front();
    scheduler_->StepTook(batch, absl::Milliseconds(Draw(1, 60)));
    for (const Share& share : batch.shares) {
      const auto found = live_.find(share.key.value);
      if (found == live_.end() || !share.samples) {
        continue;
      }
      Running& sequence = found->second;
      sequence.tokens.push_back(sequence.device[sequence.tokens.size()]);
      std::optional<model::BlockHash> name;
      if (sequence.uses_cache && sequence.tokens.size() % static_cast<size_t>(options_.block_tokens) == 0) {
        name = hasher_.Blocks("t", sequence.tokens).back();
      }
      scheduler_->Sampled(share.key, name);
      const int64_t generated = static_cast<int64_t>(sequence.tokens.size()) - sequence.prompt;
      if (generated == std::min(sequence.max_tokens, sequence.ends_at)) {
        ASSERT_TRUE(scheduler_->Remove(share.key));
        live_.erase(found);
      }
    }
  }

  std::mt19937 random_;
  SchedulerOptions options_;
  model::PrefixHasher hasher_;
  std::optional<NaiveDevice> device_;
  std::optional<Scheduler> scheduler_;
  std::map<uint64_t, Running> live_;
  std::map<uint64_t, int> slots_;
  std::map<uint64_t, int64_t> next_;
  std::map<uint64_t, bool> sampled_;  // since its slot was opened
  std::deque<Batch> in_flight_;
  absl::Time now_ = absl::UnixEpoch();
  uint64_t keys_ = 0;
};

TEST(SchedulerRandom, EveryRowSeesItsOwnSequence) {
  int64_t preemptions = 0;
  int64_t cached = 0;
  for (uint32_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Simulation simulation(seed);
    ASSERT_NO_FATAL_FAILURE(simulation.Go());
    preemptions += simulation.preemptions();
    cached += simulation.cached();
  }
  // The seeds reach what they are to test.
  EXPECT_GT(preemptions, 500);
  EXPECT_GT(cached, 10000);
}

}  // namespace
}  // namespace alphecca::engine

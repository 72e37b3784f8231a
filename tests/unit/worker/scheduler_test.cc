#include "worker/engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace alphecca::engine {
namespace {

SchedulerOptions Small() {
  return {.step_tokens = 10,
          .logit_rows = 6,
          .max_sequences = 3,
          .block_tokens = 4,
          .full_blocks = 30,
          .sliding_blocks = 20,
          .sliding_window = 6};
}

Arrival Of(uint64_t key, int64_t prompt, int64_t max_tokens, int32_t priority = 0) {
  return {.key = SequenceKey(key),
          .prompt_tokens = prompt,
          .max_tokens = max_tokens,
          .prompt_logits = false,
          .priority = priority};
}

std::vector<uint64_t> Keys(const Batch& batch) {
  std::vector<uint64_t> keys;
  for (const Share& share : batch.shares) {
    keys.push_back(share.key.value);
  }
  return keys;
}

using KeyList = std::vector<uint64_t>;

TEST(Scheduler, DecodesGoFirstThenPromptsFillTheStep) {
  auto scheduler = Scheduler::Create(Small());
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 2, 10)).ok());
  ASSERT_TRUE(scheduler->Next().ok());
  ASSERT_TRUE(scheduler->Add(Of(2, 25, 4)).ok());
  ASSERT_TRUE(scheduler->Add(Of(3, 3, 4)).ok());
  auto batch = scheduler->Next();
  ASSERT_TRUE(batch.ok());
  ASSERT_EQ(Keys(*batch), (KeyList{1, 2}));
  EXPECT_EQ(batch->shares[0].begin, 2);
  EXPECT_TRUE(batch->shares[0].samples);
  EXPECT_EQ(batch->shares[1].end, 9);
  EXPECT_TRUE(batch->shares[1].opens);
  EXPECT_FALSE(batch->shares[1].samples);
  batch = scheduler->Next();
  EXPECT_EQ(Keys(*batch), (KeyList{1, 2}));
  batch = scheduler->Next();
  EXPECT_EQ(Keys(*batch), (KeyList{1, 2, 3}));  // 1 + 7 + 2 rows
  EXPECT_TRUE(batch->shares[1].samples);
  EXPECT_EQ(batch->shares[2].end, 2);
}

TEST(Scheduler, NobodyOvertakesTheHeadOfTheQueue) {
  auto scheduler = Scheduler::Create(Small());
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 2, 70)).ok());  // 18 of 30 blocks
  ASSERT_TRUE(scheduler->Next().ok());
  ASSERT_TRUE(scheduler->Add(Of(2, 2, 60)).ok());  // 16: must wait
  ASSERT_TRUE(scheduler->Add(Of(3, 2, 2)).ok());
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{1}));
  EXPECT_EQ(scheduler->waiting(), 2);
  EXPECT_TRUE(scheduler->Remove(SequenceKey(1)));
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{2, 3}));
}

TEST(Scheduler, SequencesSpreadOverOwnersWithPoolsOfTheirOwn) {
  SchedulerOptions options = Small();
  options.owners = 2;
  options.max_sequences = 4;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  for (uint64_t key = 1; key <= 4; ++key) {
    ASSERT_TRUE(scheduler->Add(Of(key, 2, key == 1 ? 108 : 10)).ok());
  }
  const auto batch = scheduler->Next();
  ASSERT_TRUE(batch.ok());
  ASSERT_EQ(Keys(*batch), (KeyList{1, 2, 3, 4}));
  // 3 finds one sequence with each owner, but 1 has reserved nearly all blocks of the first.
  std::vector<int> owners;
  for (const Share& share : batch->shares) {
    owners.push_back(share.owner);
  }
  EXPECT_EQ(owners, (std::vector<int>{0, 1, 1, 1}));
  EXPECT_EQ(scheduler->blocks_used(kernels::kFullPool), 4);
  EXPECT_TRUE(scheduler->Remove(SequenceKey(1)));
  EXPECT_TRUE(scheduler->Remove(SequenceKey(3)));
  ASSERT_TRUE(scheduler->Add(Of(5, 2, 10)).ok());
  EXPECT_EQ(scheduler->Next()->shares.back().owner, 0);
}

TEST(Scheduler, PromptsOfDifferentOwnersShareAStep) {
  SchedulerOptions options = Small();
  options.owners = 2;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 30, 4)).ok());
  ASSERT_TRUE(scheduler->Add(Of(2, 30, 4)).ok());
  const auto batch = scheduler->Next();
  ASSERT_TRUE(batch.ok());
  ASSERT_EQ(Keys(*batch), (KeyList{1, 2}));
  EXPECT_EQ(batch->shares[0].end, 5);
  EXPECT_EQ(batch->shares[1].end, 5);
}

TEST(Scheduler, PriorityThenArrival) {
  SchedulerOptions options = Small();
  options.max_sequences = 1;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 1, 1, -3)).ok());
  ASSERT_TRUE(scheduler->Add(Of(2, 1, 1, 0)).ok());
  ASSERT_TRUE(scheduler->Add(Of(3, 1, 1, 7)).ok());
  ASSERT_TRUE(scheduler->Add(Of(4, 1, 1, 0)).ok());
  for (const uint64_t expected : {3, 2, 4, 1}) {
    EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{expected}));
    EXPECT_TRUE(scheduler->Next()->shares.empty());  // it has its one token
    EXPECT_TRUE(scheduler->Remove(SequenceKey(expected)));
  }
  EXPECT_FALSE(scheduler->Remove(SequenceKey(1)));
}

TEST(Scheduler, TakesOutWhatExpired) {
  auto scheduler = Scheduler::Create(Small());
  ASSERT_TRUE(scheduler.ok());
  for (uint64_t key = 1; key <= 5; ++key) {
    Arrival arrival = Of(key, 3, 3);
    arrival.deadline = absl::FromUnixSeconds(static_cast<int64_t>(key % 2 == 0 ? 10 : 20));
    ASSERT_TRUE(scheduler->Add(arrival).ok());
  }
  ASSERT_TRUE(scheduler->Next().ok());
  EXPECT_TRUE(scheduler->TakeExpired(absl::FromUnixSeconds(9)).empty());
  EXPECT_EQ(scheduler->TakeExpired(absl::FromUnixSeconds(10)),
            (std::vector<SequenceKey>{SequenceKey(2), SequenceKey(4)}));
  EXPECT_EQ(scheduler->running(), 2);
  EXPECT_EQ(scheduler->waiting(), 1);
}

TEST(Scheduler, PromptLogitsBoundTheChunk) {
  auto scheduler = Scheduler::Create(Small());
  ASSERT_TRUE(scheduler.ok());
  Arrival arrival = Of(1, 8, 2);
  arrival.prompt_logits = true;
  ASSERT_TRUE(scheduler->Add(arrival).ok());
  auto batch = scheduler->Next();
  ASSERT_EQ(batch->shares.size(), 1U);
  EXPECT_EQ(batch->shares[0].end, 6);
  batch = scheduler->Next();
  EXPECT_EQ(batch->shares[0].end, 8);
  EXPECT_TRUE(batch->shares[0].samples);
}

TEST(Scheduler, RefusesWhatNeverFits) {
  auto scheduler = Scheduler::Create(Small());
  ASSERT_TRUE(scheduler.ok());
  EXPECT_EQ(scheduler->Add(Of(1, 100, 21)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(scheduler->Add(Of(1, 0, 21)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(scheduler->Add(Of(1, 1, 0)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(scheduler->Add(Of(1, 100, 20)).ok());
  EXPECT_EQ(scheduler->Add(Of(1, 1, 1)).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Scheduler, SmallSlidingPoolShortensChunks) {
  SchedulerOptions options = Small();
  options.sliding_blocks = 3;  // 3 blocks hold any run of 9 positions: a window of 6 and 4 rows
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 30, 5)).ok());
  for (int64_t end = 4; end < 30; end += 4) {
    auto batch = scheduler->Next();
    ASSERT_TRUE(batch.ok()) << batch.status();
    ASSERT_EQ(batch->shares[0].end, end);
  }
  options.sliding_blocks = 2;
  EXPECT_EQ(Scheduler::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

// ---- Random operations ----------------------------------------------------------------------------------------------

// The naive model: plain lists, every rule of the header spelled out, blocks only counted.
class Oracle {
 public:
  explicit Oracle(const SchedulerOptions& options) : options_(options) {
    slots_ = std::min({int64_t{options.max_sequences}, options.step_tokens, options.logit_rows});
    chunk_ = options.step_tokens;
    while (options.sliding_blocks > 0 &&
           SlidingBlocksFor(1 << 20, options.sliding_window, chunk_, options.block_tokens) > options.sliding_blocks) {
      --chunk_;
    }
  }

  struct Entry {
    Arrival arrival;
    int64_t next = 0;
  };

  void Add(const Arrival& arrival) {
    auto place = std::find_if(waiting.begin(), waiting.end(),
                              [&](const Entry& entry) { return entry.arrival.priority < arrival.priority; });
    waiting.insert(place, {arrival, 0});
  }
  bool Remove(SequenceKey key) {
    const auto is = [&](const Entry& entry) { return entry.arrival.key == key; };
    return std::erase_if(waiting, is) + std::erase_if(running, is) > 0;
  }

  // Pairs of key and rows.
  std::vector<std::pair<uint64_t, int64_t>> Next() {
    std::vector<std::pair<uint64_t, int64_t>> shares;
    int64_t rows = options_.step_tokens;
    int64_t logits = options_.logit_rows;
    for (Entry& entry : running) {
      const Arrival& a = entry.arrival;
      if (entry.next >= a.prompt_tokens && entry.next < a.prompt_tokens + a.max_tokens - 1) {
        shares.emplace_back(a.key.value, 1);
        ++entry.next;
        --rows;
        --logits;
      } else if (entry.next >= a.prompt_tokens) {
        continue;
      }
    }
    std::set<uint64_t> decoded;
    for (const auto& [key, count] : shares) {
      decoded.insert(key);
    }
    for (Entry& entry : running) {
      if (!decoded.contains(entry.arrival.key.value) && entry.next < entry.arrival.prompt_tokens) {
        Prefill(entry, rows, logits, shares);
      }
    }
    while (!waiting.empty() && static_cast<int64_t>(running.size()) < slots_ && Fits(waiting.front().arrival)) {
      Entry entry = waiting.front();
      if (!Prefill(entry, rows, logits, shares)) {
        break;
      }
      waiting.erase(waiting.begin());
      running.push_back(entry);
    }
    return shares;
  }

  std::vector<Entry> waiting;
  std::vector<Entry> running;

 private:
  bool Prefill(Entry& entry, int64_t& rows, int64_t& logits, std::vector<std::pair<uint64_t, int64_t>>& shares) const {
    int64_t count = 0;
    // One row more, as long as it may be had.
    while (entry.next + count < entry.arrival.prompt_tokens && count < chunk_ && count < rows) {
      const bool last = entry.next + count + 1 == entry.arrival.prompt_tokens;
      const int64_t used = entry.arrival.prompt_logits ? count + 1 : (last ? 1 : 0);
      if (used > logits) {
        break;
      }
      ++count;
    }
    if (count == 0) {
      return false;
    }
    rows -= count;
    entry.next += count;
    logits -= entry.arrival.prompt_logits ? count : (entry.next == entry.arrival.prompt_tokens ? 1 : 0);
    shares.emplace_back(entry.arrival.key.value, count);
    return true;
  }
  bool Fits(const Arrival& arrival) const {
    int64_t full = 0;
    int64_t sliding = 0;
    const auto count = [&](const Arrival& a) {
      full += BlocksFor(a.prompt_tokens + a.max_tokens, options_.block_tokens);
      sliding +=
          SlidingBlocksFor(a.prompt_tokens + a.max_tokens, options_.sliding_window, chunk_, options_.block_tokens);
    };
    count(arrival);
    for (const Entry& entry : running) {
      count(entry.arrival);
    }
    return (options_.full_blocks == 0 || full <= options_.full_blocks) &&
           (options_.sliding_blocks == 0 || sliding <= options_.sliding_blocks);
  }

  SchedulerOptions options_;
  int64_t slots_ = 0;
  int64_t chunk_ = 0;
};

void RandomOperations(uint32_t seed) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  SchedulerOptions options{.step_tokens = draw(1, 20),
                           .logit_rows = draw(1, 8),
                           .max_sequences = static_cast<int>(draw(1, 6)),
                           .block_tokens = static_cast<int>(draw(1, 8)),
                           .full_blocks = draw(8, 60),
                           .sliding_blocks = draw(0, 3) == 0 ? 0 : draw(12, 60),
                           .sliding_window = static_cast<int>(draw(1, 10))};
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok()) << scheduler.status();
  Oracle oracle(options);
  uint64_t keys = 0;
  std::map<uint64_t, int> slots;
  for (int operation = 0; operation < 500; ++operation) {
    const int64_t kind = draw(0, 9);
    if (kind < 2) {
      Arrival arrival = Of(++keys, draw(1, 30), draw(1, 12), static_cast<int32_t>(draw(-1, 1)));
      arrival.prompt_logits = draw(0, 3) == 0;
      if (scheduler->Add(arrival).ok()) {
        oracle.Add(arrival);
      }
    } else if (kind == 2 && keys > 0) {
      const SequenceKey key(static_cast<uint64_t>(draw(1, static_cast<int64_t>(keys))));
      ASSERT_EQ(scheduler->Remove(key), oracle.Remove(key));
      slots.erase(key.value);
    } else {
      const auto batch = scheduler->Next();
      ASSERT_TRUE(batch.ok()) << batch.status();
      std::vector<std::pair<uint64_t, int64_t>> got;
      for (const Share& share : batch->shares) {
        got.emplace_back(share.key.value, share.end - share.begin);
        if (share.opens) {
          for (const auto& [other, slot] : slots) {
            ASSERT_NE(slot, share.slot) << "a slot has two sequences";
          }
          slots[share.key.value] = share.slot;
        }
        ASSERT_EQ(slots.at(share.key.value), share.slot);
      }
      ASSERT_EQ(got, oracle.Next());
      // Nothing that may run stands still: every running sequence that has rows left got some, or a prompt did.
      ASSERT_TRUE(!got.empty() || (scheduler->waiting() == 0 || scheduler->running() > 0));
      std::vector<SequenceKey> finished;
      for (const Oracle::Entry& entry : oracle.running) {
        if (entry.next == entry.arrival.prompt_tokens + entry.arrival.max_tokens - 1) {
          finished.push_back(entry.arrival.key);
        }
      }
      for (const SequenceKey key : finished) {
        ASSERT_TRUE(scheduler->Remove(key));
        ASSERT_TRUE(oracle.Remove(key));
        slots.erase(key.value);
      }
    }
    ASSERT_EQ(scheduler->running(), static_cast<int>(oracle.running.size()));
    ASSERT_EQ(scheduler->waiting(), static_cast<int>(oracle.waiting.size()));
  }
  // Left alone, everything ends in bounded time.
  int64_t bound = 0;
  for (const auto* list : {&oracle.running, &oracle.waiting}) {
    for (const Oracle::Entry& entry : *list) {
      bound += entry.arrival.prompt_tokens + entry.arrival.max_tokens;
    }
  }
  while (scheduler->running() + scheduler->waiting() > 0) {
    ASSERT_GE(bound--, 0) << "no progress";
    const auto batch = scheduler->Next();
    ASSERT_TRUE(batch.ok());
    oracle.Next();
    std::vector<SequenceKey> finished;
    for (const Oracle::Entry& entry : oracle.running) {
      if (entry.next == entry.arrival.prompt_tokens + entry.arrival.max_tokens - 1) {
        finished.push_back(entry.arrival.key);
      }
    }
    for (const SequenceKey key : finished) {
      ASSERT_TRUE(scheduler->Remove(key) && oracle.Remove(key));
    }
  }
  EXPECT_EQ(scheduler->blocks_used(kernels::kFullPool), 0);
  EXPECT_EQ(scheduler->blocks_used(kernels::kSlidingPool), 0);
}

TEST(Scheduler, RandomOperationsAgreeWithANaiveModel) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    ASSERT_NO_FATAL_FAILURE(RandomOperations(seed));
  }
}

}  // namespace
}  // namespace alphecca::engine

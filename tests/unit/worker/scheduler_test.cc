#include "worker/engine/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

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
          .names = {},
          .whole = std::nullopt,
          .tenant = "",
          .weight = 1.0,
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
  ASSERT_TRUE(scheduler->Add(Of(1, 72, 4)).ok());  // 18 of 30 blocks
  for (int step = 0; step < 8; ++step) {
    ASSERT_TRUE(scheduler->Next().ok());
  }
  ASSERT_TRUE(scheduler->Add(Of(2, 60, 4)).ok());  // 15: must wait
  ASSERT_TRUE(scheduler->Add(Of(3, 2, 2)).ok());
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{1}));
  EXPECT_EQ(scheduler->waiting(), 2);
  EXPECT_TRUE(scheduler->Remove(SequenceKey(1)));
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{2}));
  EXPECT_EQ(scheduler->running(), 1);
}

TEST(Scheduler, SequencesSpreadOverOwnersWithPoolsOfTheirOwn) {
  SchedulerOptions options = Small();
  options.owners = 2;
  options.max_sequences = 4;
  options.step_tokens = 240;
  options.sliding_blocks = 100;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  for (uint64_t key = 1; key <= 4; ++key) {
    ASSERT_TRUE(scheduler->Add(Of(key, key == 1 ? 110 : 8, 10)).ok());
  }
  const auto batch = scheduler->Next();
  ASSERT_TRUE(batch.ok());
  ASSERT_EQ(Keys(*batch), (KeyList{1, 2, 3, 4}));
  // 3 finds one sequence with each owner, but 1 leaves too few blocks of the first.
  std::vector<int> owners;
  for (const Share& share : batch->shares) {
    owners.push_back(share.owner);
  }
  EXPECT_EQ(owners, (std::vector<int>{0, 1, 1, 1}));
  EXPECT_EQ(scheduler->blocks_used(kernels::kFullPool), 28 + 3 * 2);
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

// ---- Tenants, prefixes, pressure ------------------------------------------------------------------------------------

Arrival Named(Arrival arrival, uint64_t content) {
  for (int64_t i = 0; (i + 1) * 4 <= arrival.prompt_tokens; ++i) {
    arrival.names.push_back({content, static_cast<uint64_t>(i)});
  }
  arrival.whole = model::BlockHash{content, 1000 + static_cast<uint64_t>(arrival.prompt_tokens)};
  return arrival;
}

TEST(Scheduler, TenantsTakeTurnsByTokensServed) {
  SchedulerOptions options = Small();
  options.max_sequences = 1;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  const auto add = [&](uint64_t key, std::string tenant, double weight) {
    Arrival arrival = Of(key, 10, 1);
    arrival.tenant = std::move(tenant);
    arrival.weight = weight;
    ASSERT_TRUE(scheduler->Add(arrival).ok());
  };
  for (uint64_t key = 1; key <= 8; ++key) {
    add(key, "flood", 1.0);
  }
  for (uint64_t key = 11; key <= 16; ++key) {
    add(key, "heavy", 3.0);
  }
  KeyList order;
  for (int i = 0; i < 12; ++i) {
    const auto batch = scheduler->Next();
    ASSERT_EQ(batch->shares.size(), 1U);
    order.push_back(batch->shares[0].key.value);
    scheduler->Sampled(batch->shares[0].key, std::nullopt);
    ASSERT_TRUE(scheduler->Remove(batch->shares[0].key));
  }
  // Ten tokens of flood weigh as much as thirty of heavy.
  EXPECT_EQ(order, (KeyList{1, 11, 12, 13, 2, 14, 15, 16, 3, 4, 5, 6}));
}

// As a sequence of the tenant that has not taken in its prompt.
void EnterAndContend(FairQueue& queue, const std::string& tenant) {
  queue.Enter(tenant, 1.0);
  queue.Contend(tenant);
}

TEST(Scheduler, WhoReturnsHasNoClaimForThePause) {
  FairQueue queue;
  EnterAndContend(queue, "a");
  queue.Charge("a", 1000);
  EnterAndContend(queue, "b");  // starts where a is
  queue.Push("a", {0, 1, SequenceKey(1)});
  queue.Push("b", {0, 2, SequenceKey(2)});
  const auto none = [](SequenceKey) { return false; };
  EXPECT_EQ(queue.Pick(none), SequenceKey(1));
  queue.Charge("a", 1);
  EXPECT_EQ(queue.Pick(none), SequenceKey(2));
  queue.Erase("a", {0, 1, SequenceKey(1)});
  queue.Settle("a");
  queue.Leave("a");
  EnterAndContend(queue, "a");  // nor does it shed what it got
  queue.Push("a", {0, 3, SequenceKey(3)});
  EXPECT_EQ(queue.Pick(none), SequenceKey(2));
}

TEST(Scheduler, NobodyPaysForWhatItTookOfAnIdleEngine) {
  FairQueue queue;
  for (int i = 0; i < 5; ++i) {
    EnterAndContend(queue, "a");
    queue.Charge("a", 1000);
    queue.Settle("a");
    queue.Leave("a");
  }
  EnterAndContend(queue, "b");
  EnterAndContend(queue, "a");
  EXPECT_EQ(queue.Served("a"), queue.Served("b"));
}

TEST(Scheduler, ALongAnswerLowersTheClaimOfNobody) {
  FairQueue queue;
  EnterAndContend(queue, "slow");
  queue.Charge("slow", 10);
  queue.Settle("slow");  // it generates, a token a step
  EnterAndContend(queue, "a");
  queue.Charge("a", 1'000'000);
  queue.Settle("a");
  EnterAndContend(queue, "b");  // comes while nobody contends
  EXPECT_EQ(queue.Served("a"), queue.Served("b"));
  queue.Charge("b", 100);
  EnterAndContend(queue, "c");  // comes while b does
  EXPECT_EQ(queue.Served("c"), queue.Served("b"));
  EnterAndContend(queue, "slow");  // and so does the slow one's next
  EXPECT_EQ(queue.Served("slow"), queue.Served("b"));
}

TEST(Scheduler, ATenantsFloodGoesNotBeforeWhoGotMuchOfAnIdleEngine) {
  SchedulerOptions options = Small();
  options.max_sequences = 3;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  Arrival slow = Of(1, 2, 60);
  slow.tenant = "slow";
  ASSERT_TRUE(scheduler->Add(slow).ok());
  ASSERT_TRUE(scheduler->Next().ok());
  Arrival long_prompt = Of(2, 60, 1);
  long_prompt.tenant = "a";
  ASSERT_TRUE(scheduler->Add(long_prompt).ok());
  for (int step = 0; step < 3; ++step) {
    const auto batch = scheduler->Next();
    EXPECT_EQ(Keys(*batch), (KeyList{1, 2}));
    scheduler->Sampled(SequenceKey(1), std::nullopt);
  }
  for (uint64_t key = 10; key < 14; ++key) {
    Arrival flood = Of(key, 9, 1);
    flood.tenant = "flood";
    ASSERT_TRUE(scheduler->Add(flood).ok());
  }
  // Level when it comes: by arrival the first, then it has got more.
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{1, 2}));
}

Arrival OfTenant(uint64_t key, int64_t prompt, std::string tenant, int32_t priority = 0) {
  Arrival arrival = Of(key, prompt, 1, priority);
  arrival.tenant = std::move(tenant);
  return arrival;
}

TEST(Scheduler, ALongPromptHoldsUpNeitherAPriorityNorATenantThatGotLess) {
  auto scheduler = Scheduler::Create(Small());
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(OfTenant(1, 80, "a")).ok());
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{1}));
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{1}));  // it has all of 10 rows
  ASSERT_TRUE(scheduler->Add(OfTenant(2, 4, "a")).ok());
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{1}));  // its own tenant's next waits
  ASSERT_TRUE(scheduler->Add(OfTenant(3, 3, "a", 1)).ok());
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{3, 1}));
  ASSERT_TRUE(scheduler->Add(OfTenant(4, 25, "b")).ok());  // starts level with a, which then has its step
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{1}));
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{4}));
  // From here they take turns, as they got as much.
  int64_t rows[5] = {};
  for (int step = 0; step < 4; ++step) {
    const auto batch = scheduler->Next();
    for (const Share& share : batch->shares) {
      rows[share.key.value] += share.end - share.begin;
    }
  }
  EXPECT_EQ(rows[1], 25);
  EXPECT_EQ(rows[4], 15);
}

TEST(Scheduler, AnOwnerBusyWithAPromptKeepsNobodyFromTheOthers) {
  SchedulerOptions options = Small();
  options.owners = 2;
  options.max_sequences = 4;
  options.sliding_blocks = 100;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 18, 9)).ok());
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{1}));  // all five rows of the first owner, as in the next two steps
  ASSERT_TRUE(scheduler->Add(Of(2, 2, 9)).ok());
  ASSERT_TRUE(scheduler->Add(Of(3, 2, 9)).ok());
  EXPECT_EQ(Keys(*scheduler->Next()), (KeyList{1, 2, 3}));  // by what the owners have yet to compute
  ASSERT_TRUE(scheduler->Add(Of(4, 2, 9)).ok());
  const auto batch = scheduler->Next();
  EXPECT_EQ(Keys(*batch), (KeyList{2, 3, 1, 4}));  // the first has less to do, but no row left
  EXPECT_EQ(batch->shares.back().owner, 1);
}

TEST(Scheduler, WhatOneOwnerHasIsNotReportedOfAnother) {
  SchedulerOptions options = Small();
  options.owners = 2;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  Arrival arrival = Of(1, 9, 4);
  arrival.names = {model::BlockHash{1, 1}, model::BlockHash{2, 2}};
  arrival.whole = model::BlockHash{3, 3};
  ASSERT_TRUE(scheduler->Add(arrival).ok());
  ASSERT_TRUE(scheduler->Next().ok());
  ASSERT_TRUE(scheduler->Next().ok());
  EXPECT_EQ(scheduler->TakeBlockEvents().stored.size(), 2U);
  arrival.key = SequenceKey(2);
  arrival.prompt_logits = true;  // starts behind no prefix
  ASSERT_TRUE(scheduler->Add(arrival).ok());
  const auto batch = scheduler->Next();
  ASSERT_EQ(batch->shares.back().owner, 1);
  ASSERT_TRUE(scheduler->Next().ok());
  EXPECT_TRUE(scheduler->TakeBlockEvents().stored.empty());
}

TEST(Scheduler, ASecondPromptStartsBehindThePrefixItShares) {
  auto scheduler = Scheduler::Create(Small());
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Named(Of(1, 10, 1), 7)).ok());
  ASSERT_TRUE(scheduler->Next().ok());
  scheduler->Sampled(SequenceKey(1), std::nullopt);
  ASSERT_TRUE(scheduler->Remove(SequenceKey(1)));
  EXPECT_EQ(scheduler->blocks_idle(kernels::kFullPool), 2);
  ASSERT_TRUE(scheduler->Add(Named(Of(2, 9, 2), 7)).ok());
  const auto batch = scheduler->Next();
  ASSERT_EQ(batch->shares.size(), 1U);
  EXPECT_EQ(batch->shares[0].begin, 8);
  EXPECT_EQ(scheduler->CachedTokens(SequenceKey(2)), 8);
  EXPECT_EQ(scheduler->counts().cached_tokens, 8);
}

TEST(Scheduler, SamplesOfOnePromptComputeItOnce) {
  SchedulerOptions options = Small();
  options.step_tokens = 8;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  for (uint64_t key = 1; key <= 3; ++key) {
    ASSERT_TRUE(scheduler->Add(Named(Of(key, 11, 5), 7)).ok());
  }
  auto batch = scheduler->Next();
  EXPECT_EQ(Keys(*batch), (KeyList{1}));  // the others await its prompt
  batch = scheduler->Next();
  EXPECT_EQ(Keys(*batch), (KeyList{1}));
  EXPECT_EQ(batch->shares[0].end, 11);
  batch = scheduler->Next();
  ASSERT_EQ(Keys(*batch), (KeyList{1, 2, 3}));
  for (const size_t i : {1, 2}) {
    EXPECT_EQ(batch->shares[i].begin, 10);
    EXPECT_TRUE(batch->shares[i].samples);
  }
  EXPECT_EQ(batch->copies[kernels::kFullPool].size(), 2U);  // the third has the block to itself
  EXPECT_EQ(scheduler->blocks_used(kernels::kFullPool), 2 + 3);
}

TEST(Scheduler, TheLastInRankGivesWayAndComesBack) {
  SchedulerOptions options = Small();
  options.full_blocks = 8;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 8, 17)).ok());
  ASSERT_TRUE(scheduler->Add(Of(2, 2, 20)).ok());
  std::map<uint64_t, int64_t> sampled;
  bool gave_way = false;
  for (int step = 0; step < 80 && scheduler->running() + scheduler->waiting() > 0; ++step) {
    const auto batch = scheduler->Next();
    ASSERT_TRUE(batch.ok()) << batch.status();
    gave_way = gave_way || (scheduler->waiting() > 0 && step > 1);
    for (const Share& share : batch->shares) {
      if (share.samples) {
        scheduler->Sampled(share.key, std::nullopt);
        if (++sampled[share.key.value] == (share.key.value == 1 ? 17 : 20)) {
          EXPECT_TRUE(share.key.value == 1 || sampled[1] == 17) << "the first in rank ends first";
          scheduler->Remove(share.key);
        }
      }
    }
  }
  EXPECT_TRUE(gave_way);
  EXPECT_GT(scheduler->counts().preemptions, 0);
  EXPECT_EQ(sampled[1], 17);
  EXPECT_EQ(sampled[2], 20);
  EXPECT_EQ(scheduler->blocks_used(kernels::kFullPool), 0);
}

TEST(Scheduler, WhoGaveWayReturnsOnlyWhenItsTokensAreKnown) {
  SchedulerOptions options = Small();
  options.full_blocks = 4;
  auto scheduler = Scheduler::Create(options);
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 4, 8)).ok());
  ASSERT_TRUE(scheduler->Add(Of(2, 4, 8)).ok());
  ASSERT_EQ(Keys(*scheduler->Next()), (KeyList{1, 2}));
  for (int step = 0; step < 4; ++step) {
    ASSERT_EQ(Keys(*scheduler->Next()), (KeyList{1, 2}));
  }
  ASSERT_EQ(Keys(*scheduler->Next()), (KeyList{1}));  // 2 lacks a third block
  ASSERT_TRUE(scheduler->Remove(SequenceKey(1)));
  EXPECT_TRUE(scheduler->Next()->shares.empty());
  for (int token = 0; token < 5; ++token) {
    scheduler->Sampled(SequenceKey(2), std::nullopt);
  }
  const auto batch = scheduler->Next();
  ASSERT_EQ(Keys(*batch), (KeyList{2}));
  EXPECT_TRUE(batch->shares[0].opens);
  EXPECT_EQ(batch->shares[0].end, 9);  // the prompt and the five tokens
  EXPECT_TRUE(batch->shares[0].samples);
}

TEST(ChunkControl, FollowsTheTimeThatStepsTook) {
  ChunkControl control(absl::Milliseconds(100), 16, 256);
  EXPECT_EQ(control.rows(), 16);
  control.Took(16, absl::Milliseconds(10));
  EXPECT_EQ(control.rows(), 32);  // twofold at most
  control.Took(8, absl::Milliseconds(10));
  EXPECT_EQ(control.rows(), 32);  // a smaller step says nothing of larger ones
  control.Took(32, absl::Milliseconds(400));
  EXPECT_EQ(control.rows(), 16);  // never below the least
  for (int i = 0; i < 10; ++i) {
    control.Took(control.rows(), absl::Milliseconds(1));
  }
  EXPECT_EQ(control.rows(), 256);
  control.Took(256, absl::Milliseconds(200));
  EXPECT_EQ(control.rows(), 128);
}

SchedulerOptions Hurried() {
  SchedulerOptions options = Small();
  options.step_tokens = 64;
  options.full_blocks = 200;
  options.sliding_blocks = 100;
  options.step_time = absl::Milliseconds(20);
  return options;
}

TEST(Scheduler, LongPromptsTakeSmallChunksBesideWhoDecodes) {
  auto scheduler = Scheduler::Create(Hurried());
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 2, 100)).ok());
  ASSERT_TRUE(scheduler->Next().ok());
  ASSERT_TRUE(scheduler->Add(Of(2, 500, 4)).ok());
  // A row takes a millisecond: after the first steps none takes more than twenty.
  for (int step = 0; step < 25; ++step) {
    const auto batch = scheduler->Next();
    ASSERT_EQ(batch->decode_rows, 1);
    ASSERT_GE(batch->prompt_rows, 4);
    EXPECT_LE(batch->prompt_rows + batch->decode_rows, 21) << step;
    scheduler->StepTook(*batch, absl::Milliseconds(batch->prompt_rows + batch->decode_rows));
  }
}

TEST(Scheduler, SmallChunksAlsoBesideALastToken) {
  auto scheduler = Scheduler::Create(Hurried());
  ASSERT_TRUE(scheduler.ok());
  ASSERT_TRUE(scheduler->Add(Of(1, 2, 2)).ok());
  ASSERT_TRUE(scheduler->Next().ok());
  ASSERT_TRUE(scheduler->Add(Of(2, 500, 4)).ok());
  const auto batch = scheduler->Next();
  EXPECT_EQ(batch->decode_rows, 1);
  EXPECT_EQ(batch->prompt_rows, 4);
  EXPECT_TRUE(batch->awaited);
}

TEST(Scheduler, SmallChunksAlsoBesideWhoWaitsForItsToken) {
  auto scheduler = Scheduler::Create(Hurried());
  ASSERT_TRUE(scheduler.ok());
  Arrival constrained = Of(1, 2, 100);
  constrained.one_at_a_time = true;
  ASSERT_TRUE(scheduler->Add(constrained).ok());
  ASSERT_TRUE(scheduler->Next().ok());
  ASSERT_TRUE(scheduler->Add(Of(2, 500, 4)).ok());
  const auto batch = scheduler->Next();
  EXPECT_EQ(Keys(*batch), (KeyList{2}));
  EXPECT_EQ(batch->prompt_rows, 4);
}

}  // namespace
}  // namespace alphecca::engine

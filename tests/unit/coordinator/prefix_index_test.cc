#include "coordinator/routing/prefix_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>

namespace alphecca::coordinator {
namespace {

using model::BlockHash;
using model::PrefixHasher;

constexpr model::PrefixKey kKey = {11, 22};

std::vector<int32_t> Tokens(int count, int32_t first = 100) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(first + i);
  }
  return tokens;
}

std::vector<BlockHash> Blocks(const std::string& revision, int block_tokens, const std::string& tenant,
                              const std::vector<int32_t>& tokens) {
  return PrefixHasher(kKey, revision, block_tokens).Blocks(tenant, tokens);
}

TEST(PrefixIndex, CountsThePrefixUpToTheFirstGap) {
  const auto index = std::make_shared<PrefixIndex>(kKey);
  const std::vector<int32_t> prompt = Tokens(17);
  const std::vector<BlockHash> blocks = Blocks("r", 4, "t", prompt);
  ASSERT_EQ(blocks.size(), 4U);
  const auto all = index->Add("r", 4);
  const auto one = index->Add("r", 4);
  const auto gap = index->Add("r", 4);
  const auto none = index->Add("r", 4);
  all->Apply({}, blocks);
  one->Apply({}, std::vector{blocks[0]});
  gap->Apply({}, std::vector{blocks[0], blocks[2]});
  const PrefixIndex::Holders holders = {all, nullptr, one, gap, none};
  EXPECT_EQ(index->Cached("t", prompt, holders), (std::vector<int64_t>{16, 0, 4, 4, 0}));
  EXPECT_EQ(index->Cached("another", prompt, holders), (std::vector<int64_t>{0, 0, 0, 0, 0}));
  // The last token is always computed.
  EXPECT_EQ(index->Cached("t", std::span(prompt).first(12), holders), (std::vector<int64_t>{8, 0, 4, 4, 0}));
  EXPECT_EQ(index->Cached("t", {}, holders), (std::vector<int64_t>{0, 0, 0, 0, 0}));
  EXPECT_EQ(index->size().blocks, 4);
  gap->Apply(std::vector{blocks[0]}, std::vector{blocks[1]});
  EXPECT_EQ(index->Cached("t", prompt, holders), (std::vector<int64_t>{16, 0, 4, 0, 0}));
}

TEST(PrefixIndex, LongChainsEndWhereTheyEnd) {
  const auto index = std::make_shared<PrefixIndex>(kKey);
  const std::vector<int32_t> prompt = Tokens(4 * 100 + 1);
  const std::vector<BlockHash> blocks = Blocks("r", 4, "t", prompt);
  PrefixIndex::Holders holders;
  std::vector<int64_t> expected;
  for (const size_t length : {0, 1, 15, 16, 17, 31, 32, 33, 95, 96, 97, 99, 100}) {
    const auto holder = index->Add("r", 4);
    holder->Apply({}, std::span(blocks).first(length));
    holders.push_back(holder);
    expected.push_back(static_cast<int64_t>(length) * 4);
  }
  EXPECT_EQ(index->Cached("t", prompt, holders), expected);
}

TEST(PrefixIndex, HoldersOfOtherModelsAndBlockSizesHashForThemselves) {
  const auto index = std::make_shared<PrefixIndex>(kKey);
  const std::vector<int32_t> prompt = Tokens(25);
  const auto r4 = index->Add("r", 4);
  const auto r8 = index->Add("r", 8);
  const auto s8 = index->Add("s", 8);
  r4->Apply({}, Blocks("r", 4, "t", prompt));
  r8->Apply({}, Blocks("r", 8, "t", prompt));
  s8->Apply({}, Blocks("r", 8, "t", prompt));  // another model's: of no use to it
  EXPECT_EQ(index->Cached("t", prompt, {s8, r8, r4}), (std::vector<int64_t>{0, 24, 24}));
}

TEST(PrefixIndex, AHolderThatEndsIsForgotten) {
  const auto index = std::make_shared<PrefixIndex>(kKey);
  const std::vector<int32_t> prompt = Tokens(4001);
  const std::vector<BlockHash> blocks = Blocks("r", 4, "t", prompt);
  auto ends = index->Add("r", 4);
  const auto stays = index->Add("r", 4);
  ends->Apply({}, blocks);
  stays->Apply({}, std::span(blocks).first(10));
  const int64_t bytes = index->size().bytes;
  ends = nullptr;
  const auto next = index->Add("r", 4);  // not on the ended one's place
  EXPECT_EQ(index->Cached("t", prompt, {stays, next}), (std::vector<int64_t>{40, 0}));
  EXPECT_EQ(index->size().blocks, 1000);
  index->Sweep();
  EXPECT_EQ(index->size().blocks, 10);
  EXPECT_LT(index->size().bytes, bytes / 4);
  const auto reused = index->Add("r", 4);
  EXPECT_EQ(index->Cached("t", prompt, {stays, next, reused}), (std::vector<int64_t>{40, 0, 0}));
}

// The index against what it stands for, a set of blocks for each holder.
class RandomOperations : public testing::Test {
 protected:
  static constexpr int kBlockTokens = 2;

  // Few tokens, so that prompts share beginnings.
  std::vector<int32_t> RandomPrompt() {
    std::vector<int32_t> prompt(Below(150));
    for (int32_t& token : prompt) {
      token = Below(50) == 0 ? 1 : 0;
    }
    return prompt;
  }
  size_t Below(size_t limit) { return random_() % limit; }
  std::string RandomTenant() { return Below(2) == 0 ? "a" : "b"; }
  std::vector<BlockHash> SomeOf(const std::vector<BlockHash>& blocks) {
    std::vector<BlockHash> some;
    for (const BlockHash& block : blocks) {
      if (Below(8) != 0) {
        some.push_back(block);
      }
    }
    return some;
  }

  // Of the first `count` blocks, as the header says: 16 at a time by the last of them, then one by one.
  static int64_t KnownOf(const std::vector<BlockHash>& blocks, size_t count, const std::set<BlockHash>& known) {
    size_t begin = 0;
    for (size_t end = std::min<size_t>(16, count); begin < count && known.contains(blocks[end - 1]);
         end = std::min<size_t>(end + 16, count)) {
      begin = end;
    }
    while (begin < count && known.contains(blocks[begin])) {
      ++begin;
    }
    return static_cast<int64_t>(begin);
  }

  void AddHolder() { holders_.push_back({index_->Add("r", kBlockTokens), {}}); }
  void Apply() {
    auto& [holder, known] = holders_[Below(holders_.size())];
    const auto stored = SomeOf(Blocks("r", kBlockTokens, RandomTenant(), RandomPrompt()));
    const auto removed = SomeOf(SomeOf(Blocks("r", kBlockTokens, RandomTenant(), RandomPrompt())));
    for (const BlockHash& block : removed) {
      known.erase(block);
    }
    known.insert(stored.begin(), stored.end());
    holder->Apply(removed, stored);
  }
  void Check() {
    const std::string tenant = RandomTenant();
    const std::vector<int32_t> prompt = RandomPrompt();
    const std::vector<BlockHash> blocks = Blocks("r", kBlockTokens, tenant, prompt);
    PrefixIndex::Holders asked;
    std::vector<int64_t> expected;
    for (const auto& [holder, known] : holders_) {
      if (Below(4) == 0) {
        continue;
      }
      const size_t usable = prompt.empty() ? 0 : (prompt.size() - 1) / kBlockTokens;
      asked.push_back(holder);
      expected.push_back(kBlockTokens * KnownOf(blocks, usable, known));
    }
    ASSERT_EQ(index_->Cached(tenant, prompt, asked), expected);
  }
  void CheckSize() {
    index_->Sweep();
    std::set<BlockHash> all;
    for (const auto& [holder, known] : holders_) {
      all.insert(known.begin(), known.end());
    }
    const auto blocks = static_cast<int64_t>(all.size());
    if (one_shelf_) {
      ASSERT_EQ(index_->size().blocks, blocks);
    } else {
      ASSERT_GE(index_->size().blocks, blocks);
      ASSERT_LE(index_->size().blocks, 2 * blocks);
    }
  }
  void Run(int steps, size_t holders) {
    one_shelf_ = holders <= 40;  // leaves 24 places to those that ended since the last sweep: one step in 100 sweeps
    AddHolder();
    for (int step = 0; step < steps && !HasFatalFailure(); ++step) {
      const size_t what = Below(100);
      if (what < 5) {
        if (holders_.size() < holders) {
          AddHolder();
        }
      } else if (what < 6 && holders_.size() > 1) {
        holders_.erase(holders_.begin() + static_cast<std::ptrdiff_t>(Below(holders_.size())));
      } else if (what < 7) {
        CheckSize();
      } else if (what < 60) {
        Apply();
      } else {
        Check();
      }
    }
  }

  std::mt19937 random_{20240607};
  bool one_shelf_ = true;
  std::shared_ptr<PrefixIndex> index_ = std::make_shared<PrefixIndex>(kKey);
  std::vector<std::pair<std::shared_ptr<const PrefixIndex::Holder>, std::set<BlockHash>>> holders_;
};

TEST_F(RandomOperations, AgreeWithSets) {
  Run(5'000, 40);
}

TEST_F(RandomOperations, AgreeWithSetsOnTwoShelves) {
  Run(5'000, 100);
  EXPECT_GT(holders_.size(), 64U);
}

TEST(PrefixIndex, HoldersComeAndGoWhileOthersAsk) {
  const auto index = std::make_shared<PrefixIndex>(kKey);
  const std::vector<int32_t> prompt = Tokens(400);
  const std::vector<BlockHash> blocks = Blocks("r", 4, "t", prompt);
  const auto stays = index->Add("r", 4);
  stays->Apply({}, std::span(blocks).first(50));
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 300; ++i) {
        const auto comes = index->Add("r", 4);
        comes->Apply({}, blocks);
        EXPECT_EQ(index->Cached("t", prompt, {comes, stays}), (std::vector<int64_t>{396, 200}));
        comes->Apply(blocks, {});
        EXPECT_EQ(index->Cached("t", prompt, {comes, stays}), (std::vector<int64_t>{0, 200}));
        comes->Apply({}, blocks);
      }
      stop = true;
    });
  }
  while (!stop) {
    index->Sweep();
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  index->Sweep();
  EXPECT_EQ(index->size().blocks, 50);
}

}  // namespace
}  // namespace alphecca::coordinator

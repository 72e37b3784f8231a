#include "worker/engine/block_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace alphecca::engine {
namespace {

using kernels::BlockTableUpdate;
using kernels::kFullPool;
using kernels::kSlidingPool;

TEST(SlidingBlocksFor, CoversEveryAlignmentOfWindowAndChunk) {
  for (const int block : {1, 2, 4, 16}) {
    for (const int window : {1, 3, 16, 64}) {
      for (const int64_t chunk : {1, 5, 16}) {
        int64_t most = 0;
        constexpr int64_t kTokens = 400;
        for (int64_t begin = 0; begin + chunk <= kTokens; ++begin) {
          const int64_t first = std::max<int64_t>(0, begin - window + 1) / block;
          most = std::max(most, (begin + chunk - 1) / block - first + 1);
        }
        EXPECT_EQ(SlidingBlocksFor(kTokens, window, chunk, block), most)
            << "window " << window << " chunk " << chunk << " block " << block;
      }
    }
  }
  EXPECT_EQ(SlidingBlocksFor(5, 64, 16, 4), 2);  // no more than the whole sequence fills
  EXPECT_EQ(SlidingBlocksFor(0, 64, 16, 4), 0);
}

BlockManagerOptions Small() {
  return {
      .slots = 3, .block_tokens = 4, .full_blocks = 20, .sliding_blocks = 12, .sliding_window = 6, .chunk_tokens = 8};
}

TEST(BlockManager, SlidingPoolGivesBackBlocksThatLeftTheWindow) {
  BlockManager blocks(Small());
  ASSERT_TRUE(blocks.Admit(0, 40).ok());
  std::vector<BlockTableUpdate> tables[2];
  ASSERT_TRUE(blocks.Advance(0, 0, 8, tables).ok());
  EXPECT_EQ(blocks.used(kSlidingPool), 2);
  // A row at 8 sees 3 to 8: block 0 (0 to 3) must stay.
  ASSERT_TRUE(blocks.Advance(0, 8, 9, tables).ok());
  EXPECT_EQ(blocks.first_held(kSlidingPool, 0), 0);
  // A row at 9 sees 4 to 9: block 0 goes.
  ASSERT_TRUE(blocks.Advance(0, 9, 10, tables).ok());
  EXPECT_EQ(blocks.first_held(kSlidingPool, 0), 1);
  EXPECT_EQ(blocks.used(kSlidingPool), 2);
  EXPECT_EQ(blocks.used(kFullPool), 3);
  EXPECT_EQ(tables[kSlidingPool].size(), 3U);
  EXPECT_EQ(tables[kSlidingPool].back().index, 2);
  ASSERT_TRUE(blocks.Release(0).ok());
  EXPECT_EQ(blocks.used(kSlidingPool), 0);
  EXPECT_EQ(blocks.used(kFullPool), 0);
  EXPECT_EQ(blocks.reserved(kFullPool), 0);
}

TEST(BlockManager, RefusesMisuse) {
  BlockManager blocks(Small());
  std::vector<BlockTableUpdate> tables[2];
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(blocks.Advance(0, 0, 1, tables).code(), invalid);
  EXPECT_EQ(blocks.Release(0).code(), invalid);
  EXPECT_EQ(blocks.Admit(3, 1).code(), invalid);
  EXPECT_EQ(blocks.Admit(-1, 1).code(), invalid);
  ASSERT_TRUE(blocks.Admit(0, 10).ok());
  EXPECT_EQ(blocks.Admit(0, 10).code(), invalid);
  EXPECT_EQ(blocks.Advance(0, 1, 2, tables).code(), invalid);  // skips position 0
  EXPECT_EQ(blocks.Advance(0, 0, 0, tables).code(), invalid);  // no rows
  EXPECT_EQ(blocks.Advance(0, 0, 9, tables).code(), invalid);  // over the chunk
  ASSERT_TRUE(blocks.Advance(0, 0, 8, tables).ok());
  EXPECT_EQ(blocks.Advance(0, 8, 11, tables).code(), invalid);  // over the admitted length
  EXPECT_EQ(blocks.Admit(1, 72).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(blocks.Fits(72));
  EXPECT_FALSE(blocks.Fits(81));
  EXPECT_TRUE(blocks.Admit(1, 68).ok());
  EXPECT_FALSE(blocks.CanAdmit(1));
}

TEST(BlockManager, AbsentPoolsNeedNothing) {
  BlockManagerOptions options = Small();
  options.sliding_blocks = 0;
  BlockManager blocks(options);
  std::vector<BlockTableUpdate> tables[2];
  ASSERT_TRUE(blocks.Admit(0, 40).ok());
  ASSERT_TRUE(blocks.Advance(0, 0, 8, tables).ok());
  EXPECT_TRUE(tables[kSlidingPool].empty());
  EXPECT_EQ(tables[kFullPool].size(), 2U);
}

// The naive model: for each slot, the physical block of each logical one that must be resident.
class Oracle {
 public:
  explicit Oracle(const BlockManagerOptions& options) : options_(options) {}

  void Advance(int slot, int64_t begin, int64_t end, const std::vector<BlockTableUpdate> (&tables)[2]) {
    const int64_t capacities[2] = {options_.full_blocks, options_.sliding_blocks};
    for (int pool = 0; pool < 2; ++pool) {
      if (capacities[pool] == 0) {
        ASSERT_TRUE(tables[pool].empty());
        continue;
      }
      auto& held = held_[pool][slot];
      const int64_t first = pool == kFullPool ? 0 : std::max<int64_t>(0, begin - options_.sliding_window + 1);
      std::erase_if(held, [&](const auto& entry) { return (entry.first + 1) * options_.block_tokens <= first; });
      for (const BlockTableUpdate& update : tables[pool]) {
        ASSERT_EQ(update.slot, slot);
        ASSERT_TRUE(held.emplace(update.index, update.block).second) << "logical block given twice";
      }
      for (int64_t position = first; position < end; ++position) {
        ASSERT_TRUE(held.contains(position / options_.block_tokens)) << "position " << position << " has no block";
      }
    }
  }
  void Release(int slot) {
    held_[0].erase(slot);
    held_[1].erase(slot);
  }
  void Check(const BlockManager& blocks) const {
    const int64_t capacities[2] = {options_.full_blocks, options_.sliding_blocks};
    for (const auto pool : {kFullPool, kSlidingPool}) {
      std::set<int32_t> physical;
      int64_t count = 0;
      for (const auto& [slot, held] : held_[pool]) {
        std::vector<int32_t> in_order;
        for (const auto& [logical, block] : held) {
          ASSERT_GE(block, 0);
          ASSERT_LT(block, capacities[pool]);
          physical.insert(block);
          in_order.push_back(block);
          ++count;
        }
        ASSERT_TRUE(std::equal(in_order.begin(), in_order.end(), blocks.held(pool, slot).begin(),
                               blocks.held(pool, slot).end()));
      }
      ASSERT_EQ(static_cast<int64_t>(physical.size()), count) << "a block has two owners";
      ASSERT_EQ(blocks.used(pool), count);
      ASSERT_LE(blocks.used(pool), blocks.reserved(pool));
      ASSERT_LE(blocks.reserved(pool), capacities[pool]);
    }
  }

 private:
  BlockManagerOptions options_;
  std::map<int, std::map<int64_t, int32_t>> held_[2];
};

struct Live {
  int64_t tokens = 0;
  int64_t next = 0;
};

void RandomOperations(uint32_t seed) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  BlockManagerOptions options{.slots = static_cast<int>(draw(1, 6)),
                              .block_tokens = static_cast<int>(draw(1, 9)),
                              .full_blocks = draw(1, 60),
                              .sliding_blocks = draw(0, 3) == 0 ? 0 : draw(1, 40),
                              .sliding_window = static_cast<int>(draw(1, 20)),
                              .chunk_tokens = draw(1, 12)};
  BlockManager blocks(options);
  Oracle oracle(options);
  std::map<int, Live> live;
  for (int operation = 0; operation < 400; ++operation) {
    const int slot = static_cast<int>(draw(0, options.slots - 1));
    const auto found = live.find(slot);
    if (found == live.end()) {
      const int64_t tokens = draw(1, 120);
      const bool can = blocks.CanAdmit(tokens);
      ASSERT_LE(can, blocks.Fits(tokens));
      ASSERT_EQ(blocks.Admit(slot, tokens).ok(), can);
      if (can) {
        live[slot] = {tokens, 0};
      }
    } else if (found->second.next == found->second.tokens || draw(0, 9) == 0) {
      ASSERT_TRUE(blocks.Release(slot).ok());
      oracle.Release(slot);
      live.erase(found);
    } else {
      Live& entry = found->second;
      const int64_t end = entry.next + draw(1, std::min(options.chunk_tokens, entry.tokens - entry.next));
      std::vector<BlockTableUpdate> tables[2];
      // What was admitted always goes on: that is what reservations are for.
      const absl::Status advanced = blocks.Advance(slot, entry.next, end, tables);
      ASSERT_TRUE(advanced.ok()) << advanced;
      ASSERT_NO_FATAL_FAILURE(oracle.Advance(slot, entry.next, end, tables));
      entry.next = end;
    }
    ASSERT_NO_FATAL_FAILURE(oracle.Check(blocks));
  }
  for (const auto& [slot, entry] : live) {
    ASSERT_TRUE(blocks.Release(slot).ok());
  }
  for (const auto pool : {kFullPool, kSlidingPool}) {
    ASSERT_EQ(blocks.used(pool), 0);
    ASSERT_EQ(blocks.reserved(pool), 0);
  }
}

TEST(BlockManager, RandomOperationsAgreeWithANaiveModel) {
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    ASSERT_NO_FATAL_FAILURE(RandomOperations(seed));
  }
}

}  // namespace
}  // namespace alphecca::engine

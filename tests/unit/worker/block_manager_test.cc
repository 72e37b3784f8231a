#include "worker/engine/block_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <vector>

namespace alphecca::engine {
namespace {

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

std::vector<model::BlockHash> Names(uint64_t first, int64_t count) {
  std::vector<model::BlockHash> names;
  for (int64_t i = 0; i < count; ++i) {
    names.push_back({first, static_cast<uint64_t>(i)});
  }
  return names;
}

// Opens a slot, runs `tokens` rows in chunks and names the full blocks.
void Fill(BlockManager& blocks, int slot, int64_t tokens, const std::vector<model::BlockHash>& names) {
  BlockChanges changes;
  ASSERT_TRUE(blocks.Start(slot, {}, changes).ok());
  for (int64_t begin = 0; begin < tokens; begin += 8) {
    ASSERT_TRUE(blocks.Advance(slot, begin, std::min<int64_t>(begin + 8, tokens), changes).ok());
    for (int64_t i = 0; (i + 1) * 4 <= std::min<int64_t>(begin + 8, tokens); ++i) {
      blocks.Name(slot, i, names[static_cast<size_t>(i)]);
    }
  }
}

TEST(BlockManager, SlidingPoolGivesBackBlocksThatLeftTheWindow) {
  BlockManager blocks(Small());
  BlockChanges changes;
  ASSERT_TRUE(blocks.Start(0, {}, changes).ok());
  ASSERT_TRUE(blocks.Advance(0, 0, 8, changes).ok());
  EXPECT_EQ(blocks.used(kSlidingPool), 2);
  // A row at 8 sees 3 to 8: block 0 (0 to 3) must stay.
  ASSERT_TRUE(blocks.Advance(0, 8, 9, changes).ok());
  EXPECT_EQ(blocks.first_held(kSlidingPool, 0), 0);
  // A row at 9 sees 4 to 9: block 0 goes.
  ASSERT_TRUE(blocks.Advance(0, 9, 10, changes).ok());
  EXPECT_EQ(blocks.first_held(kSlidingPool, 0), 1);
  EXPECT_EQ(blocks.used(kSlidingPool), 2);
  EXPECT_EQ(blocks.used(kFullPool), 3);
  EXPECT_EQ(changes.tables[kSlidingPool].size(), 3U);
  EXPECT_EQ(changes.tables[kSlidingPool].back().index, 2);
  ASSERT_TRUE(blocks.Release(0).ok());
  EXPECT_EQ(blocks.used(kSlidingPool), 0);
  EXPECT_EQ(blocks.used(kFullPool), 0);
}

TEST(BlockManager, RefusesMisuse) {
  BlockManager blocks(Small());
  BlockChanges changes;
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(blocks.Advance(0, 0, 1, changes).code(), invalid);
  EXPECT_EQ(blocks.Release(0).code(), invalid);
  EXPECT_EQ(blocks.Start(3, {}, changes).code(), invalid);
  EXPECT_EQ(blocks.Start(-1, {}, changes).code(), invalid);
  EXPECT_EQ(blocks.Start(0, Names(1, 1), changes).code(), invalid);  // not cached
  EXPECT_EQ(blocks.Fork(0, 1, 1, changes).code(), invalid);
  ASSERT_TRUE(blocks.Start(0, {}, changes).ok());
  EXPECT_EQ(blocks.Start(0, {}, changes).code(), invalid);
  EXPECT_EQ(blocks.Advance(0, 1, 2, changes).code(), invalid);  // skips position 0
  EXPECT_EQ(blocks.Advance(0, 0, 0, changes).code(), invalid);  // no rows
  EXPECT_EQ(blocks.Advance(0, 0, 9, changes).code(), invalid);  // over the chunk
  EXPECT_EQ(blocks.Fork(0, 1, 1, changes).code(), invalid);     // has not run that far
  EXPECT_TRUE(blocks.Fits(80));
  EXPECT_FALSE(blocks.Fits(81));
}

TEST(BlockManager, AdvanceTakesNothingWhereBlocksAreTooFew) {
  BlockManagerOptions options = Small();
  options.full_blocks = 3;
  BlockManager blocks(options);
  BlockChanges changes;
  ASSERT_TRUE(blocks.Start(0, {}, changes).ok());
  ASSERT_TRUE(blocks.Advance(0, 0, 8, changes).ok());
  EXPECT_EQ(blocks.RowsAvailable(0), 4);
  EXPECT_EQ(blocks.Advance(0, 8, 16, changes).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(blocks.used(kFullPool), 2);
  EXPECT_EQ(blocks.used(kSlidingPool), 2);
  ASSERT_TRUE(blocks.Advance(0, 8, 12, changes).ok());
  EXPECT_EQ(blocks.RowsAvailable(0), 0);
}

TEST(BlockManager, APrefixNeedsAllFullBlocksAndTheLastWindow) {
  BlockManager blocks(Small());
  const auto names = Names(1, 5);
  Fill(blocks, 0, 20, names);
  ASSERT_TRUE(blocks.Release(0).ok());
  EXPECT_EQ(blocks.CachedBlocks(names), 5);
  // Twelve sliding blocks, three of them cached, are wanted for another: the first of the window goes last.
  Fill(blocks, 1, 4, Names(2, 1));
  EXPECT_EQ(blocks.CachedBlocks(names), 5);
  EXPECT_EQ(blocks.CachedBlocks(std::span(names).first(2)), 2);
  auto other = names;
  other[1] = {9, 9};
  EXPECT_EQ(blocks.CachedBlocks(other), 1);

  BlockChanges changes;
  ASSERT_TRUE(blocks.Start(0, names, changes).ok());
  // The row at 20 sees 15 to 20 in the sliding layers: blocks 3 and 4.
  EXPECT_EQ(blocks.first_held(kSlidingPool, 0), 3);
  EXPECT_EQ(blocks.held(kSlidingPool, 0).size(), 2U);
  EXPECT_EQ(blocks.held(kFullPool, 0).size(), 5U);
  EXPECT_EQ(changes.tables[kFullPool].size(), 5U);
  EXPECT_EQ(changes.tables[kSlidingPool].front().index, 3);
  ASSERT_TRUE(blocks.Advance(0, 20, 21, changes).ok());
  EXPECT_TRUE(changes.copies[kFullPool].empty());  // full blocks are never written again
}

TEST(BlockManager, AFullPoolThatLostAnInnerBlockEndsThePrefixThere) {
  BlockManagerOptions options = Small();
  options.full_blocks = 5;
  options.sliding_blocks = 0;
  BlockManager blocks(options);
  const auto names = Names(1, 5);
  Fill(blocks, 0, 20, names);
  ASSERT_TRUE(blocks.Release(0).ok());
  Fill(blocks, 0, 8, Names(2, 2));  // evicts the two leaves
  EXPECT_EQ(blocks.CachedBlocks(names), 3);
}

TEST(BlockManager, ForksShareBlocksAndCopyTheOneTheyWrite) {
  BlockManager blocks(Small());
  Fill(blocks, 0, 10, Names(1, 2));  // two full blocks and half of a third
  BlockChanges changes;
  ASSERT_TRUE(blocks.Fork(0, 1, 10, changes).ok());
  EXPECT_EQ(blocks.used(kFullPool), 3);
  EXPECT_EQ(blocks.held(kFullPool, 1), blocks.held(kFullPool, 0));
  const int32_t shared = blocks.held(kFullPool, 0)[2];
  // The fork computes the last token again, in a copy; the first then has the block to itself.
  ASSERT_TRUE(blocks.Advance(1, 9, 10, changes).ok());
  ASSERT_EQ(changes.copies[kFullPool].size(), 1U);
  EXPECT_EQ(changes.copies[kFullPool][0].slot, 1);
  EXPECT_EQ(changes.copies[kFullPool][0].from, shared);
  EXPECT_EQ(changes.copies[kFullPool][0].to, blocks.held(kFullPool, 1)[2]);
  EXPECT_EQ(changes.copies[kSlidingPool].size(), 1U);
  ASSERT_TRUE(blocks.Advance(0, 10, 11, changes).ok());
  EXPECT_EQ(changes.copies[kFullPool].size(), 1U);
  EXPECT_EQ(blocks.held(kFullPool, 0)[2], shared);
}

TEST(BlockManager, WhoWritesFirstCopiesWhoeverItIs) {
  BlockManager blocks(Small());
  Fill(blocks, 0, 10, Names(1, 2));
  BlockChanges changes;
  ASSERT_TRUE(blocks.Fork(0, 1, 10, changes).ok());
  ASSERT_TRUE(blocks.Advance(0, 10, 11, changes).ok());
  ASSERT_EQ(changes.copies[kFullPool].size(), 1U);
  EXPECT_EQ(changes.copies[kFullPool][0].slot, 0);
  ASSERT_TRUE(blocks.Advance(1, 9, 10, changes).ok());
  EXPECT_EQ(changes.copies[kFullPool].size(), 1U);
}

}  // namespace
}  // namespace alphecca::engine

#include "worker/engine/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <set>

namespace alphecca::engine {
namespace {

model::BlockHash Hash(uint64_t n) {
  return {n, ~n};
}

TEST(BlockPool, TheBlockIdleLongestGoesFirst) {
  BlockPool pool(3);
  for (uint64_t i = 0; i < 3; ++i) {
    pool.Name(pool.Take(), Hash(i));
  }
  for (const uint64_t i : {1, 2, 0}) {
    pool.Drop(pool.Find(Hash(i)));
  }
  EXPECT_EQ(pool.idle(), 3);
  pool.Share(pool.Find(Hash(1)));  // in use again: not the oldest any more
  pool.Drop(pool.Find(Hash(1)));
  pool.Take();
  EXPECT_EQ(pool.Find(Hash(2)), -1);
  pool.Take();
  EXPECT_EQ(pool.Find(Hash(0)), -1);
  EXPECT_NE(pool.Find(Hash(1)), -1);
  pool.Take();
  EXPECT_EQ(pool.Take(), -1);
}

TEST(BlockPool, EventsOfOneIntervalCancelOut) {
  BlockPool pool(1);
  pool.Name(pool.Take(), Hash(1));
  EXPECT_EQ(pool.TakeEvents().stored, std::vector{Hash(1)});
  pool.Drop(0);
  pool.Name(pool.Take(), Hash(2));  // 1 goes
  pool.Drop(0);
  pool.Name(pool.Take(), Hash(1));  // 2 goes, 1 comes back
  const BlockEvents events = pool.TakeEvents();
  EXPECT_TRUE(events.stored.empty());
  EXPECT_TRUE(events.removed.empty());
  EXPECT_EQ(pool.Names(), std::vector{Hash(1)});
}

// The naive model: lists, searched from end to end.
struct NaivePool {
  struct Block {
    int users = 0;
    int64_t name = -1;
  };
  std::vector<Block> blocks;
  std::list<int32_t> idle;  // oldest first

  int64_t Used() const {
    return std::count_if(blocks.begin(), blocks.end(), [](const Block& b) { return b.users > 0; });
  }
  int32_t Find(int64_t name) const {
    const auto found = std::find_if(blocks.begin(), blocks.end(), [&](const Block& b) { return b.name == name; });
    return found == blocks.end() ? -1 : static_cast<int32_t>(found - blocks.begin());
  }
};

TEST(BlockPool, RandomOperationsAgreeWithANaiveModel) {
  for (uint32_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    const auto draw = [&](int64_t low, int64_t high) {
      return std::uniform_int_distribution<int64_t>(low, high)(random);
    };
    BlockPool pool(draw(0, 12));
    NaivePool naive{std::vector<NaivePool::Block>(static_cast<size_t>(pool.capacity())), {}};
    std::set<int64_t> known;  // by who followed the events
    for (int operation = 0; operation < 200; ++operation) {
      const int64_t kind = draw(0, 4);
      const auto any = static_cast<int32_t>(draw(0, std::max<int64_t>(pool.capacity() - 1, 0)));
      if (kind == 0) {
        const int32_t block = pool.Take();
        ASSERT_EQ(block >= 0, naive.Used() < pool.capacity());
        if (block < 0) {
          continue;
        }
        NaivePool::Block& entry = naive.blocks[static_cast<size_t>(block)];
        ASSERT_EQ(entry.users, 0);
        if (entry.name >= 0) {
          ASSERT_EQ(naive.idle.front(), block) << "not the one idle longest";
          ASSERT_TRUE(std::all_of(naive.blocks.begin(), naive.blocks.end(), [](const NaivePool::Block& b) {
            return b.users > 0 || b.name >= 0;
          })) << "a free block was there";
          naive.idle.pop_front();
        }
        entry = {1, -1};
      } else if (pool.capacity() > 0) {
        NaivePool::Block& entry = naive.blocks[static_cast<size_t>(any)];
        if (kind == 1 && entry.users > 0) {
          pool.Drop(any);
          if (--entry.users == 0 && entry.name >= 0) {
            naive.idle.push_back(any);
          }
        } else if (kind == 2 && entry.users > 0) {
          const int64_t name = draw(0, 15);
          pool.Name(any, Hash(static_cast<uint64_t>(name)));
          if (entry.name < 0 && naive.Find(name) < 0) {
            entry.name = name;
          }
        } else if (kind == 3 && (entry.users > 0 || entry.name >= 0)) {
          pool.Share(any);
          naive.idle.remove(any);
          ++entry.users;
        } else if (kind == 4) {
          const BlockEvents events = pool.TakeEvents();
          for (const model::BlockHash& name : events.removed) {
            ASSERT_EQ(known.erase(static_cast<int64_t>(name.lo)), 1U);
          }
          for (const model::BlockHash& name : events.stored) {
            ASSERT_TRUE(known.insert(static_cast<int64_t>(name.lo)).second);
          }
          for (int64_t name = 0; name < 16; ++name) {
            ASSERT_EQ(known.contains(name), naive.Find(name) >= 0);
          }
        }
      }
      ASSERT_EQ(pool.used(), naive.Used());
      ASSERT_EQ(pool.idle(), static_cast<int64_t>(naive.idle.size()));
      for (int64_t name = 0; name < 16; ++name) {
        ASSERT_EQ(pool.Find(Hash(static_cast<uint64_t>(name))), naive.Find(name));
      }
    }
  }
}

}  // namespace
}  // namespace alphecca::engine

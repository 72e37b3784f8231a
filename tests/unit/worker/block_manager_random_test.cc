// The block manager against paper: a model that remembers which token of which text lies in each place of each block,
// who holds a block, and what it is called. Every row that runs must see its own text, in places that nobody else has
// or loses; and what the manager says of room and names must be what the paper shows.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "worker/engine/block_manager.h"

namespace alphecca::engine {
namespace {

using kernels::kFullPool;
using kernels::kSlidingPool;
using kernels::PoolKind;
using model::BlockHash;

constexpr PoolKind kPools[] = {kFullPool, kSlidingPool};
constexpr int64_t kTextTokens = 48;

// Position p of a text: names all tokens up to it.
using Text = std::vector<uint64_t>;

struct PaperSlot {
  Text text;
  int64_t next = 0;
  int64_t named = 0;
  std::array<std::map<int64_t, int32_t>, 2> blocks;  // of each pool, by logical index
};

struct PaperPool {
  std::vector<std::vector<uint64_t>> places;  // by block; 0: nothing
  std::map<int32_t, uint64_t> names;          // by block
  int32_t Find(uint64_t name) const {
    const auto found = std::find_if(names.begin(), names.end(), [&](const auto& n) { return n.second == name; });
    return found == names.end() ? -1 : found->first;
  }
};

class Simulation {
 public:
  explicit Simulation(uint32_t seed) : random_(seed) {
    options_ = {.slots = static_cast<int>(Draw(1, 4)),
                .block_tokens = static_cast<int>(Draw(1, 5)),
                .full_blocks = Draw(0, 3) == 0 ? 0 : Draw(3, 24),
                .sliding_blocks = 0,
                .sliding_window = static_cast<int>(Draw(1, 9)),
                .chunk_tokens = Draw(1, 7)};
    options_.sliding_blocks = options_.full_blocks == 0 || Draw(0, 3) > 0 ? Draw(3, 20) : 0;
    manager_.emplace(options_);
    for (const PoolKind pool : kPools) {
      paper_[pool].places.resize(static_cast<size_t>(manager_->capacity(pool)));
    }
  }

  void Go() {
    for (int operation = 0; operation < 120; ++operation) {
      const auto slot = static_cast<int>(Draw(0, options_.slots - 1));
      const int64_t kind = Draw(0, 9);
      if (!slots_.contains(slot)) {
        ASSERT_NO_FATAL_FAILURE(kind < 3 ? Fork(slot) : Start(slot));
      } else if (kind == 0) {
        ASSERT_NO_FATAL_FAILURE(Release(slot));
      } else {
        ASSERT_NO_FATAL_FAILURE(Advance(slot));
      }
      ASSERT_NO_FATAL_FAILURE(Compare());
    }
    while (!slots_.empty()) {
      ASSERT_NO_FATAL_FAILURE(Release(slots_.begin()->first));
    }
    ASSERT_NO_FATAL_FAILURE(Compare());
    EXPECT_EQ(manager_->used(kFullPool) + manager_->used(kSlidingPool), 0);
  }

  int64_t refused() const { return refused_; }
  int64_t copied() const { return copied_; }
  int64_t shared() const { return shared_; }

 private:
  int64_t Draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  bool Has(PoolKind pool) const { return manager_->capacity(pool) > 0; }
  int64_t FirstSeen(PoolKind pool, int64_t position) const {
    return pool == kFullPool ? 0 : std::max<int64_t>(position - options_.sliding_window + 1, 0);
  }
  static BlockHash Hash(uint64_t name) { return {name, ~name}; }

  // Goes on from the first `tokens` tokens of `text`; beginnings are often alike.
  Text Continue(Text text, int64_t tokens) {
    text.resize(static_cast<size_t>(tokens));
    while (static_cast<int64_t>(text.size()) < kTextTokens) {
      const auto token = static_cast<uint64_t>(text.size() < 10 ? 1 : Draw(1, 2));
      text.push_back(((text.empty() ? 1 : text.back()) * 0x9E3779B97F4A7C15U) ^ (token * 0xD1B54A32D192ED03U));
    }
    return text;
  }
  std::vector<BlockHash> NamesOf(const Text& text) const {
    std::vector<BlockHash> names;
    for (size_t end = static_cast<size_t>(options_.block_tokens); end <= text.size();
         end += static_cast<size_t>(options_.block_tokens)) {
      names.push_back(Hash(text[end - 1]));
    }
    return names;
  }

  int64_t CachedBlocks(std::span<const BlockHash> names) const {
    for (auto count = static_cast<int64_t>(names.size()); count > 0; --count) {
      const bool there = std::all_of(std::begin(kPools), std::end(kPools), [&](PoolKind pool) {
        const int64_t first = FirstSeen(pool, count * options_.block_tokens) / options_.block_tokens;
        const auto some = names.subspan(static_cast<size_t>(first), static_cast<size_t>(count - first));
        return !Has(pool) || std::all_of(some.begin(), some.end(),
                                         [&](const BlockHash& name) { return paper_[pool].Find(name.lo) >= 0; });
      });
      if (there) {
        return count;
      }
    }
    return 0;
  }

  void Start(int slot) {
    PaperSlot entry{.text = Continue({}, 0), .next = 0, .named = 0, .blocks = {}};
    const std::vector<BlockHash> names = NamesOf(entry.text);
    ASSERT_EQ(manager_->CachedBlocks(names), CachedBlocks(names));
    const int64_t most = CachedBlocks(std::span(names).first(static_cast<size_t>(Draw(0, std::ssize(names) - 1))));
    const auto cached = std::span(names).first(static_cast<size_t>(most));
    ASSERT_NO_FATAL_FAILURE(CheckRoom(slot, cached));
    BlockChanges changes;
    ASSERT_TRUE(manager_->Start(slot, cached, changes).ok());
    entry.next = most * options_.block_tokens;
    entry.named = most;
    slots_[slot] = entry;
    shared_ += most;
    Apply(slot, changes);
  }

  // Who finds room can run all that it found room for, if nobody else does.
  void CheckRoom(int slot, std::span<const BlockHash> cached) {
    const auto begin = static_cast<int64_t>(cached.size()) * options_.block_tokens;
    const int64_t tokens = Draw(begin + 1, kTextTokens);
    if (!manager_->CanStart(cached, tokens, {0, 0})) {
      return;
    }
    BlockManager alone = *manager_;
    BlockChanges changes;
    ASSERT_TRUE(alone.Start(slot, cached, changes).ok());
    for (int64_t next = begin; next < tokens; next += options_.chunk_tokens) {
      ASSERT_TRUE(alone.Advance(slot, next, std::min(next + options_.chunk_tokens, tokens), changes).ok())
          << "no room for rows from " << next << " of " << tokens;
    }
  }

  void Fork(int slot) {
    if (slots_.empty()) {
      return;
    }
    const auto from = std::next(slots_.begin(), Draw(0, std::ssize(slots_) - 1));
    const PaperSlot& donor = from->second;
    const int64_t near = std::clamp<int64_t>(donor.next - Draw(-1, 3), 1, kTextTokens - 1);  // most can be
    const int64_t tokens = Draw(0, 3) == 0 ? Draw(1, kTextTokens - 1) : near;
    const bool can = donor.next >= tokens && std::all_of(std::begin(kPools), std::end(kPools), [&](PoolKind pool) {
                       const int64_t first = FirstSeen(pool, tokens - 1) / options_.block_tokens;
                       return !Has(pool) || (!donor.blocks[pool].empty() && donor.blocks[pool].begin()->first <= first);
                     });
    ASSERT_EQ(manager_->CanFork(from->first, tokens), can);
    BlockChanges changes;
    ASSERT_EQ(manager_->Fork(from->first, slot, tokens, changes).ok(), can);
    if (can) {
      slots_[slot] = {.text = Continue(donor.text, tokens),
                      .next = tokens - 1,
                      .named = tokens / options_.block_tokens,
                      .blocks = {}};
      Apply(slot, changes);
    }
  }

  void Release(int slot) {
    ASSERT_TRUE(manager_->Release(slot).ok());
    slots_.erase(slot);
  }

  void Advance(int slot) {
    PaperSlot& entry = slots_.at(slot);
    const int64_t rows = Draw(1, options_.chunk_tokens);
    const int64_t end = entry.next + rows;
    if (end > kTextTokens) {
      return Release(slot);
    }
    const int64_t room = manager_->RowsAvailable(slot);
    const int64_t missing = manager_->Missing(slot, kFullPool, end);
    const int64_t used[] = {manager_->used(kFullPool), manager_->used(kSlidingPool)};
    BlockChanges changes;
    const absl::Status status = manager_->Advance(slot, entry.next, end, changes);
    ASSERT_EQ(status.ok(), rows <= room) << status;
    if (!status.ok()) {
      ++refused_;
      ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
      ASSERT_TRUE(changes.tables[0].empty() && changes.tables[1].empty());
      ASSERT_EQ(manager_->used(kFullPool), used[kFullPool]);
      ASSERT_EQ(manager_->used(kSlidingPool), used[kSlidingPool]);
      return;
    }
    ASSERT_EQ(std::ssize(changes.tables[kFullPool]) - std::ssize(changes.copies[kFullPool]), missing);
    ASSERT_NO_FATAL_FAILURE(TakeNew(entry, changes));
    ASSERT_NO_FATAL_FAILURE(Run(entry, end));
    for (; (entry.named + 1) * options_.block_tokens <= entry.next && Draw(0, 3) > 0; ++entry.named) {
      Name(slot, entry);
    }
  }

  // What an advance hands out was nobody's, and is called nothing any more. Copies come first: what was copied may be
  // given back and handed out again.
  void TakeNew(PaperSlot& entry, const BlockChanges& changes) {
    for (const PoolKind pool : kPools) {
      for (const BlockCopy& copy : changes.copies[pool]) {
        ++copied_;
        paper_[pool].places[static_cast<size_t>(copy.to)] = paper_[pool].places[static_cast<size_t>(copy.from)];
      }
      for (const kernels::BlockTableUpdate& update : changes.tables[pool]) {
        ASSERT_EQ(Holders(pool, update.block), 0) << "block " << update.block << " has two owners";
        paper_[pool].names.erase(update.block);
        entry.blocks[pool][update.index] = update.block;
      }
    }
  }

  void Apply(int slot, const BlockChanges& changes) {
    for (const PoolKind pool : kPools) {
      for (const kernels::BlockTableUpdate& update : changes.tables[pool]) {
        ASSERT_EQ(update.slot, slot);
        slots_.at(slot).blocks[pool][update.index] = update.block;
      }
    }
  }

  int64_t Holders(PoolKind pool, int32_t block) const {
    return std::count_if(slots_.begin(), slots_.end(), [&](const auto& slot) {
      const auto& blocks = slot.second.blocks[pool];
      return std::any_of(blocks.begin(), blocks.end(), [&](const auto& b) { return b.second == block; });
    });
  }

  void Run(PaperSlot& entry, int64_t end) {
    for (const PoolKind pool : kPools) {
      for (int64_t p = entry.next; Has(pool) && p < end; ++p) {
        const auto block = entry.blocks[pool].find(p / options_.block_tokens);
        ASSERT_NE(block, entry.blocks[pool].end()) << "no block for position " << p;
        ASSERT_EQ(Holders(pool, block->second), 1) << "a shared block is written";
        ASSERT_FALSE(paper_[pool].names.contains(block->second)) << "a block with a name is written";
        std::vector<uint64_t>& places = paper_[pool].places[static_cast<size_t>(block->second)];
        places.resize(static_cast<size_t>(options_.block_tokens));
        places[static_cast<size_t>(p % options_.block_tokens)] = entry.text[static_cast<size_t>(p)];
      }
      for (int64_t p = entry.next; Has(pool) && p < end; ++p) {
        for (int64_t seen = FirstSeen(pool, p); seen <= p; ++seen) {
          const auto block = entry.blocks[pool].find(seen / options_.block_tokens);
          ASSERT_NE(block, entry.blocks[pool].end()) << "row " << p << " sees no block for " << seen;
          ASSERT_EQ(paper_[pool].places[static_cast<size_t>(block->second)].at(
                        static_cast<size_t>(seen % options_.block_tokens)),
                    entry.text[static_cast<size_t>(seen)])
              << "row " << p << " sees another's token at " << seen;
        }
      }
    }
    entry.next = end;
  }

  void Name(int slot, const PaperSlot& entry) {
    const uint64_t name = entry.text[static_cast<size_t>((entry.named + 1) * options_.block_tokens - 1)];
    manager_->Name(slot, entry.named, Hash(name));
    for (const PoolKind pool : kPools) {
      const auto block = entry.blocks[pool].find(entry.named);
      if (block != entry.blocks[pool].end() && !paper_[pool].names.contains(block->second) &&
          paper_[pool].Find(name) < 0) {
        paper_[pool].names[block->second] = name;
      }
    }
  }

  void Compare() {
    for (auto& [slot, entry] : slots_) {
      manager_->RowsAvailable(slot);  // gives back what left the window
      auto& sliding = entry.blocks[kSlidingPool];
      sliding.erase(sliding.begin(), sliding.lower_bound(FirstSeen(kSlidingPool, entry.next) / options_.block_tokens));
    }
    for (const PoolKind pool : kPools) {
      std::set<int32_t> used;
      for (const auto& [slot, entry] : slots_) {
        for (const auto& [logical, block] : entry.blocks[pool]) {
          used.insert(block);
        }
      }
      ASSERT_EQ(manager_->used(pool), std::ssize(used)) << "pool " << pool;
      ASSERT_EQ(manager_->idle(pool), std::count_if(paper_[pool].names.begin(), paper_[pool].names.end(),
                                                    [&](const auto& named) { return !used.contains(named.first); }));
    }
    const BlockEvents events = manager_->TakeEvents();
    for (const BlockHash& name : events.removed) {
      ASSERT_EQ(told_.erase(name.lo), 1U) << "removed, but never told of";
    }
    for (const BlockHash& name : events.stored) {
      ASSERT_TRUE(told_.insert(name.lo).second) << "told of twice";
    }
    std::set<uint64_t> names;
    for (const auto& [block, name] : paper_[Has(kFullPool) ? kFullPool : kSlidingPool].names) {
      names.insert(name);
    }
    ASSERT_EQ(told_, names);
    ASSERT_EQ(manager_->Names().size(), names.size());
  }

  std::mt19937 random_;
  BlockManagerOptions options_;
  std::optional<BlockManager> manager_;
  PaperPool paper_[2];
  std::map<int, PaperSlot> slots_;  // those that are open
  std::set<uint64_t> told_;         // names, by the events
  int64_t refused_ = 0;
  int64_t copied_ = 0;
  int64_t shared_ = 0;
};

TEST(BlockManagerRandom, WhatRowsSeeIsTheirOwn) {
  int64_t refused = 0;
  int64_t copied = 0;
  int64_t shared = 0;
  for (uint32_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Simulation simulation(seed);
    ASSERT_NO_FATAL_FAILURE(simulation.Go());
    refused += simulation.refused();
    copied += simulation.copied();
    shared += simulation.shared();
  }
  // The seeds reach what they are to test.
  EXPECT_GT(refused, 3000);
  EXPECT_GT(copied, 2000);
  EXPECT_GT(shared, 3000);
}

}  // namespace
}  // namespace alphecca::engine

#include "worker/engine/block_manager.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::engine {

using kernels::kFullPool;
using kernels::kSlidingPool;
using kernels::PoolKind;

namespace {
constexpr PoolKind kPools[] = {kFullPool, kSlidingPool};
}  // namespace

BlockManager::BlockManager(const BlockManagerOptions& options)
    : options_(options),
      pools_{BlockPool(options.full_blocks), BlockPool(options.sliding_blocks)},
      slots_(static_cast<size_t>(std::max(options.slots, 0))) {}

int64_t BlockManager::Need(PoolKind pool, int64_t tokens) const {
  if (pools_[pool].capacity() == 0) {
    return 0;
  }
  return pool == kFullPool
             ? BlocksFor(tokens, options_.block_tokens)
             : SlidingBlocksFor(tokens, options_.sliding_window, options_.chunk_tokens, options_.block_tokens);
}

int64_t BlockManager::FirstBlock(PoolKind pool, int64_t position) const {
  const int64_t first = pool == kFullPool ? 0 : std::max<int64_t>(position - options_.sliding_window + 1, 0);
  return first / options_.block_tokens;
}

bool BlockManager::Fits(int64_t tokens) const {
  return Need(kFullPool, tokens) <= capacity(kFullPool) && Need(kSlidingPool, tokens) <= capacity(kSlidingPool);
}

absl::Status BlockManager::CheckOpen(int slot) const {
  if (slot < 0 || slot >= static_cast<int>(slots_.size()) || !At(slot).open) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " is not open"));
  }
  return absl::OkStatus();
}

absl::Status BlockManager::CheckFree(int slot) const {
  if (slot < 0 || slot >= static_cast<int>(slots_.size())) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, ": there are ", slots_.size()));
  }
  return At(slot).open ? absl::InvalidArgumentError(absl::StrCat("slot ", slot, " is taken")) : absl::OkStatus();
}

// ---- Starting behind what is there ----------------------------------------------------------------------------------

int64_t BlockManager::CachedBlocks(std::span<const model::BlockHash> names) const {
  int64_t cached = 0;
  int64_t run = 0;  // blocks in a row, up to this one, that the sliding pool has
  for (int64_t i = 0; i < static_cast<int64_t>(names.size()); ++i) {
    const model::BlockHash& name = names[static_cast<size_t>(i)];
    if (capacity(kFullPool) > 0 && pools_[kFullPool].Find(name) < 0) {
      break;
    }
    if (capacity(kSlidingPool) == 0) {
      cached = i + 1;
      continue;
    }
    run = pools_[kSlidingPool].Find(name) < 0 ? 0 : run + 1;
    const int64_t window = i + 1 - FirstBlock(kSlidingPool, (i + 1) * options_.block_tokens);
    cached = run >= window ? i + 1 : cached;
  }
  return cached;
}

bool BlockManager::CanStart(std::span<const model::BlockHash> cached, int64_t tokens, const int64_t (&spare)[2]) const {
  const auto blocks = static_cast<int64_t>(cached.size());
  for (const PoolKind kind : kPools) {
    if (capacity(kind) == 0) {
      continue;
    }
    // Cached blocks that nobody uses are taken out of what is available; those in use cost nothing, but are no room for
    // others once a window has passed them.
    const int64_t first = FirstBlock(kind, blocks * options_.block_tokens);
    int64_t shared = 0;
    for (int64_t i = first; i < blocks; ++i) {
      const int32_t block = pools_[kind].Find(cached[static_cast<size_t>(i)]);
      shared += block >= 0 && pools_[kind].users(block) > 0 ? 1 : 0;
    }
    const int64_t wanted = std::min(Need(kind, tokens), BlocksFor(tokens, options_.block_tokens) - first - shared);
    if (wanted + spare[kind] > available(kind)) {
      return false;
    }
  }
  return true;
}

absl::Status BlockManager::Start(int slot, std::span<const model::BlockHash> cached, BlockChanges& changes) {
  RETURN_IF_ERROR(CheckFree(slot));
  const auto blocks = static_cast<int64_t>(cached.size());
  if (CachedBlocks(cached) != blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("slot ", slot, ": of ", blocks, " blocks only ", CachedBlocks(cached), " are cached"));
  }
  Slot& entry = At(slot);
  entry.open = true;
  entry.next = blocks * options_.block_tokens;
  for (const PoolKind kind : kPools) {
    if (capacity(kind) == 0) {
      continue;
    }
    entry.held[kind].first = FirstBlock(kind, entry.next);
    for (int64_t i = entry.held[kind].first; i < blocks; ++i) {
      const int32_t block = pools_[kind].Find(cached[static_cast<size_t>(i)]);
      pools_[kind].Share(block);
      Hold(slot, kind, i, block, changes);
    }
  }
  return absl::OkStatus();
}

bool BlockManager::CanFork(int from, int64_t tokens) const {
  if (!CheckOpen(from).ok() || tokens < 1 || At(from).next < tokens) {
    return false;
  }
  return std::all_of(std::begin(kPools), std::end(kPools), [&](PoolKind kind) {
    return capacity(kind) == 0 || At(from).held[kind].first <= FirstBlock(kind, tokens - 1);
  });
}

absl::Status BlockManager::Fork(int from, int slot, int64_t tokens, BlockChanges& changes) {
  RETURN_IF_ERROR(CheckFree(slot));
  if (!CanFork(from, tokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat("slot ", from, " no longer holds what a sequence of its first ", tokens, " tokens needs"));
  }
  Slot& entry = At(slot);
  entry.open = true;
  entry.next = tokens - 1;
  for (const PoolKind kind : kPools) {
    if (capacity(kind) == 0) {
      continue;
    }
    const Held& donor = At(from).held[kind];
    entry.held[kind].first = FirstBlock(kind, entry.next);
    for (int64_t i = entry.held[kind].first; i < BlocksFor(tokens, options_.block_tokens); ++i) {
      const int32_t block = donor.blocks[static_cast<size_t>(i - donor.first)];
      pools_[kind].Share(block);
      Hold(slot, kind, i, block, changes);
    }
  }
  return absl::OkStatus();
}

void BlockManager::Hold(int index, PoolKind pool, int64_t logical, int32_t block, BlockChanges& changes) {
  At(index).held[pool].blocks.push_back(block);
  changes.tables[pool].push_back({index, static_cast<int32_t>(logical), block});
}

// ---- Going on -------------------------------------------------------------------------------------------------------

void BlockManager::Trim(Slot& slot) {
  Held& held = slot.held[kSlidingPool];
  while (!held.blocks.empty() && held.first < FirstBlock(kSlidingPool, slot.next)) {
    pools_[kSlidingPool].Drop(held.blocks.front());
    held.blocks.pop_front();
    ++held.first;
  }
}

bool BlockManager::CopiesNext(const Slot& slot, PoolKind pool) const {
  const Held& held = slot.held[pool];
  const int64_t logical = slot.next / options_.block_tokens;
  return logical < held.end() && !Writable(pool, held.blocks[static_cast<size_t>(logical - held.first)]);
}

int64_t BlockManager::RowsAvailable(int slot) {
  if (!CheckOpen(slot).ok()) {
    return 0;
  }
  Slot& entry = At(slot);
  Trim(entry);
  int64_t rows = options_.chunk_tokens;
  for (const PoolKind kind : kPools) {
    if (capacity(kind) == 0) {
      continue;
    }
    const int64_t blocks = available(kind) - (CopiesNext(entry, kind) ? 1 : 0);
    rows = blocks < 0 ? 0 : std::min(rows, (entry.held[kind].end() + blocks) * options_.block_tokens - entry.next);
  }
  return rows;
}

absl::Status BlockManager::Advance(int slot, int64_t begin, int64_t end, BlockChanges& changes) {
  RETURN_IF_ERROR(CheckOpen(slot));
  Slot& entry = At(slot);
  if (begin != entry.next || end <= begin || end - begin > options_.chunk_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, ": rows [", begin, ", ", end, ") do not go on at ",
                                                   entry.next, " with 1 to ", options_.chunk_tokens, " rows"));
  }
  if (RowsAvailable(slot) < end - begin) {
    return absl::ResourceExhaustedError(absl::StrCat("slot ", slot, ": rows [", begin, ", ", end,
                                                     ") need more KV blocks than the ", available(kFullPool),
                                                     " full and ", available(kSlidingPool), " sliding ones available"));
  }
  for (const PoolKind kind : kPools) {
    if (capacity(kind) > 0) {
      Extend(slot, kind, end, changes);
    }
  }
  entry.next = end;
  return absl::OkStatus();
}

void BlockManager::Extend(int index, PoolKind pool, int64_t end, BlockChanges& changes) {
  Slot& slot = At(index);
  Held& held = slot.held[pool];
  if (CopiesNext(slot, pool)) {
    const int64_t logical = slot.next / options_.block_tokens;
    int32_t& block = held.blocks[static_cast<size_t>(logical - held.first)];
    const int32_t copy = pools_[pool].Take();
    changes.copies[pool].push_back({.slot = index, .from = block, .to = copy});
    changes.tables[pool].push_back({index, static_cast<int32_t>(logical), copy});
    pools_[pool].Drop(block);
    block = copy;
  }
  for (int64_t logical = held.end(); logical < BlocksFor(end, options_.block_tokens); ++logical) {
    Hold(index, pool, logical, pools_[pool].Take(), changes);
  }
}

void BlockManager::Name(int slot, int64_t logical, const model::BlockHash& name) {
  for (const PoolKind kind : kPools) {
    const Held& held = At(slot).held[kind];
    if (logical >= held.first && logical < held.end()) {
      pools_[kind].Name(held.blocks[static_cast<size_t>(logical - held.first)], name);
    }
  }
}

int64_t BlockManager::Missing(int slot, PoolKind pool, int64_t tokens) const {
  if (capacity(pool) == 0) {
    return 0;
  }
  const Held& held = At(slot).held[pool];
  const int64_t ahead = BlocksFor(tokens, options_.block_tokens) - held.end();
  const int64_t most = Need(pool, tokens) - static_cast<int64_t>(held.blocks.size());
  return std::max<int64_t>(0, std::min(ahead, most));
}

absl::Status BlockManager::Release(int slot) {
  RETURN_IF_ERROR(CheckOpen(slot));
  Slot& entry = At(slot);
  for (const PoolKind kind : kPools) {
    std::deque<int32_t>& blocks = entry.held[kind].blocks;
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
      pools_[kind].Drop(*block);
    }
  }
  entry = Slot{};
  return absl::OkStatus();
}

}  // namespace alphecca::engine

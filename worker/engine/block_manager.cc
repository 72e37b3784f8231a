#include "worker/engine/block_manager.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::engine {

using kernels::kFullPool;
using kernels::kSlidingPool;
using kernels::PoolKind;

BlockManager::BlockManager(const BlockManagerOptions& options)
    : options_(options), slots_(static_cast<size_t>(std::max(options.slots, 0))) {
  const int64_t capacities[2] = {options.full_blocks, options.sliding_blocks};
  for (const PoolKind kind : {kFullPool, kSlidingPool}) {
    Pool& pool = pools_[kind];
    pool.capacity = capacities[kind];
    pool.free.reserve(static_cast<size_t>(pool.capacity));
    for (int64_t block = pool.capacity - 1; block >= 0; --block) {
      pool.free.push_back(static_cast<int32_t>(block));
    }
  }
}

int64_t BlockManager::Need(PoolKind pool, int64_t tokens) const {
  if (pools_[pool].capacity == 0) {
    return 0;
  }
  return pool == kFullPool
             ? BlocksFor(tokens, options_.block_tokens)
             : SlidingBlocksFor(tokens, options_.sliding_window, options_.chunk_tokens, options_.block_tokens);
}

bool BlockManager::Fits(int64_t tokens) const {
  return Need(kFullPool, tokens) <= pools_[kFullPool].capacity &&
         Need(kSlidingPool, tokens) <= pools_[kSlidingPool].capacity;
}

bool BlockManager::CanAdmit(int64_t tokens) const {
  return Need(kFullPool, tokens) <= pools_[kFullPool].capacity - pools_[kFullPool].reserved &&
         Need(kSlidingPool, tokens) <= pools_[kSlidingPool].capacity - pools_[kSlidingPool].reserved;
}

absl::Status BlockManager::Admit(int slot, int64_t tokens) {
  if (!ValidSlot(slot)) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, ": there are ", slots_.size()));
  }
  Slot& entry = slots_[static_cast<size_t>(slot)];
  if (entry.admitted) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " is taken"));
  }
  if (!CanAdmit(tokens)) {
    return absl::ResourceExhaustedError(absl::StrCat(tokens, " tokens need ", Need(kFullPool, tokens), " full and ",
                                                     Need(kSlidingPool, tokens), " sliding KV blocks; unreserved are ",
                                                     pools_[kFullPool].capacity - pools_[kFullPool].reserved, " and ",
                                                     pools_[kSlidingPool].capacity - pools_[kSlidingPool].reserved));
  }
  entry.admitted = true;
  entry.tokens = tokens;
  for (const PoolKind kind : {kFullPool, kSlidingPool}) {
    entry.held[kind].reserved = Need(kind, tokens);
    pools_[kind].reserved += entry.held[kind].reserved;
  }
  return absl::OkStatus();
}

void BlockManager::Trim(Slot& slot, int64_t begin) {
  Held& held = slot.held[kSlidingPool];
  const int64_t first_visible = begin - options_.sliding_window + 1;
  while (!held.blocks.empty() && (held.first + 1) * options_.block_tokens <= first_visible) {
    pools_[kSlidingPool].free.push_back(held.blocks.front());
    held.blocks.pop_front();
    ++held.first;
  }
}

absl::Status BlockManager::Extend(int index, PoolKind kind, int64_t end,
                                  std::vector<kernels::BlockTableUpdate>& table) {
  Pool& pool = pools_[kind];
  if (pool.capacity == 0) {
    return absl::OkStatus();
  }
  Held& held = slots_[static_cast<size_t>(index)].held[kind];
  for (int64_t logical = held.first + static_cast<int64_t>(held.blocks.size());
       logical < BlocksFor(end, options_.block_tokens); ++logical) {
    if (pool.free.empty() || static_cast<int64_t>(held.blocks.size()) == held.reserved) {
      // The reservation covers every legal advance: reaching this is a fault of the bookkeeping.
      return absl::InternalError(absl::StrCat("slot ", index, " needs more than its ", held.reserved,
                                              " reserved blocks of pool ", static_cast<int>(kind)));
    }
    held.blocks.push_back(pool.free.back());
    pool.free.pop_back();
    table.push_back({index, static_cast<int32_t>(logical), held.blocks.back()});
  }
  return absl::OkStatus();
}

absl::Status BlockManager::Advance(int slot, int64_t begin, int64_t end,
                                   std::vector<kernels::BlockTableUpdate> (&tables)[2]) {
  if (!ValidSlot(slot) || !slots_[static_cast<size_t>(slot)].admitted) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " was not admitted"));
  }
  Slot& entry = slots_[static_cast<size_t>(slot)];
  if (begin != entry.next || end <= begin || end > entry.tokens || end - begin > options_.chunk_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, ": rows [", begin, ", ", end, ") do not go on at ",
                                                   entry.next, " with 1 to ", options_.chunk_tokens, " rows within ",
                                                   entry.tokens, " tokens"));
  }
  Trim(entry, begin);
  RETURN_IF_ERROR(Extend(slot, kFullPool, end, tables[kFullPool]));
  RETURN_IF_ERROR(Extend(slot, kSlidingPool, end, tables[kSlidingPool]));
  entry.next = end;
  return absl::OkStatus();
}

absl::Status BlockManager::Release(int slot) {
  if (!ValidSlot(slot) || !slots_[static_cast<size_t>(slot)].admitted) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " was not admitted"));
  }
  Slot& entry = slots_[static_cast<size_t>(slot)];
  for (const PoolKind kind : {kFullPool, kSlidingPool}) {
    Pool& pool = pools_[kind];
    pool.free.insert(pool.free.end(), entry.held[kind].blocks.rbegin(), entry.held[kind].blocks.rend());
    pool.reserved -= entry.held[kind].reserved;
  }
  entry = Slot{};
  return absl::OkStatus();
}

}  // namespace alphecca::engine

// Which KV block belongs to which sequence, in the two pools; and what of a new sequence lies there already. Pure
// bookkeeping on the host.
//
// Full-attention layers keep every block of a sequence. Sliding layers keep the blocks that some later row can still
// see: a row at position p sees p - W + 1 .. p, so a block is given back once that window has passed its end.
//
// Blocks that were filled get names (Name) and stay, once nobody uses them, until their room is wanted. A new sequence
// may start behind a prefix that is there: all its blocks in the full pool, the last window of it in the sliding one.
// Shared blocks are never written: who must write into one gets a copy first.
//
// Nothing is reserved: Advance may find too few blocks, and it is the scheduler's part to make room.
// A pool without blocks is absent (the model has no such layers) and needs none.
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "model/kv_layout.h"
#include "model/prefix_hash.h"
#include "worker/engine/block_pool.h"
#include "worker/engine/step_plan.h"

namespace alphecca::engine {

struct BlockManagerOptions {
  int slots = 1;
  int block_tokens = 16;    // S
  int64_t full_blocks = 0;  // capacities
  int64_t sliding_blocks = 0;
  int sliding_window = 0;    // W
  int64_t chunk_tokens = 1;  // rows of one sequence in one step at most
};

// What a step must do to tables and blocks before its rows run, by PoolKind.
struct BlockChanges {
  std::vector<kernels::BlockTableUpdate> tables[2];
  std::vector<BlockCopy> copies[2];
};

using model::BlocksFor;
using model::SlidingBlocksFor;

class BlockManager {
 public:
  explicit BlockManager(const BlockManagerOptions& options);

  // Whether a sequence of `tokens` tokens could run alone.
  bool Fits(int64_t tokens) const;

  // How many of these blocks (the names of a sequence's first ones) a new sequence could take over.
  int64_t CachedBlocks(std::span<const model::BlockHash> names) const;
  // Whether a sequence that starts behind these cached blocks finds room for `tokens` tokens, with so many blocks of
  // each pool (by PoolKind) left over.
  bool CanStart(std::span<const model::BlockHash> cached, int64_t tokens, const int64_t (&spare)[2]) const;
  // Opens a slot behind these blocks; its next position is the one after them. InvalidArgument: slot out of range or
  // open, blocks that are not cached.
  absl::Status Start(int slot, std::span<const model::BlockHash> cached, BlockChanges& changes);

  // Whether `from` still holds what a sequence of the same first `tokens` tokens needs to go on at the last of them.
  bool CanFork(int from, int64_t tokens) const;
  // Opens a slot that shares those blocks; its next position is tokens - 1. InvalidArgument as Start, or not CanFork.
  absl::Status Fork(int from, int slot, int64_t tokens, BlockChanges& changes);

  // Rows that the slot may run next with the blocks there are; 0: none. At most the chunk.
  int64_t RowsAvailable(int slot);
  // Makes room for rows at positions [begin, end) of the slot, which are about to run, and gives back what lies before
  // their window. ResourceExhausted: too few blocks; no row may run, nothing was taken. InvalidArgument: slot not
  // open, rows that go back, skip positions or exceed the chunk.
  absl::Status Advance(int slot, int64_t begin, int64_t end, BlockChanges& changes);
  // Names block `logical` of the slot, all of whose rows have been handed to Advance.
  void Name(int slot, int64_t logical, const model::BlockHash& name);

  // Blocks of a pool that the slot still lacks to hold `tokens` tokens.
  int64_t Missing(int slot, kernels::PoolKind pool, int64_t tokens) const;

  // Gives back all blocks. InvalidArgument: slot not open.
  absl::Status Release(int slot);

  int64_t capacity(kernels::PoolKind pool) const { return pools_[pool].capacity(); }
  int64_t used(kernels::PoolKind pool) const { return pools_[pool].used(); }
  int64_t idle(kernels::PoolKind pool) const { return pools_[pool].idle(); }
  int64_t available(kernels::PoolKind pool) const { return pools_[pool].available(); }

  // Changes of names in the pool that a router follows: the full one, or the sliding one if there is no other.
  BlockEvents TakeEvents() { return pools_[Main()].TakeEvents(); }
  std::vector<model::BlockHash> Names() const { return pools_[Main()].Names(); }
  bool Has(const model::BlockHash& name) const { return pools_[Main()].Find(name) >= 0; }

  // The blocks a slot holds, from logical block `first_held` on.
  const std::deque<int32_t>& held(kernels::PoolKind pool, int slot) const { return At(slot).held[pool].blocks; }
  int64_t first_held(kernels::PoolKind pool, int slot) const { return At(slot).held[pool].first; }

 private:
  struct Held {
    int64_t first = 0;  // logical index of the front
    std::deque<int32_t> blocks;
    int64_t end() const { return first + static_cast<int64_t>(blocks.size()); }
  };
  struct Slot {
    bool open = false;
    int64_t next = 0;  // first position not yet run
    Held held[2];
  };

  const Slot& At(int slot) const { return slots_[static_cast<size_t>(slot)]; }
  Slot& At(int slot) { return slots_[static_cast<size_t>(slot)]; }
  kernels::PoolKind Main() const {
    return pools_[kernels::kFullPool].capacity() > 0 ? kernels::kFullPool : kernels::kSlidingPool;
  }
  int64_t Need(kernels::PoolKind pool, int64_t tokens) const;
  // First logical block that a row at `position` sees in the pool.
  int64_t FirstBlock(kernels::PoolKind pool, int64_t position) const;
  absl::Status CheckOpen(int slot) const;
  absl::Status CheckFree(int slot) const;
  void Trim(Slot& slot);
  bool Writable(kernels::PoolKind pool, int32_t block) const {
    return pools_[pool].users(block) == 1 && !pools_[pool].named(block);
  }
  // Whether the block that holds the slot's next position is there but must be copied before it is written.
  bool CopiesNext(const Slot& slot, kernels::PoolKind pool) const;
  void Hold(int index, kernels::PoolKind pool, int64_t logical, int32_t block, BlockChanges& changes);
  void Extend(int index, kernels::PoolKind pool, int64_t end, BlockChanges& changes);

  BlockManagerOptions options_;
  BlockPool pools_[2];
  std::vector<Slot> slots_;
};

}  // namespace alphecca::engine

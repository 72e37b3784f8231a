// Which KV block belongs to which sequence, in the two pools. Pure bookkeeping on the host.
//
// Full-attention layers keep every block of a sequence. Sliding layers keep the blocks that some later row can still
// see: a row at position p sees p - W + 1 .. p, so a block is given back once that window has passed its end.
//
// Admission reserves the most a sequence can ever hold at once, so that one which was admitted always runs to its end.
// A pool without blocks is absent (the model has no such layers) and needs none.
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "model/kv_layout.h"

namespace alphecca::engine {

struct BlockManagerOptions {
  int slots = 1;
  int block_tokens = 16;    // S
  int64_t full_blocks = 0;  // capacities
  int64_t sliding_blocks = 0;
  int sliding_window = 0;    // W
  int64_t chunk_tokens = 1;  // rows of one sequence in one step at most
};

using model::BlocksFor;
using model::SlidingBlocksFor;

class BlockManager {
 public:
  explicit BlockManager(const BlockManagerOptions& options);

  // Whether a sequence of `tokens` tokens could run alone, and whether it can be admitted now.
  bool Fits(int64_t tokens) const;
  bool CanAdmit(int64_t tokens) const;

  // Reserves for a sequence of at most `tokens` tokens. ResourceExhausted if the pools lack the blocks,
  // InvalidArgument for a slot out of range or taken.
  absl::Status Admit(int slot, int64_t tokens);

  // Makes room for rows at positions [begin, end) of the slot, which are about to run, and gives back what lies before
  // their window. Appends the new blocks to tables[pool]. InvalidArgument: slot not admitted, rows that go back, skip
  // positions, or exceed the chunk or the admitted length.
  absl::Status Advance(int slot, int64_t begin, int64_t end, std::vector<kernels::BlockTableUpdate> (&tables)[2]);

  // Gives back all blocks and the reservation. InvalidArgument: slot not admitted.
  absl::Status Release(int slot);

  int64_t capacity(kernels::PoolKind pool) const { return pools_[pool].capacity; }
  int64_t used(kernels::PoolKind pool) const {
    return pools_[pool].capacity - static_cast<int64_t>(pools_[pool].free.size());
  }
  int64_t reserved(kernels::PoolKind pool) const { return pools_[pool].reserved; }

  // The blocks a slot holds, from logical block `first_held` on.
  const std::deque<int32_t>& held(kernels::PoolKind pool, int slot) const {
    return slots_[static_cast<size_t>(slot)].held[pool].blocks;
  }
  int64_t first_held(kernels::PoolKind pool, int slot) const {
    return slots_[static_cast<size_t>(slot)].held[pool].first;
  }

 private:
  struct Pool {
    int64_t capacity = 0;
    int64_t reserved = 0;
    std::vector<int32_t> free;  // taken from the back
  };
  struct Held {
    int64_t first = 0;  // logical index of the front
    std::deque<int32_t> blocks;
    int64_t reserved = 0;
  };
  struct Slot {
    bool admitted = false;
    int64_t tokens = 0;  // at most
    int64_t next = 0;    // first position not yet run
    Held held[2];
  };

  int64_t Need(kernels::PoolKind pool, int64_t tokens) const;
  bool ValidSlot(int slot) const { return slot >= 0 && slot < static_cast<int>(slots_.size()); }
  void Trim(Slot& slot, int64_t begin);
  absl::Status Extend(int index, kernels::PoolKind kind, int64_t end, std::vector<kernels::BlockTableUpdate>& table);

  BlockManagerOptions options_;
  Pool pools_[2];
  std::vector<Slot> slots_;
};

}  // namespace alphecca::engine

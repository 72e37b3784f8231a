// Which sequences run in the next step, and with how many rows. Pure: no clock, no threads, no device.
//
// Continuous batching: every step takes one row of each sequence that decodes, then fills up with chunks of prompts, in
// order of admission, to `step_tokens` rows. Sequences join and leave between any two steps.
//
// Admission is by priority (higher first), then arrival. The head of the queue waits until the blocks for its whole
// length are free and nobody overtakes it, so it is never starved by smaller ones. At most as many sequences run as
// there are rows (and logit rows) in a step; all that decode therefore fit in each step, and a prompt that is being
// read always gets at least one row. So every admitted sequence moves on in bounded time and nothing deadlocks.
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "worker/engine/block_manager.h"

namespace alphecca::engine {

using SequenceKey = StrongId<struct SequenceKeyTag, uint64_t>;  // unique within an engine

struct SchedulerOptions {
  int64_t step_tokens = 256;  // rows of a step at most
  int64_t logit_rows = 64;    // of which may want logits
  int max_sequences = 16;     // slots
  int owners = 1;             // ranks that sequences are spread over, each with pools of its own (wide); 1: all share
  int block_tokens = 16;
  int64_t full_blocks = 0;  // of each owner; 0: the pool is absent
  int64_t sliding_blocks = 0;
  int sliding_window = 0;
};

// What the scheduler knows of a sequence.
struct Arrival {
  SequenceKey key;
  int64_t prompt_tokens = 1;
  int64_t max_tokens = 1;
  bool prompt_logits = false;  // every prompt row wants logits
  int32_t priority = 0;
  absl::Time deadline = absl::InfiniteFuture();
};

// Rows at positions [begin, end) of one sequence in a step.
struct Share {
  SequenceKey key;
  int slot = 0;
  int owner = 0;
  int64_t begin = 0;
  int64_t end = 0;
  bool opens = false;    // its first step
  bool samples = false;  // its last row yields a token
};

struct Batch {
  std::vector<Share> shares;
  std::vector<kernels::BlockTableUpdate> tables[2];  // by PoolKind
};

class Scheduler {
 public:
  // InvalidArgument: a size that is not positive, or a sliding pool too small for one sequence.
  static absl::StatusOr<Scheduler> Create(const SchedulerOptions& options);

  // Whether a sequence of this many tokens could ever run.
  bool Fits(int64_t tokens) const { return blocks_[0].Fits(tokens); }

  // Queues a sequence. InvalidArgument: lengths not positive, never fits, key known.
  absl::Status Add(const Arrival& arrival);
  // Takes a sequence out, waiting or running; its slot and blocks are free at once. False: no such sequence.
  bool Remove(SequenceKey key);
  // Takes out all whose deadline is not after `now`, by key.
  std::vector<SequenceKey> TakeExpired(absl::Time now);
  // The next step; empty if there is nothing to run. The rows of its shares count as run.
  absl::StatusOr<Batch> Next();

  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int64_t blocks_used(kernels::PoolKind pool) const;  // of all owners

 private:
  struct Running {
    Arrival arrival;
    int slot = 0;
    int owner = 0;
    int64_t next = 0;  // first position not yet run
    bool Decodes() const { return next >= arrival.prompt_tokens; }
    // Rows it may ever run: the last token sampled is not fed back.
    int64_t Rows() const { return arrival.prompt_tokens + arrival.max_tokens - 1; }
  };
  struct Budget {
    int64_t rows = 0;
    int64_t logits = 0;
    std::vector<int64_t> owner_rows;  // so that no owner's prompt keeps the others idle
  };
  using QueueKey = std::pair<int64_t, uint64_t>;  // falling priority, arrival

  Scheduler(const SchedulerOptions& options, int64_t chunk_tokens, int slots);

  absl::Status Take(Running& running, int64_t rows, Budget& budget, Batch& batch);
  int64_t PromptRows(const Running& running, const Budget& budget) const;
  absl::Status AdmitFor(Budget& budget, Batch& batch);
  // The owner with the fewest sequences of those that have the blocks; -1: none has.
  int OwnerFor(int64_t tokens) const;

  int64_t step_tokens_;
  int64_t logit_rows_;
  int64_t chunk_tokens_;              // rows of one sequence in a step at most
  std::vector<BlockManager> blocks_;  // by owner
  std::vector<int> free_slots_;       // taken from the back
  uint64_t arrivals_ = 0;
  std::map<QueueKey, Arrival> waiting_;
  std::unordered_map<uint64_t, QueueKey> waiting_keys_;
  std::vector<Running> running_;  // by admission
};

}  // namespace alphecca::engine

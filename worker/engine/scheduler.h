// Which sequences run in the next step, and with how many rows. Pure: no clock, no threads, no device.
//
// Continuous batching: every step takes one row of each sequence that decodes, then fills up with chunks of prompts to
// `step_tokens` rows, or to fewer while somebody decodes (ChunkControl). Sequences join and leave between any two
// steps.
//
// Whose turn it is to join: FairQueue. The one in turn waits until the blocks for all of its tokens so far are there,
// and nobody overtakes it, but for two cases: who waits for a prefix that a running prompt is about to fill lets others
// pass until it is filled, and then starts behind it; so does who gave way, until its tokens are known. Prompts that
// run take their rows in the same order, and who is in turn before them joins before them: so a long prompt holds up
// neither a higher priority nor a tenant that got less.
//
// Nothing is reserved for tokens to come. When the KV blocks run out, the sequence that ranks last (lowest priority,
// then latest arrival) gives up its place: its blocks go back, it waits again under its old rank, and what it had is
// computed again (or found in the prefix cache). The first in rank is never the one to give way, so it reaches its end;
// so does, in turn, everyone.
//
// Steps may be planned ahead: a token that was sampled in a step whose result is not known yet counts as pending, and a
// sequence that gave way does not return before its pending tokens are known.
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/engine/block_manager.h"
#include "worker/engine/chunk_control.h"
#include "worker/engine/fair_queue.h"

namespace alphecca::engine {

struct SchedulerOptions {
  int64_t step_tokens = 256;  // rows of a step at most
  int64_t logit_rows = 64;    // of which may want logits
  int max_sequences = 16;     // slots
  int owners = 1;             // ranks that sequences are spread over, each with pools of its own (wide); 1: all share
  int block_tokens = 16;
  int64_t full_blocks = 0;  // of each owner; 0: the pool is absent
  int64_t sliding_blocks = 0;
  int sliding_window = 0;
  absl::Duration step_time = absl::InfiniteDuration();  // of a step in which somebody decodes: see ChunkControl
};

// What the scheduler knows of a sequence.
struct Arrival {
  SequenceKey key;
  int64_t prompt_tokens = 1;
  int64_t max_tokens = 1;
  bool prompt_logits = false;  // every prompt row wants logits: it starts behind no prefix
  bool one_at_a_time = false;  // what it may sample next hangs on the token before: it runs on once that is known
  // Names of the prompt's full blocks (model::PrefixHasher), and of the whole prompt. No names: it takes nothing from
  // the prefix cache and gives nothing to it.
  std::vector<model::BlockHash> names;
  std::optional<model::BlockHash> whole;
  std::string tenant;
  double weight = 1.0;  // of the tenant
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
  bool opens = false;    // its first step, or its first again
  bool decodes = false;  // one row, of the token that the slot sampled last
  bool samples = false;  // its last row yields a token
};

struct Batch : BlockChanges {
  std::vector<Share> shares;
  int64_t decode_rows = 0;
  int64_t prompt_rows = 0;
  bool awaited = false;  // by somebody who decodes, in it or once its token is known
};

struct SchedulerCounts {
  int64_t preemptions = 0;
  int64_t prompt_tokens = 0;  // of sequences that joined, as often as they joined
  int64_t cached_tokens = 0;  // of them, those whose KV was there
};

class Scheduler {
 public:
  // InvalidArgument: a size that is not positive, or a sliding pool too small for one sequence.
  static absl::StatusOr<Scheduler> Create(const SchedulerOptions& options);

  // Whether a sequence of this many tokens could ever run.
  bool Fits(int64_t tokens) const { return blocks_[0].Fits(tokens); }

  // Queues a sequence. InvalidArgument: lengths or weight not positive, never fits, key known.
  absl::Status Add(const Arrival& arrival);
  // Takes a sequence out, waiting or running; its slot and blocks are free at once. False: no such sequence.
  bool Remove(SequenceKey key);
  // Takes out all whose deadline is not after `now`, by key.
  std::vector<SequenceKey> TakeExpired(absl::Time now);

  // The next step; empty if there is nothing to run. The rows of its shares count as run.
  absl::StatusOr<Batch> Next();
  // A token that a share was to sample is known; `name`: of the block that it completes, if it does. Unknown keys are
  // ignored: the sequence has gone.
  void Sampled(SequenceKey key, const std::optional<model::BlockHash>& name);
  // What a step took on the device.
  void StepTook(const Batch& batch, absl::Duration took);

  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return queue_.size(); }
  int64_t blocks_used(kernels::PoolKind pool) const;  // of all owners
  int64_t blocks_idle(kernels::PoolKind pool) const;
  const SchedulerCounts& counts() const { return counts_; }
  // Prompt tokens of a sequence that were found in the cache when it first joined.
  int64_t CachedTokens(SequenceKey key) const;

  // Of the prefix caches of all owners.
  BlockEvents TakeBlockEvents();
  std::vector<model::BlockHash> CachedNames() const;

 private:
  struct Entry {
    Arrival arrival;
    uint64_t number = 0;  // of its arrival
    int64_t known = 0;    // tokens that the host knows: the prompt, and those sampled
    int64_t pending = 0;  // tokens that only the device knows
    int64_t cached = -1;  // prompt tokens found in the cache as it first joined; -1: it never has
    int slot = -1;        // -1: it waits
    int owner = 0;
    int64_t next = 0;                        // first position not yet run
    int64_t named = 0;                       // blocks that have their names
    int64_t promised = 0;                    // names before it are in promised_, from `named` on
    std::optional<model::BlockHash> awaits;  // the name that it was last found to wait for
    bool promises_whole = false;
    bool contends = true;   // see FairQueue
    bool ran = false;       // since it joined
    bool sampled = false;   // since it joined
    bool in_batch = false;  // of the step being planned
    int64_t Length() const { return known + pending; }
    // Rows whose tokens are there. The last token it may have is not fed back.
    int64_t Left() const { return std::min(Length(), arrival.prompt_tokens + arrival.max_tokens - 1) - next; }
    bool Decodes() const { return sampled && Left() == 1; }
    FairQueue::Place Place() const { return {arrival.priority, number, arrival.key}; }
  };
  struct Budget {
    int64_t rows = 0;
    int64_t logits = 0;
    int64_t prompt_rows = 0;
    std::vector<int64_t> owner_rows;  // so that no owner's prompt keeps the others idle
  };
  // Where a sequence could join.
  struct Seat {
    int owner = -1;
    int64_t blocks = 0;            // of its names, cached there
    const Entry* donor = nullptr;  // a sequence with the same prompt, to share all of it
    int64_t start = 0;             // position it goes on from
  };
  template <typename V>
  using ByHash = std::unordered_map<model::BlockHash, V, absl::Hash<model::BlockHash>>;

  Scheduler(const SchedulerOptions& options, int64_t chunk_tokens, int slots);

  BlockManager& BlocksOf(const Entry& entry) { return blocks_[static_cast<size_t>(entry.owner)]; }
  Entry& At(SequenceKey key) { return entries_.at(key.value); }
  absl::Status PlanDecodes(Budget& budget, Batch& batch);
  absl::Status PlanPrompts(Budget& budget, Batch& batch);
  // Whether a's turn for rows is before b's: by priority, by what its tenant got, by arrival. Rows count against a
  // tenant at once, so nobody of one priority waits for ever.
  bool InTurn(const Entry& a, const Entry& b) const;
  // Those that wait, and whose turn is before that of a running prompt, if there is one.
  absl::Status Admit(const Entry* prompt, Budget& budget, Batch& batch);
  absl::Status Join(Entry& entry, const Seat& seat, Batch& batch);
  std::optional<Seat> FindSeat(const Entry& entry, const Budget& budget) const;
  Seat SeatAt(const Entry& entry, int owner) const;
  bool HasRoom(const Entry& entry, const Seat& seat) const;
  bool AwaitsPrefix(Entry& entry) const;

  // Lets sequences that rank after running_[index] and are not in the batch give way until it can run a row. False: it
  // can't.
  bool MakeRoom(size_t index);
  void GiveWay(size_t index);
  void SetContends(Entry& entry, bool contends);
  void Leave(Entry& entry);  // its slot and blocks

  int64_t PromptRows(const Entry& entry, const Budget& budget) const;
  absl::Status Take(Entry& entry, int64_t rows, Budget& budget, Batch& batch);
  void NameBlocks(Entry& entry);
  void OfferPrompt(Entry& entry);
  void Promise(Entry& entry);
  void Unpromise(const model::BlockHash& name);

  int block_tokens_;
  int64_t step_tokens_;
  int64_t logit_rows_;
  int64_t chunk_tokens_;  // rows of one sequence in a step at most
  ChunkControl chunk_control_;
  std::vector<BlockManager> blocks_;  // by owner
  std::vector<int> free_slots_;       // taken from the back
  uint64_t arrivals_ = 0;
  std::unordered_map<uint64_t, Entry> entries_;  // by key
  FairQueue queue_;
  std::vector<Entry*> running_;  // by rank
  ByHash<int> promised_;         // names of blocks and prompts that running sequences have yet to fill: how many do
  ByHash<SequenceKey> donors_;   // running sequences that have filled their prompt, by its name
  SchedulerCounts counts_;
};

}  // namespace alphecca::engine

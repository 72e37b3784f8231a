#include "worker/engine/scheduler.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::engine {
namespace {

constexpr kernels::PoolKind kPools[] = {kernels::kFullPool, kernels::kSlidingPool};

// The most rows a sequence may have in a step so that its window still fits the sliding pool; 0: not even one.
int64_t ChunkTokens(const SchedulerOptions& options) {
  int64_t chunk = options.step_tokens;
  if (options.sliding_blocks > 0) {
    // Rows fit while window - 1 + rows positions touch no more blocks than there are.
    const int64_t positions = (options.sliding_blocks - 1) * options.block_tokens + 1;
    chunk = std::min(chunk, positions - options.sliding_window + 1);
  }
  return std::max<int64_t>(chunk, 0);
}

}  // namespace

absl::StatusOr<Scheduler> Scheduler::Create(const SchedulerOptions& options) {
  if (options.step_tokens < 1 || options.logit_rows < 1 || options.max_sequences < 1 || options.block_tokens < 1 ||
      options.owners < 1 || options.full_blocks < 0 || options.sliding_blocks < 0) {
    return absl::InvalidArgumentError(absl::StrCat("scheduler: step_tokens ", options.step_tokens, ", logit_rows ",
                                                   options.logit_rows, ", max_sequences ", options.max_sequences,
                                                   ", block_tokens ", options.block_tokens, ", owners ", options.owners,
                                                   " must be positive, full_blocks ", options.full_blocks,
                                                   " and sliding_blocks ", options.sliding_blocks, " not negative"));
  }
  if (options.step_time <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("scheduler: step_time ", absl::FormatDuration(options.step_time), " must be positive"));
  }
  if (options.sliding_blocks > 0 && options.sliding_window < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("scheduler: sliding_window ", options.sliding_window, " must be positive with a sliding pool"));
  }
  const int64_t chunk = ChunkTokens(options);
  if (chunk < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scheduler: ", options.sliding_blocks, " sliding KV blocks of ", options.block_tokens,
        " tokens hold no window of ", options.sliding_window, "; ",
        SlidingBlocksFor(options.sliding_window, options.sliding_window, 1, options.block_tokens) + 1, " would"));
  }
  const int64_t slots = std::min({int64_t{options.max_sequences}, options.step_tokens, options.logit_rows});
  return Scheduler(options, chunk, static_cast<int>(slots));
}

Scheduler::Scheduler(const SchedulerOptions& options, int64_t chunk_tokens, int slots)
    : block_tokens_(options.block_tokens),
      step_tokens_(options.step_tokens),
      logit_rows_(options.logit_rows),
      chunk_tokens_(chunk_tokens),
      chunk_control_(options.step_time, options.block_tokens, options.step_tokens),
      blocks_(static_cast<size_t>(options.owners), BlockManager({.slots = slots,
                                                                 .block_tokens = options.block_tokens,
                                                                 .full_blocks = options.full_blocks,
                                                                 .sliding_blocks = options.sliding_blocks,
                                                                 .sliding_window = options.sliding_window,
                                                                 .chunk_tokens = chunk_tokens})) {
  for (int slot = slots - 1; slot >= 0; --slot) {
    free_slots_.push_back(slot);
  }
}

// ---- Coming and going -----------------------------------------------------------------------------------------------

absl::Status Scheduler::Add(const Arrival& arrival) {
  if (arrival.prompt_tokens < 1 || arrival.max_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("prompt of ", arrival.prompt_tokens, " tokens and max_tokens ",
                                                   arrival.max_tokens, ": both must be at least 1"));
  }
  if (!(arrival.weight > 0.0) || !std::isfinite(arrival.weight)) {
    return absl::InvalidArgumentError(absl::StrCat("tenant weight ", arrival.weight, ": must be positive and finite"));
  }
  if (!Fits(arrival.prompt_tokens + arrival.max_tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("prompt of ", arrival.prompt_tokens, " tokens and max_tokens ",
                                                   arrival.max_tokens, " exceed the KV cache of ",
                                                   blocks_[0].capacity(kernels::kFullPool), " full and ",
                                                   blocks_[0].capacity(kernels::kSlidingPool), " sliding blocks"));
  }
  const auto [found, fresh] = entries_.try_emplace(arrival.key.value);
  if (!fresh) {
    return absl::InvalidArgumentError(absl::StrCat("sequence ", arrival.key.value, " is known already"));
  }
  Entry& entry = found->second;
  entry.arrival = arrival;
  entry.number = arrivals_++;
  entry.known = arrival.prompt_tokens;
  queue_.Enter(arrival.tenant, arrival.weight);
  queue_.Contend(arrival.tenant);
  queue_.Push(arrival.tenant, entry.Place());
  return absl::OkStatus();
}

bool Scheduler::Remove(SequenceKey key) {
  const auto found = entries_.find(key.value);
  if (found == entries_.end()) {
    return false;
  }
  Entry& entry = found->second;
  if (entry.slot < 0) {
    queue_.Erase(entry.arrival.tenant, entry.Place());
  } else {
    Leave(entry);
    std::erase(running_, &entry);
  }
  SetContends(entry, false);
  queue_.Leave(entry.arrival.tenant);
  entries_.erase(found);
  return true;
}

std::vector<SequenceKey> Scheduler::TakeExpired(absl::Time now) {
  std::vector<SequenceKey> expired;
  for (const auto& [key, entry] : entries_) {
    if (entry.arrival.deadline <= now) {
      expired.push_back(entry.arrival.key);
    }
  }
  std::sort(expired.begin(), expired.end());
  for (const SequenceKey key : expired) {
    Remove(key);
  }
  return expired;
}

void Scheduler::Sampled(SequenceKey key, const std::optional<model::BlockHash>& name) {
  const auto found = entries_.find(key.value);
  if (found == entries_.end()) {
    return;
  }
  Entry& entry = found->second;
  --entry.pending;
  ++entry.known;
  if (name.has_value()) {
    entry.arrival.names.push_back(*name);
    NameBlocks(entry);
  }
}

void Scheduler::StepTook(const Batch& batch, absl::Duration took) {
  if (batch.awaited) {
    chunk_control_.Took(batch.prompt_rows, took);
  }
}

// ---- The next step --------------------------------------------------------------------------------------------------

absl::StatusOr<Batch> Scheduler::Next() {
  Batch batch;
  const auto owners = static_cast<int64_t>(blocks_.size());
  Budget budget{.rows = step_tokens_,
                .logits = logit_rows_,
                .prompt_rows = step_tokens_,
                .owner_rows = std::vector<int64_t>(blocks_.size(), (step_tokens_ + owners - 1) / owners)};
  RETURN_IF_ERROR(PlanDecodes(budget, batch));
  // Also by who has no row in this step, because the token before is not known yet.
  batch.awaited = batch.decode_rows > 0 ||
                  std::any_of(running_.begin(), running_.end(), [](const Entry* entry) { return entry->Decodes(); });
  if (batch.awaited) {
    budget.prompt_rows = chunk_control_.rows();
  }
  RETURN_IF_ERROR(PlanPrompts(budget, batch));
  RETURN_IF_ERROR(Admit(nullptr, budget, batch));
  for (Entry* entry : running_) {
    entry->in_batch = false;
    OfferPrompt(*entry);
  }
  return batch;
}

absl::Status Scheduler::PlanDecodes(Budget& budget, Batch& batch) {
  for (size_t i = 0; i < running_.size(); ++i) {
    Entry& entry = *running_[i];
    if (!entry.Decodes() || (entry.arrival.one_at_a_time && entry.pending > 0)) {
      continue;
    }
    if (BlocksOf(entry).RowsAvailable(entry.slot) < 1 && !MakeRoom(i)) {
      GiveWay(i--);
      continue;
    }
    RETURN_IF_ERROR(Take(entry, 1, budget, batch));
  }
  return absl::OkStatus();
}

absl::Status Scheduler::PlanPrompts(Budget& budget, Batch& batch) {
  std::vector<Entry*> prompts;
  std::copy_if(running_.begin(), running_.end(), std::back_inserter(prompts),
               [](const Entry* entry) { return !entry->Decodes() && entry->Left() >= 1; });
  std::sort(prompts.begin(), prompts.end(), [this](const Entry* a, const Entry* b) { return InTurn(*a, *b); });
  for (Entry* entry : prompts) {
    RETURN_IF_ERROR(Admit(entry, budget, batch));
    if (entry->slot < 0 || entry->in_batch) {
      continue;  // it gave way to one before, and has perhaps come back
    }
    const int64_t rows = PromptRows(*entry, budget);
    const auto index = static_cast<size_t>(std::find(running_.begin(), running_.end(), entry) - running_.begin());
    // Who is in this step keeps its blocks, so a prompt may have to wait for that; but not for ever: see InTurn.
    if (rows < 1 || (BlocksOf(*entry).RowsAvailable(entry->slot) < 1 && !MakeRoom(index))) {
      continue;
    }
    RETURN_IF_ERROR(Take(*entry, std::min(rows, BlocksOf(*entry).RowsAvailable(entry->slot)), budget, batch));
  }
  return absl::OkStatus();
}

bool Scheduler::MakeRoom(size_t index) {
  const Entry& entry = *running_[index];
  for (size_t last = running_.size() - 1; last > index; --last) {
    if (running_[last]->owner == entry.owner && !running_[last]->in_batch) {
      GiveWay(last);
      if (BlocksOf(entry).RowsAvailable(entry.slot) >= 1) {
        return true;
      }
    }
  }
  return false;
}

void Scheduler::GiveWay(size_t index) {
  Entry& entry = *running_[index];
  Leave(entry);
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
  SetContends(entry, true);
  queue_.Push(entry.arrival.tenant, entry.Place());
  ++counts_.preemptions;
}

void Scheduler::SetContends(Entry& entry, bool contends) {
  if (contends != entry.contends) {
    entry.contends = contends;
    contends ? queue_.Contend(entry.arrival.tenant) : queue_.Settle(entry.arrival.tenant);
  }
}

int64_t Scheduler::PromptRows(const Entry& entry, const Budget& budget) const {
  const int64_t left = entry.Left();
  int64_t rows = std::min(
      {left, budget.rows, budget.prompt_rows, chunk_tokens_, budget.owner_rows[static_cast<size_t>(entry.owner)]});
  if (entry.arrival.prompt_logits) {
    rows = std::min(rows, budget.logits);
  } else if (rows == left && budget.logits == 0) {
    --rows;  // the row that samples waits for the next step
  }
  return rows;
}

absl::Status Scheduler::Take(Entry& entry, int64_t rows, Budget& budget, Batch& batch) {
  Share share{.key = entry.arrival.key,
              .slot = entry.slot,
              .owner = entry.owner,
              .begin = entry.next,
              .end = entry.next + rows,
              .opens = !entry.ran,
              .decodes = entry.Decodes(),
              .samples = entry.next + rows == entry.Length()};
  RETURN_IF_ERROR(BlocksOf(entry).Advance(share.slot, share.begin, share.end, batch));
  if (entry.arrival.prompt_logits && share.begin < entry.arrival.prompt_tokens) {
    budget.logits -= rows;
  } else if (share.samples) {
    budget.logits -= 1;
  }
  budget.rows -= rows;
  if (share.decodes) {
    ++batch.decode_rows;
  } else {
    budget.prompt_rows -= rows;
    batch.prompt_rows += rows;
  }
  budget.owner_rows[static_cast<size_t>(share.owner)] -= rows;
  queue_.Charge(entry.arrival.tenant, rows);
  entry.ran = true;
  entry.in_batch = true;
  entry.next = share.end;
  entry.pending += share.samples ? 1 : 0;
  entry.sampled = entry.sampled || share.samples;
  SetContends(entry, entry.contends && !share.samples);
  NameBlocks(entry);
  batch.shares.push_back(share);
  return absl::OkStatus();
}

// ---- Joining --------------------------------------------------------------------------------------------------------

bool Scheduler::InTurn(const Entry& a, const Entry& b) const {
  const double served[] = {queue_.Served(a.arrival.tenant), queue_.Served(b.arrival.tenant)};
  return a.arrival.priority != b.arrival.priority ? a.arrival.priority > b.arrival.priority
         : served[0] != served[1]                 ? served[0] < served[1]
                                                  : a.number < b.number;
}

absl::Status Scheduler::Admit(const Entry* prompt, Budget& budget, Batch& batch) {
  const auto passes = [this](SequenceKey key) { return At(key).pending > 0 || AwaitsPrefix(At(key)); };
  while (!free_slots_.empty() && budget.rows > 0 && budget.prompt_rows > 0) {
    const std::optional<SequenceKey> key = queue_.Pick(passes);
    if (!key.has_value() || (prompt != nullptr && !InTurn(At(*key), *prompt))) {
      break;
    }
    Entry& entry = At(*key);
    const std::optional<Seat> seat = FindSeat(entry, budget);
    if (!seat.has_value()) {
      break;
    }
    entry.owner = seat->owner;
    entry.next = seat->start;
    const int64_t rows = PromptRows(entry, budget);
    if (rows < 1) {
      entry.next = 0;
      break;
    }
    RETURN_IF_ERROR(Join(entry, *seat, batch));
    const int64_t available = BlocksOf(entry).RowsAvailable(entry.slot);
    if (available < 1) {
      return absl::InternalError(absl::StrCat("sequence ", key->value, " joined without room for a row"));
    }
    RETURN_IF_ERROR(Take(entry, std::min(rows, available), budget, batch));
  }
  return absl::OkStatus();
}

bool Scheduler::AwaitsPrefix(Entry& entry) const {
  const Arrival& arrival = entry.arrival;
  if (promised_.empty() || arrival.prompt_logits || !arrival.whole.has_value()) {
    return false;
  }
  if (entry.known == arrival.prompt_tokens && promised_.contains(*arrival.whole)) {
    return true;
  }
  if (entry.awaits.has_value() && promised_.contains(*entry.awaits)) {
    return true;  // as before: looking through its blocks again, in every plan, is what it must not cost
  }
  int64_t cached = 0;
  for (int owner = 0; owner < static_cast<int>(blocks_.size()); ++owner) {
    cached = std::max(cached, SeatAt(entry, owner).blocks);
  }
  const auto next = static_cast<size_t>(cached);
  entry.awaits.reset();
  if (next < arrival.names.size() && promised_.contains(arrival.names[next])) {
    entry.awaits = arrival.names[next];
  }
  return entry.awaits.has_value();
}

Scheduler::Seat Scheduler::SeatAt(const Entry& entry, int owner) const {
  const Arrival& arrival = entry.arrival;
  const BlockManager& blocks = blocks_[static_cast<size_t>(owner)];
  Seat seat{.owner = owner};
  if (arrival.prompt_logits || !arrival.whole.has_value()) {
    return seat;
  }
  if (const auto donor = donors_.find(*arrival.whole);
      donor != donors_.end() && entry.known == arrival.prompt_tokens && arrival.prompt_tokens > 1) {
    const Entry& running = entries_.at(donor->second.value);
    if (running.owner == owner && blocks.CanFork(running.slot, arrival.prompt_tokens)) {
      seat.donor = &running;
      seat.start = arrival.prompt_tokens - 1;
      return seat;
    }
  }
  // The last token is computed in any case: its logits are wanted.
  const auto most = std::min(arrival.names.size(), static_cast<size_t>((entry.known - 1) / block_tokens_));
  seat.blocks = blocks.CachedBlocks(std::span(arrival.names).first(most));
  seat.start = seat.blocks * block_tokens_;
  return seat;
}

bool Scheduler::HasRoom(const Entry& entry, const Seat& seat) const {
  const BlockManager& blocks = blocks_[static_cast<size_t>(seat.owner)];
  // Those that run need what their prompts still lack, and soon one more.
  int64_t spare[2] = {0, 0};
  for (const Entry* other : running_) {
    for (const kernels::PoolKind pool : kPools) {
      const bool counts = other->owner == seat.owner && blocks.capacity(pool) > 0;
      spare[pool] += counts ? blocks.Missing(other->slot, pool, other->Length()) + 1 : 0;
    }
  }
  if (seat.donor == nullptr) {
    const auto cached = std::span(entry.arrival.names).first(static_cast<size_t>(seat.blocks));
    return blocks.CanStart(cached, entry.known, spare);
  }
  return std::all_of(std::begin(kPools), std::end(kPools), [&](kernels::PoolKind pool) {
    return blocks.capacity(pool) == 0 || blocks.available(pool) > spare[pool] + 1;  // a copy, and one to go on
  });
}

std::optional<Scheduler::Seat> Scheduler::FindSeat(const Entry& entry, const Budget& budget) const {
  // A sequence more in every step weighs as much as a few blocks of a prompt computed once.
  constexpr int64_t kBlocksPerSequence = 4;
  std::vector<int64_t> load(blocks_.size(), 0);
  for (const Entry* running : running_) {
    load[static_cast<size_t>(running->owner)] += kBlocksPerSequence * block_tokens_ + running->Left();
  }
  std::optional<Seat> best;
  int64_t best_cost = 0;
  for (int owner = 0; owner < static_cast<int>(blocks_.size()); ++owner) {
    if (budget.owner_rows[static_cast<size_t>(owner)] < 1) {
      continue;
    }
    const Seat seat = SeatAt(entry, owner);
    const int64_t cost = entry.known - seat.start + load[static_cast<size_t>(owner)];
    if ((!best.has_value() || cost < best_cost) && HasRoom(entry, seat)) {
      best = seat;
      best_cost = cost;
    }
  }
  return best;
}

absl::Status Scheduler::Join(Entry& entry, const Seat& seat, Batch& batch) {
  const int slot = free_slots_.back();
  BlockManager& blocks = BlocksOf(entry);
  if (seat.donor != nullptr) {
    RETURN_IF_ERROR(blocks.Fork(seat.donor->slot, slot, entry.arrival.prompt_tokens, batch));
    entry.named = static_cast<int64_t>(entry.arrival.names.size());
  } else {
    RETURN_IF_ERROR(blocks.Start(slot, std::span(entry.arrival.names).first(static_cast<size_t>(seat.blocks)), batch));
    entry.named = seat.blocks;
  }
  free_slots_.pop_back();
  entry.slot = slot;
  queue_.Erase(entry.arrival.tenant, entry.Place());
  const auto place = std::upper_bound(running_.begin(), running_.end(), &entry,
                                      [](const Entry* a, const Entry* b) { return a->Place() < b->Place(); });
  running_.insert(place, &entry);
  if (entry.cached < 0) {
    entry.cached = seat.start;
  }
  counts_.prompt_tokens += entry.known;
  counts_.cached_tokens += seat.start;
  Promise(entry);
  return absl::OkStatus();
}

void Scheduler::Leave(Entry& entry) {
  for (int64_t i = entry.named; i < entry.promised; ++i) {
    Unpromise(entry.arrival.names[static_cast<size_t>(i)]);
  }
  if (entry.promises_whole) {
    Unpromise(*entry.arrival.whole);
  }
  if (entry.arrival.whole.has_value()) {
    const auto donor = donors_.find(*entry.arrival.whole);
    if (donor != donors_.end() && donor->second == entry.arrival.key) {
      donors_.erase(donor);
    }
  }
  BlocksOf(entry).Release(entry.slot).IgnoreError();  // open, as the entry has a slot
  free_slots_.push_back(entry.slot);
  entry.slot = -1;
  entry.next = 0;
  entry.named = 0;
  entry.promised = 0;
  entry.promises_whole = false;
  entry.ran = false;
  entry.sampled = false;
}

// ---- Names ----------------------------------------------------------------------------------------------------------

// What a sequence that joins has yet to fill of its prompt: its blocks without a name, and the prompt as a whole.
void Scheduler::Promise(Entry& entry) {
  const Arrival& arrival = entry.arrival;
  if (!arrival.whole.has_value()) {
    return;
  }
  entry.promised = std::min<int64_t>(static_cast<int64_t>(arrival.names.size()), arrival.prompt_tokens / block_tokens_);
  for (int64_t i = entry.named; i < entry.promised; ++i) {
    ++promised_[arrival.names[static_cast<size_t>(i)]];
  }
  entry.promises_whole = entry.next < arrival.prompt_tokens && !donors_.contains(*arrival.whole);
  if (entry.promises_whole) {
    ++promised_[*arrival.whole];
  }
}

void Scheduler::Unpromise(const model::BlockHash& name) {
  const auto found = promised_.find(name);
  if (--found->second <= 0) {
    promised_.erase(found);
  }
}

void Scheduler::NameBlocks(Entry& entry) {
  if (entry.slot < 0) {
    return;
  }
  const std::vector<model::BlockHash>& names = entry.arrival.names;
  for (; entry.named < static_cast<int64_t>(names.size()) && (entry.named + 1) * block_tokens_ <= entry.next;
       ++entry.named) {
    const model::BlockHash& name = names[static_cast<size_t>(entry.named)];
    BlocksOf(entry).Name(entry.slot, entry.named, name);
    if (entry.named < entry.promised) {
      Unpromise(name);
    }
  }
}

// At the end of a plan: who forks copies a block, and copies come before the rows of their step.
void Scheduler::OfferPrompt(Entry& entry) {
  if (entry.promises_whole && entry.next >= entry.arrival.prompt_tokens) {
    entry.promises_whole = false;
    Unpromise(*entry.arrival.whole);
    donors_.insert_or_assign(*entry.arrival.whole, entry.arrival.key);
  }
}

BlockEvents Scheduler::TakeBlockEvents() {
  if (blocks_.size() == 1) {
    return blocks_[0].TakeEvents();
  }
  struct Change {
    int64_t gained = 0;  // owners that have it now and had it not
    bool known = false;  // an owner had it
  };
  ByHash<Change> changes;
  for (BlockManager& blocks : blocks_) {
    const BlockEvents events = blocks.TakeEvents();
    for (const model::BlockHash& name : events.stored) {
      ++changes[name].gained;
    }
    for (const model::BlockHash& name : events.removed) {
      changes[name].known = true;
    }
  }
  BlockEvents all;
  for (const auto& [name, change] : changes) {
    const int64_t have = std::count_if(blocks_.begin(), blocks_.end(),
                                       [&name = name](const BlockManager& blocks) { return blocks.Has(name); });
    const bool known = change.known || have > change.gained;
    if (have > 0 && !known) {
      all.stored.push_back(name);
    } else if (have == 0 && known) {
      all.removed.push_back(name);
    }
  }
  return all;
}

std::vector<model::BlockHash> Scheduler::CachedNames() const {
  std::vector<model::BlockHash> all;
  for (const BlockManager& blocks : blocks_) {
    const std::vector<model::BlockHash> names = blocks.Names();
    all.insert(all.end(), names.begin(), names.end());
  }
  return all;
}

int64_t Scheduler::CachedTokens(SequenceKey key) const {
  const auto found = entries_.find(key.value);
  return found == entries_.end() ? 0 : std::max<int64_t>(found->second.cached, 0);
}

int64_t Scheduler::blocks_used(kernels::PoolKind pool) const {
  return std::accumulate(blocks_.begin(), blocks_.end(), int64_t{0},
                         [pool](int64_t sum, const BlockManager& blocks) { return sum + blocks.used(pool); });
}

int64_t Scheduler::blocks_idle(kernels::PoolKind pool) const {
  return std::accumulate(blocks_.begin(), blocks_.end(), int64_t{0},
                         [pool](int64_t sum, const BlockManager& blocks) { return sum + blocks.idle(pool); });
}

}  // namespace alphecca::engine

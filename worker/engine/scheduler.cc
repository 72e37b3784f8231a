#include "worker/engine/scheduler.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::engine {
namespace {

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
    : step_tokens_(options.step_tokens),
      logit_rows_(options.logit_rows),
      chunk_tokens_(chunk_tokens),
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

absl::Status Scheduler::Add(const Arrival& arrival) {
  if (arrival.prompt_tokens < 1 || arrival.max_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("prompt of ", arrival.prompt_tokens, " tokens and max_tokens ",
                                                   arrival.max_tokens, ": both must be at least 1"));
  }
  if (!Fits(arrival.prompt_tokens + arrival.max_tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("prompt of ", arrival.prompt_tokens, " tokens and max_tokens ",
                                                   arrival.max_tokens, " exceed the KV cache of ",
                                                   blocks_[0].capacity(kernels::kFullPool), " blocks"));
  }
  const bool known = waiting_keys_.contains(arrival.key.value) ||
                     std::any_of(running_.begin(), running_.end(),
                                 [&](const Running& running) { return running.arrival.key == arrival.key; });
  if (known) {
    return absl::InvalidArgumentError(absl::StrCat("sequence ", arrival.key.value, " is known already"));
  }
  const QueueKey place{-int64_t{arrival.priority}, arrivals_++};
  waiting_.emplace(place, arrival);
  waiting_keys_.emplace(arrival.key.value, place);
  return absl::OkStatus();
}

bool Scheduler::Remove(SequenceKey key) {
  if (const auto found = waiting_keys_.find(key.value); found != waiting_keys_.end()) {
    waiting_.erase(found->second);
    waiting_keys_.erase(found);
    return true;
  }
  const auto found = std::find_if(running_.begin(), running_.end(),
                                  [&](const Running& running) { return running.arrival.key == key; });
  if (found == running_.end()) {
    return false;
  }
  blocks_[static_cast<size_t>(found->owner)].Release(found->slot).IgnoreError();  // admitted when it joined running_
  free_slots_.push_back(found->slot);
  running_.erase(found);
  return true;
}

std::vector<SequenceKey> Scheduler::TakeExpired(absl::Time now) {
  std::vector<SequenceKey> expired;
  for (const Running& running : running_) {
    if (running.arrival.deadline <= now) {
      expired.push_back(running.arrival.key);
    }
  }
  for (const auto& [place, arrival] : waiting_) {
    if (arrival.deadline <= now) {
      expired.push_back(arrival.key);
    }
  }
  std::sort(expired.begin(), expired.end());
  for (const SequenceKey key : expired) {
    Remove(key);
  }
  return expired;
}

absl::StatusOr<Batch> Scheduler::Next() {
  Batch batch;
  const auto owners = static_cast<int64_t>(blocks_.size());
  Budget budget{.rows = step_tokens_,
                .logits = logit_rows_,
                .owner_rows = std::vector<int64_t>(blocks_.size(), (step_tokens_ + owners - 1) / owners)};
  for (Running& running : running_) {
    if (running.Decodes() && running.next < running.Rows()) {
      RETURN_IF_ERROR(Take(running, 1, budget, batch));
    }
  }
  for (Running& running : running_) {
    // A sequence that has just decoded in this step is past its prompt.
    const int64_t rows = running.Decodes() ? 0 : PromptRows(running, budget);
    if (rows > 0) {
      RETURN_IF_ERROR(Take(running, rows, budget, batch));
    }
  }
  RETURN_IF_ERROR(AdmitFor(budget, batch));
  return batch;
}

int64_t Scheduler::PromptRows(const Running& running, const Budget& budget) const {
  const int64_t left = running.arrival.prompt_tokens - running.next;
  int64_t rows = std::min({left, budget.rows, chunk_tokens_, budget.owner_rows[static_cast<size_t>(running.owner)]});
  if (running.arrival.prompt_logits) {
    rows = std::min(rows, budget.logits);
  } else if (rows == left && budget.logits == 0) {
    --rows;  // the row that samples waits for the next step
  }
  return rows;
}

absl::Status Scheduler::AdmitFor(Budget& budget, Batch& batch) {
  while (!waiting_.empty() && !free_slots_.empty()) {
    const Arrival& head = waiting_.begin()->second;
    const int64_t tokens = head.prompt_tokens + head.max_tokens;
    const Running running{.arrival = head, .slot = free_slots_.back(), .owner = OwnerFor(tokens), .next = 0};
    const int64_t rows = running.owner < 0 ? 0 : PromptRows(running, budget);
    if (rows < 1) {
      break;
    }
    RETURN_IF_ERROR(blocks_[static_cast<size_t>(running.owner)].Admit(running.slot, tokens));
    free_slots_.pop_back();
    waiting_keys_.erase(head.key.value);
    waiting_.erase(waiting_.begin());
    running_.push_back(running);
    RETURN_IF_ERROR(Take(running_.back(), rows, budget, batch));
  }
  return absl::OkStatus();
}

int Scheduler::OwnerFor(int64_t tokens) const {
  std::vector<int> load(blocks_.size(), 0);
  for (const Running& running : running_) {
    ++load[static_cast<size_t>(running.owner)];
  }
  int best = -1;
  for (size_t owner = 0; owner < blocks_.size(); ++owner) {
    if (blocks_[owner].CanAdmit(tokens) && (best < 0 || load[owner] < load[static_cast<size_t>(best)])) {
      best = static_cast<int>(owner);
    }
  }
  return best;
}

int64_t Scheduler::blocks_used(kernels::PoolKind pool) const {
  return std::accumulate(blocks_.begin(), blocks_.end(), int64_t{0},
                         [pool](int64_t sum, const BlockManager& blocks) { return sum + blocks.used(pool); });
}

absl::Status Scheduler::Take(Running& running, int64_t rows, Budget& budget, Batch& batch) {
  Share share{.key = running.arrival.key,
              .slot = running.slot,
              .owner = running.owner,
              .begin = running.next,
              .end = running.next + rows};
  RETURN_IF_ERROR(blocks_[static_cast<size_t>(share.owner)].Advance(share.slot, share.begin, share.end, batch.tables));
  share.opens = share.begin == 0;
  share.samples = share.end >= running.arrival.prompt_tokens;
  budget.rows -= rows;
  budget.owner_rows[static_cast<size_t>(share.owner)] -= rows;
  if (running.arrival.prompt_logits && share.begin < running.arrival.prompt_tokens) {
    budget.logits -= rows;
  } else if (share.samples) {
    budget.logits -= 1;
  }
  running.next = share.end;
  batch.shares.push_back(share);
  return absl::OkStatus();
}

}  // namespace alphecca::engine

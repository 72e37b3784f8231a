// The engine's thread. It plans a step ahead: while one runs (step_executor.h), the next is planned, sent to the
// followers and queued. So a sequence that meets a stop token is one row ahead of it: that row's result is dropped.
#include "worker/engine/engine_loop.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace alphecca::engine {
namespace {

// Steps planned at most whose results are not known: one that runs, one behind it.
constexpr size_t kStepsAhead = 2;

}  // namespace

void EngineLoop::Main() {
  thread_id_ = std::this_thread::get_id();
  absl::Status failure;
  try {
    failure = Loop();
  } catch (const std::exception& error) {
    failure = absl::InternalError(absl::StrCat("engine: ", error.what()));
  }
  std::function<void(const absl::Status&)> on_broken;
  absl::Status reason;
  {
    MutexLock lock(mutex_);
    if (!failure.ok()) {
      LogError("a step of the {} planned failed: {}", step_, std::string(failure.message()));
      failure_ = absl::UnavailableError(absl::StrCat("the shard group failed: ", std::string(failure.message())));
      on_broken = on_broken_;
    }
    reason = failure.ok() ? stop_reason_ : failure_;
  }
  executor_.Stop();
  EndAll(reason);
  if (on_broken) {
    on_broken(reason);
  }
  MutexLock lock(mutex_);
  ended_ = true;
  changed_.NotifyAll();
}

// Runs steps until Stop (ok) or a failure.
absl::Status EngineLoop::Loop() {
  Mailbox mail;
  while (TakeMail(mail)) {
    Apply(std::move(mail));
    mail.clear();
    Expire();
    RETURN_IF_ERROR(TakeOutcome());
    Deliver();
    if (in_flight_.size() < kStepsAhead) {
      RETURN_IF_ERROR(PlanStep());
    }
    watchers_.Report(scheduler_);
  }
  return absl::OkStatus();
}

void EngineLoop::OnOutcome() {
  MutexLock lock(mutex_);
  ++outcomes_;
  changed_.NotifyAll();
}

// Waits for something to do. False: stop.
bool EngineLoop::TakeMail(Mailbox& mail) {
  MutexLock lock(mutex_);
  const bool can_plan = !exhausted_ && in_flight_.size() < kStepsAhead && !sequences_.empty();
  while (!can_plan && mail_.empty() && outcomes_ == 0 && !watchers_.AnyUntold() && stop_reason_.ok()) {
    changed_.Wait(mutex_);
  }
  if (!stop_reason_.ok()) {
    return false;
  }
  exhausted_ = false;
  mail.swap(mail_);
  // Those just taken count as waiting until the scheduler knows them.
  counts_.waiting += opens_;
  opens_ = 0;
  return true;
}

void EngineLoop::Apply(Mailbox&& mail) {
  for (auto& [key, entry] : mail) {
    if (entry.open != nullptr) {
      const Arrival arrival = entry.open->sequence.ArrivalAs(key);
      sequences_.emplace(key.value, std::move(*entry.open));
      if (absl::Status added = scheduler_.Add(arrival); !added.ok()) {
        EndWith(key, std::move(added));
        continue;
      }
    }
    const auto found = sequences_.find(key.value);
    if (found == sequences_.end()) {
      continue;  // ended while the mail was under way
    }
    if (entry.drop) {
      scheduler_.Remove(key);
      Forget(key, found->second);
      sequences_.erase(found);
    } else if (entry.cancel) {
      SequenceUpdate update;
      update.finish = Finish::kCancelled;
      End(key, std::move(update));
    } else {
      found->second.sequence.Credit(entry.credit);
    }
  }
}

void EngineLoop::Expire() {
  for (const SequenceKey key : scheduler_.TakeExpired(options_.now())) {
    EndWith(key, absl::DeadlineExceededError("the deadline passed before the sequence ended"));
  }
}

// One at a time: what it gives is delivered, and answered by credit, before the next is looked at.
absl::Status EngineLoop::TakeOutcome() {
  std::optional<StepOutcome> outcome = executor_.TryTake();
  if (!outcome.has_value()) {
    return absl::OkStatus();
  }
  {
    MutexLock lock(mutex_);
    --outcomes_;
  }
  RETURN_IF_ERROR(outcome->status);
  const InFlight step = std::move(in_flight_.front());
  in_flight_.pop_front();
  if (outcome->result.choices.size() != step.logits.size()) {
    return absl::InternalError(absl::StrCat("step ", outcome->result.step, " gave ", outcome->result.choices.size(),
                                            " choices for ", step.logits.size(), " rows"));
  }
  scheduler_.StepTook(step.batch, outcome->took);
  TakeChoices(step, std::move(outcome->result));
  return absl::OkStatus();
}

absl::Status EngineLoop::PlanStep() {
  ASSIGN_OR_RETURN(Batch batch, scheduler_.Next());
  exhausted_ = batch.shares.empty();
  return exhausted_ ? absl::OkStatus() : Submit(std::move(batch));
}

absl::Status EngineLoop::Submit(Batch batch) {
  StepPlan plan;
  plan.epoch = options_.epoch;
  plan.step = ++step_;
  for (const int pool : {0, 1}) {
    plan.tables[pool] = std::move(batch.tables[pool]);
    plan.copies[pool] = std::move(batch.copies[pool]);
  }
  InFlight step;
  for (const Share& share : batch.shares) {
    Opened& opened = sequences_.at(share.key.value);
    if (share.opens && !std::exchange(opened.admitted, true) && options_.on_admitted) {
      options_.on_admitted(options_.now() - opened.arrival);
    }
    opened.sequence.AppendRows(share, plan);
    step.keys.resize(plan.logits.size(), share.key);
  }
  step.batch = std::move(batch);
  step.logits = plan.logits;
  in_flight_.push_back(std::move(step));
  Publish();
  if (followers_ != nullptr) {
    RETURN_IF_ERROR(followers_->Send(plan));
  }
  executor_.Submit(std::move(plan));
  return absl::OkStatus();
}

void EngineLoop::TakeChoices(const InFlight& step, StepResult result) {
  for (size_t i = 0; i < step.keys.size(); ++i) {
    const SequenceKey key = step.keys[i];
    const auto found = sequences_.find(key.value);
    if (found == sequences_.end()) {
      continue;  // it ended while the step was under way
    }
    Opened& opened = found->second;
    if (!step.logits[i].keep) {
      opened.sequence.TakePrompt(step.logits[i].wanted, std::move(result.choices[i]));
      continue;
    }
    SequenceUpdate update = opened.sequence.TakeToken(std::move(result.choices[i]));
    if (opened.sequence.generated() == 1) {
      update.cached_tokens = static_cast<int32_t>(scheduler_.CachedTokens(key));
    }
    if (update.error.ok()) {
      scheduler_.Sampled(key, opened.sequence.CompletedBlock());
    }
    if (update.finish.has_value() || !update.error.ok()) {
      End(key, std::move(update));
    } else {
      Enqueue(opened.client, std::move(update));
    }
  }
}

// Takes the sequence out of everything; `update` is its last.
void EngineLoop::End(SequenceKey key, SequenceUpdate update) {
  const auto found = sequences_.find(key.value);
  scheduler_.Remove(key);
  const std::shared_ptr<Client> client = found->second.client;
  update.id = found->second.sequence.id();
  Forget(key, found->second);
  sequences_.erase(found);
  Enqueue(client, std::move(update));
}

// What callers see of it.
void EngineLoop::Forget(SequenceKey key, const Opened& opened) {
  MutexLock lock(mutex_);
  of_tenants_.GiveBack(opened.sequence.tenant(), 1);
  std::map<SequenceId, SequenceKey>& live = opened.client->live;
  const auto own = live.find(opened.sequence.id());
  if (own != live.end() && own->second == key) {
    live.erase(own);
  }
}

void EngineLoop::EndWith(SequenceKey key, absl::Status error) {
  SequenceUpdate update;
  update.error = std::move(error);
  End(key, std::move(update));
}

void EngineLoop::Enqueue(const std::shared_ptr<Client>& client, SequenceUpdate update) {
  auto found = std::find_if(outgoing_.begin(), outgoing_.end(),
                            [&](const Outgoing& outgoing) { return outgoing.client == client; });
  if (found == outgoing_.end()) {
    outgoing_.push_back({client, {}});
    found = std::prev(outgoing_.end());
  }
  found->updates.push_back(std::move(update));
}

void EngineLoop::Publish() {
  MutexLock lock(mutex_);
  counts_.running = scheduler_.running();
  counts_.waiting = scheduler_.waiting();
  counts_.full_blocks_used = scheduler_.blocks_used(kernels::kFullPool);
  counts_.sliding_blocks_used = scheduler_.blocks_used(kernels::kSlidingPool);
  counts_.full_blocks_idle = scheduler_.blocks_idle(kernels::kFullPool);
  counts_.sliding_blocks_idle = scheduler_.blocks_idle(kernels::kSlidingPool);
  counts_.preemptions = scheduler_.counts().preemptions;
  counts_.prompt_tokens = scheduler_.counts().prompt_tokens;
  counts_.cached_tokens = scheduler_.counts().cached_tokens;
  counts_.steps = step_;
}

void EngineLoop::Deliver() {
  Publish();
  for (Outgoing& outgoing : std::exchange(outgoing_, {})) {
    {
      MutexLock lock(mutex_);
      if (!outgoing.client->attached) {
        continue;
      }
      delivering_ = outgoing.client.get();
    }
    outgoing.client->sink->OnStep(std::move(outgoing.updates), scheduler_.running(), scheduler_.waiting());
    MutexLock lock(mutex_);
    delivering_ = nullptr;
    if (outgoing.client->attached && outgoing.client->live.empty()) {
      clients_.erase(outgoing.client->sink.get());  // it has had its last call, unless it opens again
    }
    changed_.NotifyAll();
  }
}

void EngineLoop::EndAll(const absl::Status& reason) {
  Mailbox mail;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    mail.swap(mail_);
    counts_.waiting += opens_;
    opens_ = 0;
  }
  Apply(std::move(mail));
  std::vector<uint64_t> keys;
  for (const auto& [key, opened] : sequences_) {
    keys.push_back(key);
  }
  std::sort(keys.begin(), keys.end());
  for (const uint64_t key : keys) {
    EndWith(SequenceKey(key), reason);
  }
  Deliver();
}

}  // namespace alphecca::engine

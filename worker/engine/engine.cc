// The engine's thread and what it shares with callers. Callers leave mail, one entry a sequence, which the thread takes
// before it plans a step; so what waits in the mailbox is bounded by the sequences there are.
//
// The thread plans a step ahead: while one runs (step_executor.h), the next is planned, sent to the followers and
// queued. So a sequence that meets a stop token is one row ahead of it: that row's result is dropped.
#include "worker/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <exception>
#include <map>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "worker/engine/block_watchers.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/sequence.h"
#include "worker/engine/step_executor.h"

namespace alphecca::engine {
namespace {

// A sink as the engine knows it, from its first Open until it is detached or its last sequence ends. Fields but `sink`
// are guarded by the engine's mutex.
struct Client {
  std::shared_ptr<TokenSink> sink;
  std::map<SequenceId, SequenceKey> live;
  bool attached = true;
};

struct Opened {
  std::shared_ptr<Client> client;
  Sequence sequence;
  absl::Time arrival;
  bool admitted = false;
};

// A step that is planned and not yet accounted for.
struct InFlight {
  Batch batch;
  std::vector<LogitRequest> logits;
  std::vector<SequenceKey> keys;  // of each logit request
};

// Steps planned at most whose results are not known: one that runs, one behind it.
constexpr size_t kStepsAhead = 2;

// What callers ask for one sequence between two steps.
struct Mail {
  std::unique_ptr<Opened> open;
  int64_t credit = 0;
  bool cancel = false;
  bool drop = false;  // end it without an update: nobody listens
};

class EngineLoop final : public Engine {
 public:
  EngineLoop(const EngineOptions& options, ShardRunner& runner, Followers* followers, Scheduler scheduler)
      : options_(options),
        runner_(runner),
        followers_(followers),
        hasher_(options.prefix_key, options.revision, runner.limits().block_tokens),
        scheduler_(std::move(scheduler)),
        executor_(runner, [this] { OnOutcome(); }) {
    thread_ = std::thread([this] { Main(); });
  }

  ~EngineLoop() override {
    Stop(absl::UnavailableError("the engine stopped"));
    thread_.join();
  }

  absl::Status Open(std::shared_ptr<TokenSink> sink, SequenceRequest request) override;
  void Cancel(const std::shared_ptr<TokenSink>& sink, SequenceId id) override;
  void Credit(const std::shared_ptr<TokenSink>& sink, SequenceId id, int32_t tokens) override;
  void Detach(const std::shared_ptr<TokenSink>& sink) override;
  void Watch(std::shared_ptr<BlockWatcher> watcher) override;
  void Unwatch(const std::shared_ptr<BlockWatcher>& watcher) override;
  EngineCounts counts() const override;
  void Stop(const absl::Status& reason) override;
  absl::Status status() const override;
  void set_on_broken(std::function<void(const absl::Status&)> on_broken) override;

 private:
  using Mailbox = std::map<SequenceKey, Mail>;
  struct Outgoing {
    std::shared_ptr<Client> client;
    std::vector<SequenceUpdate> updates;
  };

  // --- Any thread.
  Mail* FindMail(const std::shared_ptr<TokenSink>& sink, SequenceId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnOutcome();
  bool OnOwnThread() const { return std::this_thread::get_id() == thread_id_; }

  // --- The engine's thread.
  void Main();
  absl::Status Loop();
  bool TakeMail(Mailbox& mail);
  void Apply(Mailbox&& mail);
  void Expire();
  absl::Status TakeOutcome();
  absl::Status PlanStep();
  absl::Status Submit(Batch batch);
  void TakeChoices(const InFlight& step, StepResult result);
  void End(SequenceKey key, SequenceUpdate update);
  void EndWith(SequenceKey key, absl::Status error);
  void Enqueue(const std::shared_ptr<Client>& client, SequenceUpdate update);
  void Publish();
  void Deliver();
  void EndAll(const absl::Status& reason);

  const EngineOptions options_;
  ShardRunner& runner_;
  Followers* const followers_;
  const model::PrefixHasher hasher_;

  // --- The engine's thread only.
  Scheduler scheduler_;
  std::deque<InFlight> in_flight_;
  bool exhausted_ = false;                          // nothing to plan until mail or an outcome comes
  std::unordered_map<uint64_t, Opened> sequences_;  // by key
  std::vector<Outgoing> outgoing_;                  // in the order in which clients got their first update
  uint64_t step_ = 0;

  mutable Mutex mutex_;
  CondVar changed_;
  Mailbox mail_ ABSL_GUARDED_BY(mutex_);
  int opens_ ABSL_GUARDED_BY(mutex_) = 0;  // in mail_
  uint64_t next_key_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<TokenSink*, std::shared_ptr<Client>> clients_ ABSL_GUARDED_BY(mutex_);
  const Client* delivering_ ABSL_GUARDED_BY(mutex_) = nullptr;  // whose sink is being called
  int outcomes_ ABSL_GUARDED_BY(mutex_) = 0;                    // that came and were not taken
  EngineCounts counts_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  absl::Status stop_reason_ ABSL_GUARDED_BY(mutex_);  // not ok: stop
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;       // no mail is taken any more
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;        // the thread touches nobody any more
  std::function<void(const absl::Status&)> on_broken_ ABSL_GUARDED_BY(mutex_);

  BlockWatchers watchers_;
  StepExecutor executor_;
  std::thread thread_;
  std::atomic<std::thread::id> thread_id_{};
};

// ---- Callers ------------------------------------------------------------------------------------------------------

absl::Status EngineLoop::Open(std::shared_ptr<TokenSink> sink, SequenceRequest request) {
  RETURN_IF_ERROR(CheckRequest(request, runner_.limits()));
  const int64_t tokens = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  if (!scheduler_.Fits(tokens)) {  // reads only what never changes
    return absl::InvalidArgumentError(
        absl::StrCat("prompt and max_tokens make ", tokens, " tokens: more than the KV cache holds"));
  }
  const SequenceId id = request.id;
  Sequence sequence(std::move(request), runner_.limits().vocab, options_.prefix_cache ? &hasher_ : nullptr);
  MutexLock lock(mutex_);
  RETURN_IF_ERROR(failure_);
  if (closed_ || !stop_reason_.ok()) {
    return absl::UnavailableError("the engine has stopped");
  }
  if (counts_.waiting + opens_ >= options_.max_waiting) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", options_.max_waiting, " sequences wait already"));
  }
  std::shared_ptr<Client>& client = clients_[sink.get()];
  if (client == nullptr) {
    client = std::make_shared<Client>();
    client->sink = std::move(sink);
  }
  const SequenceKey key{next_key_};
  if (!client->live.emplace(id, key).second) {
    return absl::InvalidArgumentError(absl::StrCat("sequence id ", id.value, " is in use on this stream"));
  }
  ++next_key_;
  ++opens_;
  mail_[key].open = std::make_unique<Opened>(Opened{client, std::move(sequence), options_.now()});
  changed_.NotifyAll();
  return absl::OkStatus();
}

Mail* EngineLoop::FindMail(const std::shared_ptr<TokenSink>& sink, SequenceId id) {
  const auto client = clients_.find(sink.get());
  if (client == clients_.end() || closed_) {
    return nullptr;
  }
  const auto live = client->second->live.find(id);
  return live == client->second->live.end() ? nullptr : &mail_[live->second];
}

void EngineLoop::Cancel(const std::shared_ptr<TokenSink>& sink, SequenceId id) {
  MutexLock lock(mutex_);
  if (Mail* mail = FindMail(sink, id); mail != nullptr) {
    mail->cancel = true;
    changed_.NotifyAll();
  }
}

void EngineLoop::Credit(const std::shared_ptr<TokenSink>& sink, SequenceId id, int32_t tokens) {
  if (tokens <= 0) {
    return;
  }
  MutexLock lock(mutex_);
  if (Mail* mail = FindMail(sink, id); mail != nullptr) {
    mail->credit += tokens;
    changed_.NotifyAll();
  }
}

void EngineLoop::Detach(const std::shared_ptr<TokenSink>& sink) {
  MutexLock lock(mutex_);
  const auto found = clients_.find(sink.get());
  const Client* client = found == clients_.end() ? nullptr : found->second.get();
  if (client != nullptr) {
    found->second->attached = false;
    for (const auto& [id, key] : client->live) {
      if (!closed_) {
        mail_[key].drop = true;
      }
    }
    found->second->live.clear();
    clients_.erase(found);
    changed_.NotifyAll();
  }
  while (delivering_ != nullptr && delivering_->sink == sink && !OnOwnThread()) {
    changed_.Wait(mutex_);
  }
}

void EngineLoop::Watch(std::shared_ptr<BlockWatcher> watcher) {
  watchers_.Add(std::move(watcher));
  MutexLock lock(mutex_);
  changed_.NotifyAll();
}

void EngineLoop::Unwatch(const std::shared_ptr<BlockWatcher>& watcher) {
  watchers_.Remove(watcher);
}

EngineCounts EngineLoop::counts() const {
  MutexLock lock(mutex_);
  EngineCounts counts = counts_;
  counts.waiting += opens_;
  return counts;
}

void EngineLoop::Stop(const absl::Status& reason) {
  MutexLock lock(mutex_);
  if (stop_reason_.ok()) {
    stop_reason_ = reason.ok() ? absl::UnavailableError("the engine stopped") : reason;
    changed_.NotifyAll();
  }
  while (!ended_ && !OnOwnThread()) {
    changed_.Wait(mutex_);
  }
}

absl::Status EngineLoop::status() const {
  MutexLock lock(mutex_);
  return failure_;
}

void EngineLoop::set_on_broken(std::function<void(const absl::Status&)> on_broken) {
  MutexLock lock(mutex_);
  on_broken_ = std::move(on_broken);
}

// ---- The loop -----------------------------------------------------------------------------------------------------

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
  {
    MutexLock lock(mutex_);
    const auto live = client->live.find(update.id);
    if (live != client->live.end() && live->second == key) {
      client->live.erase(live);
    }
  }
  sequences_.erase(found);
  Enqueue(client, std::move(update));
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

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options, ShardRunner& runner,
                                                       Followers* followers) {
  if (options.max_waiting < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_waiting ", options.max_waiting, ": must be at least 1"));
  }
  const ShardLimits& limits = runner.limits();
  ASSIGN_OR_RETURN(Scheduler scheduler,
                   Scheduler::Create({.step_tokens = std::min(options.step_tokens, limits.max_rows),
                                      .logit_rows = limits.max_logit_rows,
                                      .max_sequences = limits.max_sequences,
                                      .owners = limits.owners,
                                      .block_tokens = limits.block_tokens,
                                      .full_blocks = limits.full_blocks,
                                      .sliding_blocks = limits.sliding_blocks,
                                      .sliding_window = limits.sliding_window,
                                      .step_time = options.step_time}));
  return std::make_unique<EngineLoop>(options, runner, followers, std::move(scheduler));
}

}  // namespace alphecca::engine

// The engine's thread and what it shares with callers: declared here, for engine.cc (what callers do, on any thread)
// and engine_loop.cc (what the thread does) alone.
//
// Callers leave mail, one entry a sequence, which the thread takes before it plans a step; so what waits in the mailbox
// is bounded by the sequences there are.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/fair_bound.h"
#include "common/mutex.h"
#include "worker/engine/block_watchers.h"
#include "worker/engine/engine.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/sequence.h"
#include "worker/engine/step_executor.h"

namespace alphecca::engine {

class EngineLoop final : public Engine {
 public:
  EngineLoop(const EngineOptions& options, ShardRunner& runner, Followers* followers, Scheduler scheduler)
      : options_(options),
        runner_(runner),
        followers_(followers),
        hasher_(options.prefix_key, options.revision, runner.limits().block_tokens),
        scheduler_(std::move(scheduler)),
        of_tenants_(options.max_waiting),
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
  // A sink as the engine knows it, from its first Open until it is detached or its last sequence ends. Fields but
  // `sink` are guarded by the engine's mutex.
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

  // What callers ask for one sequence between two steps.
  struct Mail {
    std::unique_ptr<Opened> open;
    int64_t credit = 0;
    bool cancel = false;
    bool drop = false;  // end it without an update: nobody listens
  };
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
  void Forget(SequenceKey key, const Opened& opened) ABSL_LOCKS_EXCLUDED(mutex_);
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
  FairBound of_tenants_ ABSL_GUARDED_BY(mutex_);                // sequences that are open; bounds those that wait
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

}  // namespace alphecca::engine

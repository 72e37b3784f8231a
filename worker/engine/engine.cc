// What callers of the engine do, on threads of theirs: they check, leave mail and wake the engine's thread.
#include "worker/engine/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/engine/engine_loop.h"

namespace alphecca::engine {

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
  if (!of_tenants_.Allows(sequence.tenant(), 1, int64_t{counts_.waiting} + opens_ + 1)) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", int64_t{counts_.waiting} + opens_,
                                                     " sequences wait where ", options_.max_waiting, " may"));
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
  of_tenants_.Take(sequence.tenant(), 1);
  mail_[key].open = std::make_unique<Opened>(Opened{client, std::move(sequence), options_.now()});
  changed_.NotifyAll();
  return absl::OkStatus();
}

EngineLoop::Mail* EngineLoop::FindMail(const std::shared_ptr<TokenSink>& sink, SequenceId id) {
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

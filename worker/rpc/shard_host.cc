#include "worker/rpc/shard_host.h"

#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "worker/engine/engine.h"

namespace alphecca::worker {
namespace {

constexpr absl::Duration kProgressEvery = absl::Milliseconds(100);
constexpr absl::Duration kGaugesEvery = absl::Milliseconds(200);

std::shared_ptr<FollowerHub> MakeHub(const ShardAssignment& a, std::function<void(const absl::Status&)> on_lost) {
  return a.leads() && a.size() > 1 ? std::make_shared<FollowerHub>(a.size(), std::move(on_lost)) : nullptr;
}

}  // namespace

ShardHost::ShardHost(ShardAssignment assignment, const DeviceOptions& device, ShardDirectory& directory,
                     WorkerMetrics& metrics, ReportFn report)
    : assignment_(std::move(assignment)),
      device_(device),
      directory_(directory),
      metrics_(metrics),
      report_(std::move(report)),
      board_(assignment_.leads() ? std::make_shared<ExchangeBoard>(assignment_.size()) : nullptr),
      hub_(MakeHub(assignment_, [this](const absl::Status& why) { Fail(why); })) {
  if (!assignment_.leads()) {
    client_ = std::make_unique<FollowerClient>(assignment_.peers[0], assignment_.epoch, assignment_.rank,
                                               assignment_.rendezvous);
  }
  thread_ = std::thread([this] { Main(); });  // when all else is there
}

ShardHost::~ShardHost() {
  Stop("the worker drops the shard");
  thread_.join();
  if (hub_ != nullptr) {
    hub_->AwaitQuiet();
  }
}

void ShardHost::Stop(const std::string& reason) {
  {
    const absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  Fail(absl::UnavailableError(reason));
}

void ShardHost::StopAdmitting(const std::string& reason) {
  std::shared_ptr<EngineGate> gate;
  {
    const absl::MutexLock lock(&mutex_);
    gate = gate_;
  }
  if (gate != nullptr) {
    gate->StopAdmitting(reason);
  }
}

bool ShardHost::Busy() const {
  std::shared_ptr<EngineGate> gate;
  {
    const absl::MutexLock lock(&mutex_);
    gate = gate_;
  }
  if (gate != nullptr) {
    const engine::EngineCounts counts = gate->counts();
    return counts.running + counts.waiting > 0;
  }
  return client_ != nullptr && absl::Now() - client_->last_plan() < absl::Milliseconds(500);
}

absl::Status ShardHost::Ready() const {
  const absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(failure_);
  return state_ == v1::SHARD_STATE_READY
             ? absl::OkStatus()
             : absl::UnavailableError(absl::StrCat("the shard is in state ", v1::ShardState_Name(state_)));
}

absl::Status ShardHost::failure() const {
  const absl::MutexLock lock(&mutex_);
  return failure_;
}

void ShardHost::Fail(const absl::Status& why) {
  {
    const absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) {
      return;
    }
    failure_ = why.ok() ? absl::UnavailableError("the shard ended") : why;
    // Under the lock, so that the communicator cannot go away meanwhile.
    if (comm_ != nullptr) {
      comm_->Abort(std::string(failure_.message()));
    }
  }
  if (board_ != nullptr) {
    board_->Close(why);
  }
  if (hub_ != nullptr) {
    hub_->Close(why);
  }
  if (client_ != nullptr) {
    client_->Cancel();
  }
}

void ShardHost::Connected(comm::Communicator* comm) {
  const absl::MutexLock lock(&mutex_);
  comm_ = comm;
  if (comm_ != nullptr && !failure_.ok()) {
    comm_->Abort(std::string(failure_.message()));
  }
}

void ShardHost::Report(v1::ShardState state, const std::function<void(v1::StateReport&)>& fill) {
  const absl::MutexLock order(&report_mutex_);
  {
    const absl::MutexLock lock(&mutex_);
    state_ = state;
  }
  metrics_.SetShardState(state);
  v1::StateReport report;
  report.set_epoch(assignment_.epoch.value);
  report.set_state(state);
  if (fill != nullptr) {
    fill(report);
  }
  report_(report);
}

void ShardHost::OnProgress(int64_t done, int64_t total) {
  const absl::Time now = absl::Now();
  if (total <= 0 || (done < total && now - progress_at_ < kProgressEvery)) {
    return;
  }
  progress_at_ = now;
  // All packed: what is left is to wait for the other ranks.
  Report(done < total ? v1::SHARD_STATE_LOADING : v1::SHARD_STATE_CONNECTING, [&](v1::StateReport& report) {
    report.set_loaded_bytes(done);
    report.set_total_bytes(total);
  });
}

void ShardHost::Main() {
  absl::Status status;
  try {
    status = Run();
  } catch (const std::exception& e) {
    status = absl::InternalError(absl::StrCat("shard: ", e.what()));
  }
  Fail(status);
  directory_.Clear(assignment_.epoch);
  metrics_.SetShard(0, 0, {});
  metrics_.SetCounts({});
  bool stopping = false;
  {
    const absl::MutexLock lock(&mutex_);
    stopping = stopping_;
    status = failure_;
  }
  if (stopping) {
    LogInfo("epoch {}: shard dropped: {}", assignment_.epoch.value, std::string(status.message()));
    Report(v1::SHARD_STATE_IDLE);
  } else {
    LogError("epoch {}: shard failed: {}", assignment_.epoch.value, status.ToString());
    Report(v1::SHARD_STATE_FAILED, [&](v1::StateReport& report) { report.set_message(std::string(status.message())); });
  }
}

absl::Status ShardHost::Load(LoadedShard& shard) {
  LoadHooks hooks;
  hooks.exchange = [this](const std::string& key, const std::string& value) {
    return client_ != nullptr ? client_->Exchange(key, value, device_.connect_timeout)
                              : board_->PutAndWait(key, assignment_.rank, value, device_.connect_timeout);
  };
  hooks.connected = [this](comm::Communicator& comm) { Connected(&comm); };
  hooks.progress = [this](int64_t done, int64_t total) { OnProgress(done, total); };
  hooks.cancelled = [this] { return !failure().ok(); };
  return LoadShard(assignment_, device_, metrics_, hooks, shard);
}

absl::Status ShardHost::Run() {
  const absl::Time start = absl::Now();
  LogInfo("epoch {}: loading rank {} of {} of {} from {}", assignment_.epoch.value, assignment_.rank,
          assignment_.size(), assignment_.model, assignment_.checkpoint);
  Report(v1::SHARD_STATE_LOADING);
  if (assignment_.leads()) {
    directory_.Set({assignment_.epoch, assignment_.rendezvous, board_, hub_, nullptr});
  }
  LoadedShard shard;
  absl::Status status = Load(shard);
  if (status.ok()) {
    Report(v1::SHARD_STATE_CONNECTING);
    metrics_.load_seconds.Observe(absl::ToDoubleSeconds(absl::Now() - start));
    metrics_.SetShard(shard.runner->weight_bytes(), shard.runner->kv_bytes(), shard.runner->limits());
    status = assignment_.leads() ? Lead(shard) : Follow(shard);
  }
  Connected(nullptr);  // the shard's communicator ends with this scope
  return status;
}

absl::Status ShardHost::Lead(LoadedShard& shard) {
  engine::ShardRunner& runner = *shard.runner;
  if (hub_ != nullptr) {
    RETURN_IF_ERROR(hub_->WaitForAll(runner.fingerprint(), device_.connect_timeout));
  }
  RETURN_IF_ERROR(failure());
  engine::EngineOptions options;
  options.epoch = assignment_.epoch;
  options.step_tokens = runner.limits().max_rows;
  options.step_time = device_.step_time;
  options.max_waiting = device_.max_waiting;
  options.prefix_cache = device_.prefix_cache;
  options.revision = shard.checkpoint->Revision();
  if (assignment_.prefix_key.has_value()) {
    options.prefix_key = *assignment_.prefix_key;
  } else {
    ASSIGN_OR_RETURN(options.prefix_key, model::DrawPrefixKey());
  }
  options.on_admitted = [this](absl::Duration queued) {
    metrics_.queue_seconds.Observe(absl::ToDoubleSeconds(queued));
  };
  ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine, engine::Engine::Create(options, runner, hub_.get()));
  engine->set_on_broken([this](const absl::Status& why) { Fail(why); });

  v1::Welcome welcome;
  welcome.set_epoch(assignment_.epoch.value);
  welcome.set_fingerprint(runner.fingerprint());
  welcome.set_context(runner.limits().context);
  welcome.set_max_sequences(runner.limits().max_sequences);
  welcome.set_block_tokens(runner.limits().block_tokens);
  welcome.set_revision(options.revision);
  const auto gate = std::make_shared<EngineGate>(*engine, welcome);
  {
    const absl::MutexLock lock(&mutex_);
    gate_ = gate;
  }
  directory_.Set({assignment_.epoch, assignment_.rendezvous, board_, hub_, gate});
  Report(v1::SHARD_STATE_READY, [&](v1::StateReport& report) {
    report.set_fingerprint(runner.fingerprint());
    report.set_weight_bytes(runner.weight_bytes());
    report.set_kv_bytes(runner.kv_bytes());
  });
  LogInfo("epoch {}: leading {} ranks, ready: {}", assignment_.epoch.value, assignment_.size(), runner.fingerprint());

  absl::Status why;
  const auto failed = [this] {
    mutex_.AssertHeld();
    return !failure_.ok();
  };
  while (why.ok()) {
    {
      const absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&failed), kGaugesEvery);
      why = failure_;
    }
    metrics_.SetCounts(gate->counts());
  }
  directory_.Clear(assignment_.epoch);
  gate->Close(absl::UnavailableError(absl::StrCat("the shard group ended: ", why.message())));
  return why;
}

absl::Status ShardHost::Follow(LoadedShard& shard) {
  engine::ShardRunner& runner = *shard.runner;
  RETURN_IF_ERROR(client_->Follow(runner.fingerprint(), device_.load_timeout));
  Report(v1::SHARD_STATE_READY, [&](v1::StateReport& report) {
    report.set_fingerprint(runner.fingerprint());
    report.set_weight_bytes(runner.weight_bytes());
    report.set_kv_bytes(runner.kv_bytes());
  });
  LogInfo("epoch {}: rank {} follows {}", assignment_.epoch.value, assignment_.rank, assignment_.peers[0]);
  return client_->RunPlans(runner);
}

}  // namespace alphecca::worker

#include "worker/rpc/engine_service.h"

#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "worker/rpc/block_backlog.h"
#include "worker/rpc/convert.h"
#include "worker/rpc/grpc_status.h"

namespace alphecca::worker {
namespace {

constexpr uint32_t kProtocolVersion = 1;
// What may wait for a client that reads slowly, beyond the windows of its sequences: past it the stream is ended.
constexpr int kMaxPendingEvents = 16384;
// Changes of the prefix cache in one message, 16 bytes each: tokens never wait behind more.
constexpr size_t kMaxBlocks = 4096;

// One stream. Owns itself until OnDone; the gate and the engine share it as the sink of its sequences.
class ConnectReactor final : public grpc::ServerBidiReactor<v1::EngineCommand, v1::EngineEvents>,
                             public GateClient,
                             public std::enable_shared_from_this<ConnectReactor> {
 public:
  ConnectReactor(const ShardDirectory& directory, WorkerMetrics& metrics) : directory_(directory), metrics_(metrics) {}

  void Start(std::shared_ptr<ConnectReactor> self) {
    self_ = std::move(self);
    StartRead(&command_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      End(absl::OkStatus(), /*flush=*/false);
      return;
    }
    if (Ended()) {
      return;  // though the client has not taken in the end yet
    }
    if (const absl::Status status = Handle(command_); !status.ok()) {
      End(status, /*flush=*/false);
      return;
    }
    command_ = v1::EngineCommand();  // Clear would keep the room of the longest prompt
    StartRead(&command_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) {
      End(absl::OkStatus(), /*flush=*/false);
    }
    {
      const absl::MutexLock lock(&mutex_);
      writing_ = false;
    }
    Advance();
  }

  void OnDone() override {
    End(absl::OkStatus(), /*flush=*/false);
    const std::shared_ptr<ConnectReactor> last = std::move(self_);
  }

  // TokenSink, on the engine's thread: what a step gave joins what has not been written yet.
  void OnStep(std::vector<engine::SequenceUpdate> updates, int running, int waiting) override {
    Count(updates);
    bool overflow = false;
    {
      const absl::MutexLock lock(&mutex_);
      if (final_.has_value()) {
        return;
      }
      for (const engine::SequenceUpdate& update : updates) {
        Append(update, EventOf(update.id.value));
      }
      running_ = running;
      waiting_ = waiting;
      overflow = pending_.events_size() > kMaxPendingEvents;
    }
    if (overflow) {
      End(absl::ResourceExhaustedError(
              absl::StrCat("the client does not read: over ", kMaxPendingEvents, " events wait")),
          /*flush=*/false);
    }
    Advance();
  }

  // BlockWatcher, on the engine's thread.
  void OnBlocks(const engine::BlockEvents& events) override {
    {
      const absl::MutexLock lock(&mutex_);
      if (final_.has_value()) {
        return;
      }
      backlog_.Add(events);
    }
    Advance();
  }

  void OnClosed(const absl::Status& why) override { End(why, /*flush=*/true); }

 private:
  absl::Status Handle(const v1::EngineCommand& command) {
    if (gate_ == nullptr) {
      return Greet(command);
    }
    switch (command.command_case()) {
      case v1::EngineCommand::kHello:
        return absl::InvalidArgumentError("a second hello on one stream");
      case v1::EngineCommand::kOpen:
        Open(command.open());
        return absl::OkStatus();
      case v1::EngineCommand::kCancel:
        gate_->Cancel(shared_from_this(), SequenceId(command.cancel().sequence_id()));
        return absl::OkStatus();
      case v1::EngineCommand::kCredit:
        gate_->Credit(shared_from_this(), SequenceId(command.credit().sequence_id()), command.credit().tokens());
        return absl::OkStatus();
      case v1::EngineCommand::COMMAND_NOT_SET:
        return absl::OkStatus();  // of a later version: nothing we know
    }
    return absl::OkStatus();
  }

  absl::Status Greet(const v1::EngineCommand& command) {
    if (!command.has_hello()) {
      return absl::InvalidArgumentError("the first command of Connect must be hello");
    }
    const v1::EngineHello& hello = command.hello();
    if (hello.protocol_version() != kProtocolVersion) {
      return absl::FailedPreconditionError(
          absl::StrCat("protocol version ", hello.protocol_version(), ", this worker speaks ", kProtocolVersion));
    }
    const std::optional<LedShard> shard = directory_.Current();
    if (!shard.has_value()) {
      return absl::UnavailableError("this worker leads no group");
    }
    if (shard->epoch.value != hello.epoch()) {
      return absl::FailedPreconditionError(
          absl::StrCat("epoch ", hello.epoch(), " is asked for, this worker is in epoch ", shard->epoch.value));
    }
    if (shard->gate == nullptr) {
      return absl::UnavailableError(absl::StrCat("the group of epoch ", hello.epoch(), " is not ready yet"));
    }
    gate_ = shard->gate;  // before others come to know this stream by Attach
    RETURN_IF_ERROR(gate_->Attach(shared_from_this()));
    const engine::EngineCounts counts = gate_->counts();
    {
      const absl::MutexLock lock(&mutex_);
      *pending_.mutable_welcome() = gate_->welcome();
      running_ = counts.running;
      waiting_ = counts.waiting;
    }
    gate_->Watch(shared_from_this());  // before the first write: its failure ends the watch
    Advance();
    return absl::OkStatus();
  }

  void Open(const v1::OpenSequence& open) {
    absl::StatusOr<engine::SequenceRequest> request = FromProto(open, absl::Now());
    const absl::Status status = request.ok() ? gate_->Open(shared_from_this(), *std::move(request)) : request.status();
    if (status.ok()) {
      metrics_.sequences.Increment();
      metrics_.tokens_in.Increment(open.prompt_size());
      if (Ended()) {  // meanwhile, by a Detach that knew nothing of this sequence
        gate_->Cancel(shared_from_this(), SequenceId(open.sequence_id()));
      }
      return;
    }
    engine::SequenceUpdate refused;
    refused.id = SequenceId(open.sequence_id());
    refused.error = status;
    const engine::EngineCounts counts = gate_->counts();
    std::vector<engine::SequenceUpdate> updates;
    updates.push_back(std::move(refused));
    OnStep(std::move(updates), counts.running, counts.waiting);
  }

  void Count(const std::vector<engine::SequenceUpdate>& updates) {
    size_t tokens = 0;
    for (const engine::SequenceUpdate& update : updates) {
      tokens += update.ids.size();
      if (!update.error.ok()) {
        metrics_.CountError(update.error);
      }
    }
    metrics_.tokens_out.Increment(static_cast<double>(tokens));
  }

  // The unwritten event of the sequence. An ended one is not continued: its id may be in use again.
  v1::SequenceEvent& EventOf(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = event_of_.find(id);
    if (found != event_of_.end()) {
      v1::SequenceEvent& event = *pending_.mutable_events(found->second);
      if (event.finish_reason() == v1::FINISH_REASON_UNSPECIFIED && event.error_code() == 0) {
        return event;
      }
    }
    event_of_[id] = pending_.events_size();
    return *pending_.add_events();
  }

  bool Ended() {
    const absl::MutexLock lock(&mutex_);
    return final_.has_value();
  }

  // Sets how the stream ends: the first call decides. flush: after what is pending.
  void End(const absl::Status& status, bool flush) {
    {
      const absl::MutexLock lock(&mutex_);
      if (final_.has_value()) {
        return;
      }
      final_ = status;
      if (!flush) {
        pending_.Clear();
        event_of_.clear();
      }
      backlog_.Clear();
    }
    if (gate_ != nullptr) {
      gate_->Detach(shared_from_this());
    }
    Advance();
  }

  // Starts what is next: a write, or the stream's end. One write at a time, nothing after the end.
  void Advance() {
    std::optional<absl::Status> finish;
    {
      const absl::MutexLock lock(&mutex_);
      if (writing_ || finished_) {
        return;
      }
      if (pending_.has_welcome() || pending_.events_size() > 0 || !backlog_.empty()) {
        writing_ = true;
        events_ = std::exchange(pending_, v1::EngineEvents());  // Clear would keep the room of the largest events
        event_of_.clear();
        events_.set_running(running_);
        events_.set_waiting(waiting_);
        if (!backlog_.empty()) {
          backlog_.Take(kMaxBlocks, *events_.mutable_blocks());
        }
      } else if (final_.has_value()) {
        finished_ = true;
        finish = final_;
      } else {
        return;
      }
    }
    if (finish.has_value()) {
      Finish(ToGrpc(*finish));
    } else {
      StartWrite(&events_);
    }
  }

  const ShardDirectory& directory_;
  WorkerMetrics& metrics_;
  std::shared_ptr<ConnectReactor> self_;  // until OnDone
  std::shared_ptr<EngineGate> gate_;      // set once, by the reader
  v1::EngineCommand command_;             // the reader's
  v1::EngineEvents events_;               // the writer's while writing_

  absl::Mutex mutex_;
  v1::EngineEvents pending_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, int> event_of_ ABSL_GUARDED_BY(mutex_);  // index into pending_, by sequence
  BlockBacklog backlog_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;  // as the engine last said
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> final_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerBidiReactor<v1::EngineCommand, v1::EngineEvents>* EngineService::Connect(grpc::CallbackServerContext*) {
  const auto reactor = std::make_shared<ConnectReactor>(directory_, metrics_);
  reactor->Start(reactor);
  return reactor.get();
}

}  // namespace alphecca::worker

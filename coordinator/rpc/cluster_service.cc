#include "coordinator/rpc/cluster_service.h"

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "common/log.h"
#include "common/mutex.h"
#include "coordinator/rpc/convert.h"
#include "model/shard_plan.h"

namespace alphecca::coordinator {
namespace {

// Assignments and releases that a worker has not read yet: beyond, it is taken for broken.
constexpr size_t kMaxQueued = 256;

// One worker's stream. Owns itself until OnDone; the controller shares it as a WorkerLink while the worker is a member.
class JoinReactor final : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>, public WorkerLink {
 public:
  static JoinReactor* Start(grpc::CallbackServerContext* context, const ClusterServiceOptions& options,
                            ClusterController& controller) {
    auto reactor = std::make_shared<JoinReactor>(context, options, controller);
    reactor->self_ = reactor;
    reactor->StartRead(&reactor->incoming_);
    return reactor.get();
  }

  JoinReactor(grpc::CallbackServerContext* context, const ClusterServiceOptions& options, ClusterController& controller)
      : context_(context), options_(options), controller_(controller) {}

  // WorkerLink:
  void Registered(WorkerId worker) override {
    v1::CoordinatorMessage message;
    message.mutable_registered()->set_worker_id(worker.value);
    message.mutable_registered()->set_heartbeat_interval_ms(
        static_cast<int32_t>(absl::ToInt64Milliseconds(options_.heartbeat)));
    message.mutable_registered()->set_lease_ms(static_cast<int32_t>(absl::ToInt64Milliseconds(options_.lease)));
    Send(std::move(message));
  }
  void Assign(const Assignment& assignment) override {
    v1::CoordinatorMessage message;
    *message.mutable_assignment() = ToProto(assignment);
    Send(std::move(message));
  }
  void Release(Epoch epoch, const std::string& reason) override {
    v1::CoordinatorMessage message;
    message.mutable_release()->set_epoch(epoch.value);
    message.mutable_release()->set_reason(reason);
    Send(std::move(message));
  }
  void Close(const absl::Status& why) override {
    bool finish_now = false;
    bool cancel = false;
    {
      const MutexLock lock(mutex_);
      if (final_.has_value()) {
        return;
      }
      final_ = why;
      outgoing_.clear();
      finish_now = !writing_;
      cancel = writing_ && !done_;  // a peer that does not read would hold the write, and the stream, for good
    }
    if (finish_now) {
      Finish(ToGrpc(why));
    } else if (cancel) {
      context_->TryCancel();
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      if (worker_) {
        controller_.Leave(*worker_, "its stream ended", SteadyNow());
      }
      Close(absl::OkStatus());
      return;
    }
    const absl::Status status = Handle(incoming_);
    if (!status.ok()) {
      if (worker_) {
        controller_.Leave(*worker_, std::string(status.message()), SteadyNow());
      }
      Close(status);
      return;
    }
    incoming_.Clear();
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    bool more = false;
    std::optional<absl::Status> final_status;
    {
      const MutexLock lock(mutex_);
      more = ok && !final_ && !outgoing_.empty();
      if (more) {
        writing_message_ = std::move(outgoing_.front());
        outgoing_.pop_front();
      } else {
        writing_ = false;
        final_status = final_;
      }
    }
    if (more) {
      StartWrite(&writing_message_);
    } else if (final_status) {
      Finish(ToGrpc(*final_status));
    }
  }

  void OnDone() override {
    {
      const MutexLock lock(mutex_);
      done_ = true;
    }
    if (worker_) {
      controller_.Leave(*worker_, "its stream ended", SteadyNow());
    }
    const std::shared_ptr<JoinReactor> last = std::move(self_);
  }

 private:
  absl::Status Handle(const v1::WorkerMessage& message) {
    if (!worker_) {
      if (!message.has_register_()) {
        return absl::InvalidArgumentError("the first message of Join must be Register");
      }
      absl::StatusOr<WorkerId> id = controller_.Join(FromProto(message.register_()), self_, SteadyNow());
      if (id.ok()) {
        worker_ = *id;
      }
      return id.status();
    }
    switch (message.message_case()) {
      case v1::WorkerMessage::kHeartbeat: {
        absl::Status status = controller_.Heartbeat(*worker_, message.heartbeat().sequence(), SteadyNow());
        return absl::IsFailedPrecondition(status) ? absl::OkStatus() : status;
      }
      case v1::WorkerMessage::kState: {
        absl::Status status = controller_.Report(*worker_, FromProto(message.state()), SteadyNow());
        if (absl::IsFailedPrecondition(status)) {  // a late message: normal after a release
          LogDebug("worker {}: {}", worker_->value, std::string(status.message()));
          return absl::OkStatus();
        }
        return status;
      }
      case v1::WorkerMessage::kRegister:
        return absl::InvalidArgumentError("a second Register on one stream");
      case v1::WorkerMessage::MESSAGE_NOT_SET:
        return absl::OkStatus();  // of a later version: nothing we know
    }
    return absl::OkStatus();
  }

  void Send(v1::CoordinatorMessage message) {
    bool overflow = false;
    {
      const MutexLock lock(mutex_);
      if (final_) {
        return;
      }
      overflow = outgoing_.size() >= kMaxQueued;
      if (writing_ && !overflow) {
        outgoing_.push_back(std::move(message));
        return;
      }
      if (!overflow) {
        writing_ = true;
        writing_message_ = std::move(message);
      }
    }
    if (overflow) {
      Close(absl::ResourceExhaustedError("the worker does not read its stream"));
    } else {
      StartWrite(&writing_message_);
    }
  }

  grpc::CallbackServerContext* const context_;
  const ClusterServiceOptions& options_;
  ClusterController& controller_;
  v1::WorkerMessage incoming_;
  std::optional<WorkerId> worker_;          // the reader's
  v1::CoordinatorMessage writing_message_;  // the writer's while writing_
  std::shared_ptr<JoinReactor> self_;       // until OnDone

  Mutex mutex_;
  std::deque<v1::CoordinatorMessage> outgoing_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> final_ ABSL_GUARDED_BY(mutex_);  // how the stream ends
};

void FillGroup(const GroupView& group, const Router& router, v1::GroupStatus& out) {
  out.set_group_id(group.id.value);
  out.set_epoch(group.epoch.value);
  out.set_tp(group.split.tp);
  out.set_ep(group.split.ep);
  if (group.split.experts) {
    out.set_expert_mode(std::string(model::ExpertModeName(group.split.expert_mode)));
  }
  out.set_plan_hash(group.split.plan_hash);
  out.set_fingerprint(group.fingerprint);
  out.set_message(group.message);
  std::string state(GroupStateName(group.state));
  if (const auto client = router.Find(group.model, group.id); client != nullptr) {
    out.set_running(client->load().running);
    out.set_waiting(client->load().waiting);
    if (group.state == GroupState::kReady && !client->connected()) {
      state = GroupStateName(GroupState::kLoading);
      out.set_message("connecting to the group's leader");
    }
  }
  out.set_state(state);
  int rank = 0;
  for (const RankView& r : group.ranks) {
    v1::RankStatus& status = *out.add_ranks();
    status.set_rank(rank++);
    status.set_worker_id(r.worker.value);
    status.set_state(ToProto(r.report.state));
    status.set_loaded_bytes(r.report.loaded_bytes);
    status.set_total_bytes(r.report.total_bytes);
    status.set_weight_bytes(r.report.weight_bytes);
    status.set_kv_bytes(r.report.kv_bytes);
    status.set_message(r.report.message);
  }
}

void FillWorker(const WorkerView& worker, v1::WorkerStatus& out) {
  out.set_worker_id(worker.id.value);
  out.set_name(worker.registration.name);
  out.set_address(worker.registration.address);
  v1::Device& device = *out.mutable_device();
  device.set_kind(worker.registration.device.kind);
  device.set_name(worker.registration.device.name);
  device.set_memory_bytes(worker.registration.device.memory_bytes);
  device.set_threads(worker.registration.device.threads);
  device.set_isa(worker.registration.device.isa);
  out.set_state(ToProto(worker.state));
  out.set_epoch(worker.epoch.value);
}

}  // namespace

grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* ClusterService::Join(
    grpc::CallbackServerContext* context) {
  return JoinReactor::Start(context, options_, controller_);
}

grpc::ServerUnaryReactor* ClusterService::GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest*,
                                                    v1::ClusterStatus* response) {
  const ClusterView view = controller_.View();
  for (const ModelSpec& model : view.models) {
    v1::ModelStatus& status = *response->add_models();
    status.set_name(model.name);
    status.set_checkpoint(model.checkpoint);
    for (const GroupView& group : view.groups) {
      if (group.model == model.name) {
        FillGroup(group, router_, *status.add_groups());
      }
    }
  }
  for (const WorkerView& worker : view.workers) {
    FillWorker(worker, *response->add_workers());
  }
  response->set_uptime_seconds(absl::ToDoubleSeconds(SteadyNow() - started_));
  response->set_build(options_.build);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace alphecca::coordinator

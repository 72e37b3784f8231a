#include "worker/rpc/cluster_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "worker/rpc/grpc_status.h"
#include "worker/rpc/peer_channel.h"

namespace alphecca::worker {

ClusterClient::ClusterClient(ClusterClientOptions options, ShardDirectory& directory, WorkerMetrics& metrics)
    : options_(std::move(options)),
      directory_(directory),
      metrics_(metrics),
      stub_(v1::Cluster::NewStub(MakeChannel(options_.coordinator))) {}

void ClusterClient::Run() {
  absl::Duration backoff = options_.min_backoff;
  while (true) {
    bool joined = false;
    const absl::Status status = Session(joined);
    DropShard();
    const absl::MutexLock lock(&mutex_);
    if (stopping_) {
      return;
    }
    if (joined) {
      backoff = options_.min_backoff;
    }
    LogWarn("no coordinator at {}: {}; trying again in {}", options_.coordinator, std::string(status.message()),
            absl::FormatDuration(backoff));
    mutex_.AwaitWithTimeout(absl::Condition(&stopping_), backoff);
    if (stopping_) {
      return;
    }
    backoff = std::min(2 * backoff, options_.max_backoff);
  }
}

void ClusterClient::Stop() {
  const absl::MutexLock lock(&mutex_);
  stopping_ = true;
  if (context_ != nullptr) {
    context_->TryCancel();
  }
}

absl::Status ClusterClient::Session(bool& joined) {
  const auto context = std::make_shared<grpc::ClientContext>();
  {
    const absl::MutexLock lock(&mutex_);
    if (stopping_) {
      return absl::CancelledError("stopping");
    }
    context_ = context;
    session_over_ = false;
    reports_.clear();
  }
  // No deadline: it lasts as long as the worker. Keepalive finds a coordinator whose host is gone.
  const std::unique_ptr<Stream> stream = stub_->Join(context.get());
  v1::WorkerMessage hello;
  *hello.mutable_register_() = options_.registration;
  v1::CoordinatorMessage answer;
  if (stream->Write(hello) && stream->Read(&answer)) {
    if (answer.has_registered()) {
      joined = true;
      LogInfo("joined {} as worker {}", options_.coordinator, answer.registered().worker_id());
      const int interval = std::clamp(answer.registered().heartbeat_interval_ms(), 10, 60000);
      Serve(*stream, absl::Milliseconds(interval));
    } else {
      context->TryCancel();
    }
  }
  const absl::Status status = FromGrpc(stream->Finish());
  const absl::MutexLock lock(&mutex_);
  context_.reset();
  return status.ok() ? absl::UnavailableError("it ended the stream") : status;
}

void ClusterClient::Serve(Stream& stream, absl::Duration heartbeat) {
  std::thread writer([&] { WriteLoop(stream, heartbeat); });
  v1::CoordinatorMessage message;
  while (stream.Read(&message)) {
    Handle(message);
  }
  {
    const absl::MutexLock lock(&mutex_);
    session_over_ = true;  // a write that hangs in flow control ends with the stream
  }
  writer.join();
}

void ClusterClient::WriteLoop(Stream& stream, absl::Duration heartbeat) {
  uint64_t sequence = 0;
  absl::Time next = absl::Now();
  const auto due = [this] {
    mutex_.AssertHeld();
    return session_over_ || !reports_.empty();
  };
  while (true) {
    v1::WorkerMessage message;
    {
      const absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithDeadline(absl::Condition(&due), next);
      if (session_over_) {
        return;
      }
      if (!reports_.empty()) {
        *message.mutable_state() = std::move(reports_.front());
        reports_.pop_front();
      }
    }
    if (!message.has_state()) {
      message.mutable_heartbeat()->set_sequence(++sequence);
      next = absl::Now() + heartbeat;
    }
    if (!stream.Write(message)) {
      return;  // the reader finds out, too
    }
  }
}

void ClusterClient::Queue(const v1::StateReport& report) {
  const absl::MutexLock lock(&mutex_);
  // Progress that has not been sent is overtaken by what came after it.
  if (!reports_.empty() && reports_.back().epoch() == report.epoch() &&
      (reports_.back().state() == v1::SHARD_STATE_LOADING || reports_.back().state() == report.state())) {
    reports_.back() = report;
  } else {
    reports_.push_back(report);
  }
}

void ClusterClient::Handle(const v1::CoordinatorMessage& message) {
  if (message.has_assignment()) {
    Assign(message.assignment());
  } else if (message.has_release()) {
    const std::shared_ptr<ShardHost> current = host();
    if (current != nullptr && current->epoch().value == message.release().epoch()) {
      LogInfo("epoch {} is released: {}", message.release().epoch(), message.release().reason());
      current->Stop(absl::StrCat("released by the coordinator: ", message.release().reason()));
      DropShard();
    }
  }
}

void ClusterClient::Assign(const v1::Assignment& assignment) {
  const std::shared_ptr<ShardHost> current = host();
  if (current != nullptr && assignment.epoch() <= current->epoch().value) {
    return;  // said again, or late
  }
  if (current != nullptr) {
    current->Stop(absl::StrCat("epoch ", assignment.epoch(), " replaces it"));
  }
  DropShard();
  absl::StatusOr<ShardAssignment> checked = FromProto(assignment);
  if (!checked.ok()) {
    v1::StateReport report;
    report.set_epoch(assignment.epoch());
    report.set_state(v1::SHARD_STATE_FAILED);
    report.set_message(std::string(checked.status().message()));
    Queue(report);
    return;
  }
  auto fresh = std::make_shared<ShardHost>(*std::move(checked), options_.device, directory_, metrics_,
                                           [this](const v1::StateReport& report) { Queue(report); });
  const absl::MutexLock lock(&mutex_);
  host_ = std::move(fresh);
}

std::shared_ptr<ShardHost> ClusterClient::host() const {
  const absl::MutexLock lock(&mutex_);
  return host_;
}

void ClusterClient::DropShard() {
  std::shared_ptr<ShardHost> last;
  {
    const absl::MutexLock lock(&mutex_);
    last = std::move(host_);
    host_ = nullptr;
  }
}

absl::Status ClusterClient::Ready() const {
  const std::shared_ptr<ShardHost> current = host();
  if (current == nullptr) {
    return absl::UnavailableError("no shard is assigned");
  }
  return current->Ready();
}

void ClusterClient::StopAdmitting(const std::string& reason) {
  if (const std::shared_ptr<ShardHost> current = host(); current != nullptr) {
    current->StopAdmitting(reason);
  }
}

bool ClusterClient::Busy() const {
  const std::shared_ptr<ShardHost> current = host();
  return current != nullptr && current->Busy();
}

}  // namespace alphecca::worker

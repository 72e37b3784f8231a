#include "worker/rpc/follower_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "worker/rpc/convert.h"
#include "worker/rpc/grpc_status.h"
#include "worker/rpc/peer_channel.h"
#include "worker/rpc/shard_service.h"

namespace alphecca::worker {
namespace {

constexpr absl::Duration kRetryEvery = absl::Milliseconds(50);

}  // namespace

FollowerClient::FollowerClient(const std::string& leader, Epoch epoch, int rank, std::string rendezvous)
    : epoch_(epoch), rank_(rank), rendezvous_(std::move(rendezvous)), stub_(v1::Shard::NewStub(MakeChannel(leader))) {}

std::shared_ptr<grpc::ClientContext> FollowerClient::NewContext() {
  const absl::MutexLock lock(&mutex_);
  if (cancelled_) {
    return nullptr;
  }
  context_ = std::make_shared<grpc::ClientContext>();
  return context_;
}

absl::Time FollowerClient::last_plan() const {
  const absl::MutexLock lock(&mutex_);
  return last_plan_;
}

void FollowerClient::Cancel() {
  const absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  if (context_ != nullptr) {
    context_->TryCancel();
  }
}

absl::StatusOr<ExchangeBoard::Values> FollowerClient::Exchange(const std::string& key, const std::string& value,
                                                               absl::Duration timeout) {
  v1::ExchangeRequest request;
  request.set_epoch(epoch_.value);
  request.set_rendezvous(rendezvous_);
  request.set_rank(rank_);
  request.set_key(key);
  request.set_value(value);
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    const std::shared_ptr<grpc::ClientContext> context = NewContext();
    if (context == nullptr) {
      return absl::CancelledError("cancelled");
    }
    context->set_deadline(absl::ToChronoTime(deadline));
    context->set_wait_for_ready(true);
    v1::ExchangeResponse response;
    const absl::Status status = FromGrpc(stub_->Exchange(context.get(), request, &response));
    if (status.ok()) {
      return ExchangeBoard::Values(response.values().begin(), response.values().end());
    }
    if (!absl::IsUnavailable(status) || absl::Now() + kRetryEvery > deadline) {
      return absl::Status(status.code(), absl::StrCat("exchanging ", key, " with the leader: ", status.message()));
    }
    absl::SleepFor(kRetryEvery);
  }
}

absl::Status FollowerClient::Follow(const std::string& fingerprint, absl::Duration timeout) {
  v1::FollowerMessage message;
  v1::FollowerHello& hello = *message.mutable_hello();
  hello.set_epoch(epoch_.value);
  hello.set_rank(rank_);
  hello.set_rendezvous(rendezvous_);
  hello.set_fingerprint(fingerprint);
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    const std::shared_ptr<grpc::ClientContext> context = NewContext();
    if (context == nullptr) {
      return absl::CancelledError("cancelled");
    }
    // No deadline: the stream lasts as long as the epoch. Keepalive and the leader's end bound it.
    std::unique_ptr<Stream> stream = stub_->Follow(context.get());
    if (stream->Write(message)) {
      stream->WaitForInitialMetadata();  // comes with the leader's consent, or with its refusal
      // A refusal has no metadata of its own; its trailers show at Finish, which would wait for ever on a consent.
      if (context->GetServerInitialMetadata().contains(kFollowKey)) {
        stream_ = std::move(stream);
        return absl::OkStatus();
      }
    }
    const absl::Status status = FromGrpc(stream->Finish());
    if (!absl::IsUnavailable(status) || absl::Now() + kRetryEvery > deadline) {
      return absl::Status(status.ok() ? absl::StatusCode::kUnavailable : status.code(),
                          absl::StrCat("following the leader: ", status.message()));
    }
    absl::SleepFor(kRetryEvery);
  }
}

void FollowerClient::ReadPlans() {
  // A message each time: one for all would keep the room of the largest plan.
  for (v1::StepPlanMessage message; stream_->Read(&message); message = v1::StepPlanMessage()) {
    absl::StatusOr<engine::StepPlan> plan = FromProto(message);
    const absl::MutexLock lock(&mutex_);
    last_plan_ = absl::Now();
    plans_.push_back(std::move(plan));
  }
  const absl::MutexLock lock(&mutex_);
  no_more_plans_ = true;
}

std::optional<absl::StatusOr<engine::StepPlan>> FollowerClient::NextPlan() {
  const auto ready = [this] {
    mutex_.AssertHeld();
    return !plans_.empty() || no_more_plans_;
  };
  const absl::MutexLock lock(&mutex_, absl::Condition(&ready));
  if (plans_.empty()) {
    return std::nullopt;
  }
  absl::StatusOr<engine::StepPlan> plan = std::move(plans_.front());
  plans_.pop_front();
  return plan;
}

absl::Status FollowerClient::RunPlans(engine::ShardRunner& runner) {
  // The leader sends a plan ahead: it is read while the one before runs.
  std::thread reader([this] { ReadPlans(); });
  absl::Status failure;
  while (failure.ok()) {
    const std::optional<absl::StatusOr<engine::StepPlan>> plan = NextPlan();
    if (!plan.has_value()) {
      break;
    }
    failure = plan->ok() ? runner.Run(**plan).status() : plan->status();
    if (!failure.ok()) {
      const uint64_t step = plan->ok() ? (*plan)->step : 0;
      v1::FollowerMessage report;
      v1::StepFailed& failed = *report.mutable_failed();
      failed.set_step(step);
      failed.set_error_code(static_cast<int32_t>(failure.code()));
      failed.set_error_message(std::string(failure.message()));
      stream_->Write(report);
      stream_->WritesDone();
      failure = absl::Status(failure.code(), absl::StrCat("step ", step, ": ", failure.message()));
    }
  }
  reader.join();  // the leader ends the stream when it reads of the failure
  const absl::Status status = FromGrpc(stream_->Finish());
  if (!failure.ok()) {
    return failure;
  }
  return absl::UnavailableError(absl::StrCat("the leader's stream ended", status.ok() ? "" : ": ", status.message()));
}

}  // namespace alphecca::worker

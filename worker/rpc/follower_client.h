// A follower's end of the streams to its leader.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "alphecca/v1/shard.grpc.pb.h"
#include "common/ids.h"
#include "worker/engine/shard_runner.h"
#include "worker/engine/step_plan.h"
#include "worker/rpc/exchange_board.h"

namespace alphecca::worker {

// One thread at a time, except Cancel.
class FollowerClient {
 public:
  FollowerClient(const std::string& leader, Epoch epoch, int rank, std::string rendezvous);

  // Shard.Exchange, tried again while the leader has not heard of the epoch yet.
  absl::StatusOr<ExchangeBoard::Values> Exchange(const std::string& key, const std::string& value,
                                                 absl::Duration timeout);

  // Joins the leader's plan stream, tried again while the leader is not there yet.
  absl::Status Follow(const std::string& fingerprint, absl::Duration timeout);
  // After Follow: runs the leader's plans until the stream ends (Unavailable: the leader's word, or that it is gone) or
  // a step fails, which the leader is told.
  absl::Status RunPlans(engine::ShardRunner& runner);

  // Any thread: when the last plan came; the infinite past before the first.
  absl::Time last_plan() const;

  // Any thread: ends what is under way and all that comes later, with Cancelled.
  void Cancel();

 private:
  using Stream = grpc::ClientReaderWriter<v1::FollowerMessage, v1::StepPlanMessage>;
  // A context for the next call, which Cancel reaches; null: cancelled.
  std::shared_ptr<grpc::ClientContext> NewContext();
  // Until the stream ends: takes plans from it as they come.
  void ReadPlans();
  // Waits for the next plan, or why it could not be read; nullopt: the stream has ended.
  std::optional<absl::StatusOr<engine::StepPlan>> NextPlan();

  const Epoch epoch_;
  const int rank_;
  const std::string rendezvous_;
  const std::unique_ptr<v1::Shard::Stub> stub_;
  std::unique_ptr<Stream> stream_;

  mutable absl::Mutex mutex_;
  absl::Time last_plan_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::deque<absl::StatusOr<engine::StepPlan>> plans_ ABSL_GUARDED_BY(mutex_);
  bool no_more_plans_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(mutex_);  // outlives stream_
};

}  // namespace alphecca::worker

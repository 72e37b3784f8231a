// One assignment from its load to its end: owns device, communicator, runner and (on the leader) the engine, in a
// thread of its own. Whatever fails, anywhere in the group, ends it: collectives are aborted, streams end with
// Unavailable, the coordinator is told why.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "alphecca/v1/cluster.pb.h"
#include "worker/rpc/assignment.h"
#include "worker/rpc/follower_client.h"
#include "worker/rpc/metrics.h"
#include "worker/rpc/shard_directory.h"
#include "worker/rpc/shard_loader.h"

namespace alphecca::worker {

class ShardHost {
 public:
  // Called by the host's threads, one call at a time; must not block for long.
  using ReportFn = std::function<void(const v1::StateReport&)>;

  // Starts. Directory and metrics must outlive the host.
  ShardHost(ShardAssignment assignment, const DeviceOptions& device, ShardDirectory& directory, WorkerMetrics& metrics,
            ReportFn report);
  // Stops. While weights are being packed that has to wait for them.
  ~ShardHost();

  Epoch epoch() const { return assignment_.epoch; }

  // Ends the shard: sequences end with Unavailable. Returns at once; the destructor waits. The last report is IDLE.
  void Stop(const std::string& reason);

  // Draining: no new sequences, and whether any still run (on a follower: whether plans still come).
  void StopAdmitting(const std::string& reason);
  bool Busy() const;
  // Ready to serve; else why not.
  absl::Status Ready() const;

 private:
  void Main();
  // Each runs until the group ends, and returns why.
  absl::Status Run();
  absl::Status Lead(LoadedShard& shard);
  absl::Status Follow(LoadedShard& shard);
  absl::Status Load(LoadedShard& shard);

  // Any thread: ends the group for this reason (the first one counts).
  void Fail(const absl::Status& why);
  absl::Status failure() const;
  void Connected(comm::Communicator* comm);
  void Report(v1::ShardState state, const std::function<void(v1::StateReport&)>& fill = nullptr);
  void OnProgress(int64_t done, int64_t total);

  const ShardAssignment assignment_;
  const DeviceOptions device_;
  ShardDirectory& directory_;
  WorkerMetrics& metrics_;
  const ReportFn report_;
  const std::shared_ptr<ExchangeBoard> board_;     // leader
  const std::shared_ptr<FollowerHub> hub_;         // leader of several
  std::unique_ptr<FollowerClient> client_;         // follower; set by the constructor
  absl::Time progress_at_ = absl::InfinitePast();  // the host's thread

  mutable absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  comm::Communicator* comm_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::shared_ptr<EngineGate> gate_ ABSL_GUARDED_BY(mutex_);
  v1::ShardState state_ ABSL_GUARDED_BY(mutex_) = v1::SHARD_STATE_IDLE;
  absl::Mutex report_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);  // reports go out in the order of the states

  std::thread thread_;
};

}  // namespace alphecca::worker

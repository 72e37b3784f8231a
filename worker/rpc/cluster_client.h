// The worker's membership: joins the coordinator, keeps the lease, runs what it is assigned. Without a coordinator the
// worker is idle and tries again.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "alphecca/v1/cluster.grpc.pb.h"
#include "worker/rpc/metrics.h"
#include "worker/rpc/shard_directory.h"
#include "worker/rpc/shard_host.h"
#include "worker/rpc/shard_loader.h"

namespace alphecca::worker {

struct ClusterClientOptions {
  std::string coordinator;  // host:port
  v1::Register registration;
  DeviceOptions device;
  // Between two tries to join: doubles from the first to the second.
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(3);
};

class ClusterClient {
 public:
  // Directory and metrics must outlive the client.
  ClusterClient(ClusterClientOptions options, ShardDirectory& directory, WorkerMetrics& metrics);

  // Joins, serves, joins again, until Stop. On the caller's thread.
  void Run();

  // Any thread:
  void Stop();
  // Ready to serve a shard; else why not.
  absl::Status Ready() const;
  void StopAdmitting(const std::string& reason);
  bool Busy() const;

 private:
  using Stream = grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>;

  // From the join to the stream's end; why it ended. `joined`: it got as far as being a member.
  absl::Status Session(bool& joined);
  void Serve(Stream& stream, absl::Duration heartbeat);
  // The session's second thread: heartbeats and reports go out.
  void WriteLoop(Stream& stream, absl::Duration heartbeat);
  void Handle(const v1::CoordinatorMessage& message);
  void Assign(const v1::Assignment& assignment);
  void Queue(const v1::StateReport& report);
  std::shared_ptr<ShardHost> host() const;
  void DropShard();

  const ClusterClientOptions options_;
  ShardDirectory& directory_;
  WorkerMetrics& metrics_;
  const std::unique_ptr<v1::Cluster::Stub> stub_;

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(mutex_);  // of the session
  bool session_over_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<v1::StateReport> reports_ ABSL_GUARDED_BY(mutex_);  // not sent yet; at most one an epoch and state
  std::shared_ptr<ShardHost> host_ ABSL_GUARDED_BY(mutex_);      // set by Run's thread
};

}  // namespace alphecca::worker

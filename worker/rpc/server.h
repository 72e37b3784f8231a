// The worker's gRPC server: Engine and Shard, health and reflection.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/rpc/engine_service.h"
#include "worker/rpc/metrics.h"
#include "worker/rpc/shard_directory.h"
#include "worker/rpc/shard_service.h"

namespace alphecca::worker {

class WorkerServer {
 public:
  // Listens on host:port (port 0: any free one). Both must outlive the server. InvalidArgument, Unavailable.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const std::string& listen, const ShardDirectory& directory,
                                                             WorkerMetrics& metrics);
  ~WorkerServer();

  int port() const { return port_; }
  // What the health service says of the Engine service.
  void SetReady(bool ready);
  // Ends all calls; those still there after `grace` are cancelled.
  void Shutdown(absl::Duration grace);

 private:
  WorkerServer(const ShardDirectory& directory, WorkerMetrics& metrics)
      : engine_(directory, metrics), shard_(directory) {}

  EngineService engine_;
  ShardService shard_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

// "host:port" split at the last colon; brackets of an IPv6 host are dropped. InvalidArgument: `flag` names the option.
struct HostPort {
  std::string host;
  int port = 0;
};
absl::StatusOr<HostPort> ParseHostPort(const std::string& flag, const std::string& text);
std::string JoinHostPort(const std::string& host, int port);

}  // namespace alphecca::worker

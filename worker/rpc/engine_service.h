// alphecca.v1.Engine: the coordinator's stream into the engine of the group that this worker leads.
#pragma once

#include <grpcpp/grpcpp.h>

#include "alphecca/v1/engine.grpc.pb.h"
#include "worker/rpc/metrics.h"
#include "worker/rpc/shard_directory.h"

namespace alphecca::worker {

class EngineService final : public v1::Engine::CallbackService {
 public:
  // Both must outlive the service.
  EngineService(const ShardDirectory& directory, WorkerMetrics& metrics) : directory_(directory), metrics_(metrics) {}

  grpc::ServerBidiReactor<v1::EngineCommand, v1::EngineEvents>* Connect(grpc::CallbackServerContext* context) override;

 private:
  const ShardDirectory& directory_;
  WorkerMetrics& metrics_;
};

}  // namespace alphecca::worker

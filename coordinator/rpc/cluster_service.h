// Cluster: workers join here; people and programs ask for the status.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "alphecca/v1/cluster.grpc.pb.h"
#include "coordinator/cluster/clock.h"
#include "coordinator/cluster/controller.h"
#include "coordinator/routing/router.h"

namespace alphecca::coordinator {

struct ClusterServiceOptions {
  absl::Duration heartbeat = absl::Seconds(2);
  absl::Duration lease = absl::Seconds(10);
  std::string build;
};

// Both references must outlive the server that this is registered with.
class ClusterService final : public v1::Cluster::CallbackService {
 public:
  ClusterService(ClusterServiceOptions options, ClusterController& controller, const Router& router)
      : options_(std::move(options)), controller_(controller), router_(router), started_(SteadyNow()) {}

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Join(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest* request,
                                      v1::ClusterStatus* response) override;

 private:
  const ClusterServiceOptions options_;
  ClusterController& controller_;
  const Router& router_;
  const absl::Time started_;
};

}  // namespace alphecca::coordinator

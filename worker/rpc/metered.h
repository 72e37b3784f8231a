// A communicator and a runner that do what another one does and time it.
#pragma once

#include <memory>

#include "worker/comm/communicator.h"
#include "worker/engine/shard_runner.h"
#include "worker/rpc/metrics.h"

namespace alphecca::worker {

// `inner` and `metrics` must outlive the result.
std::unique_ptr<comm::Communicator> MeterCommunicator(comm::Communicator& inner, WorkerMetrics& metrics);
std::unique_ptr<engine::ShardRunner> MeterRunner(engine::ShardRunner& inner, WorkerMetrics& metrics);

}  // namespace alphecca::worker

// From an assignment to a runner: opens the checkpoint, makes the plan anew and compares, connects the ranks, loads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "worker/comm/communicator.h"
#include "worker/engine/shard_runner.h"
#include "worker/forward/trace.h"
#include "worker/rpc/assignment.h"
#include "worker/rpc/exchange_board.h"
#include "worker/rpc/metrics.h"

namespace alphecca::worker {

// What a worker is, whatever it is assigned.
struct DeviceOptions {
  std::string kernels = "cpu";  // or "ref"
  int threads = 0;              // 0: what the process may use
  bool pin_threads = false;     // as kernels::BackendOptions
  // Memory that weights and KV may take together, bytes.
  int64_t memory_bytes = int64_t{1} << 32;
  // KV takes no more than this, bytes.
  int64_t max_kv_bytes = int64_t{1} << 62;
  // Name or address of this host, as other hosts reach it.
  std::string host = "127.0.0.1";
  // Not owned; null: no trace.
  forward::TraceFile* trace = nullptr;
  // How long ranks wait for one another to connect, and to load.
  absl::Duration connect_timeout = absl::Seconds(60);
  // Of the engine, where this worker leads: see engine::EngineOptions.
  absl::Duration step_time = absl::Milliseconds(250);
  int max_waiting = 1024;
  bool prefix_cache = true;
  absl::Duration load_timeout = absl::Minutes(30);

  absl::Status Validate() const;
};

// Everything of a loaded shard, in the order in which it must be made (and the other way round, ended).
struct LoadedShard {
  std::unique_ptr<model::Checkpoint> checkpoint;
  std::unique_ptr<kernels::Backend> device;
  std::unique_ptr<kernels::Backend> traced_device;  // null without a trace
  std::unique_ptr<comm::Communicator> connection;
  std::unique_ptr<comm::Communicator> traced;   // null without a trace
  std::unique_ptr<comm::Communicator> metered;  // the one to use
  std::unique_ptr<engine::ShardRunner> loaded;
  std::unique_ptr<engine::ShardRunner> runner;  // metered: the one to use
};

struct LoadHooks {
  // Values of all ranks for a key, by rank; needed by "gloo".
  std::function<absl::StatusOr<ExchangeBoard::Values>(const std::string& key, const std::string& value)> exchange;
  // The communicator, as soon as there is one: what to abort to end the load early. It lives as long as the shard.
  std::function<void(comm::Communicator&)> connected;
  std::function<void(int64_t done, int64_t total)> progress;
  // Asked while waiting for the other ranks to connect.
  std::function<bool()> cancelled;
};

absl::StatusOr<std::unique_ptr<kernels::Backend>> CreateBackend(const DeviceOptions& device,
                                                                kernels::Activations activations);

// Errors name what was expected and what was found, for people far from this host. FailedPrecondition: the checkpoint
// or plan is not what the coordinator saw. ResourceExhausted: the shard does not fit.
// After an error `shard` holds what there was by then; it must stay until the communicator is out of use.
absl::Status LoadShard(const ShardAssignment& assignment, const DeviceOptions& device, WorkerMetrics& metrics,
                       const LoadHooks& hooks, LoadedShard& shard);

}  // namespace alphecca::worker

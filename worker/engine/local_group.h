// A whole shard group inside this process: one thread a rank, over shared memory. For tests, verification and
// benchmarks; the same runners, plans and engine as a group of processes.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"
#include "worker/engine/engine.h"
#include "worker/engine/shard_runner.h"

namespace alphecca::engine {

struct LocalGroupOptions {
  model::Sharding sharding;
  // Makes a rank's backend.
  std::function<absl::StatusOr<std::unique_ptr<kernels::Backend>>(int rank)> backend;
  ShardOptions shard;
  // Bytes packed so far and in all, of rank 0. May be null.
  std::function<void(int64_t done, int64_t total)> progress;
};

class LocalGroup {
 public:
  // Loads all ranks. The checkpoint must outlive the group.
  static absl::StatusOr<std::unique_ptr<LocalGroup>> Create(const model::Checkpoint& checkpoint,
                                                            const LocalGroupOptions& options);
  // Engines on the group must be gone.
  virtual ~LocalGroup() = default;

  virtual int size() const = 0;
  // Rank 0's runner is the leader's. Others may be looked at (probes, limits) while no step runs.
  virtual ShardRunner& runner(int rank) = 0;
  // To the other ranks; null in a group of one.
  virtual Followers* followers() = 0;

  // Runs a plan on all ranks and returns rank 0's result, once all have ended the step. Not while an engine is on.
  virtual absl::StatusOr<StepResult> Run(const StepPlan& plan) = 0;
};

}  // namespace alphecca::engine

// One rank at work: turns step plans into forward passes on its shard. The same on leader and followers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"
#include "worker/comm/communicator.h"
#include "worker/engine/step_plan.h"
#include "worker/forward/gemma.h"

namespace alphecca::engine {

struct ShardOptions {
  int64_t context = 0;     // tokens of one sequence at most; 0: the model's
  int max_sequences = 16;  // slots
  int64_t max_rows = 256;  // rows of a step at most
  int block_tokens = 16;
  // KV blocks by pool on each rank; 0: enough for its share of max_sequences sequences of `context` tokens (capped by
  // kv_budget_bytes if set).
  int64_t full_blocks = 0;
  int64_t sliding_blocks = 0;
  int64_t kv_budget_bytes = 0;
  kernels::DType kv_type = kernels::DType::kBF16;
  model::WeightType weights = model::WeightType::kAsFile;
};

// What the leader's engine must know of the shard; the same on every rank of a group.
struct ShardLimits {
  int64_t context = 0;
  int64_t vocab = 0;
  int sliding_window = 0;
  int max_sequences = 0;
  int owners = 1;  // ranks that sequences are spread over (wide), each with pools of this many blocks
  int64_t max_rows = 0;
  int64_t max_logit_rows = 0;
  int block_tokens = 0;
  int64_t full_blocks = 0;
  int64_t sliding_blocks = 0;  // 0: the model has no sliding layers
};

class ShardRunner {
 public:
  // Loads the shard, allocates KV, meets the other ranks in a barrier. Backend, communicator and checkpoint must
  // outlive it.
  static absl::StatusOr<std::unique_ptr<ShardRunner>> Create(
      const model::Checkpoint& checkpoint, const model::ShardPlan& plan, int rank, kernels::Backend& backend,
      comm::Communicator& comm, const ShardOptions& options,
      const std::function<void(int64_t done, int64_t total)>& progress);

  virtual ~ShardRunner() = default;

  virtual const ShardLimits& limits() const = 0;
  virtual forward::Gemma& gemma() = 0;
  virtual int64_t weight_bytes() const = 0;
  virtual int64_t kv_bytes() const = 0;
  // backend, ISA path, weight type, plan hash, communicator kind, revision: everything that fixes the bits of a result.
  virtual std::string fingerprint() const = 0;

  // Runs a plan to its end. FailedPrecondition: wrong epoch or a gap in the steps; Unavailable: a peer died. The
  // result's choices are the same on every rank. Plans of rows, slots or blocks out of range are InvalidArgument.
  virtual absl::StatusOr<StepResult> Run(const StepPlan& plan) = 0;

  // See forward::ExpertLoad. By the thread that runs plans, between them.
  virtual absl::StatusOr<forward::ExpertLoad> ReadExpertLoad() = 0;
};

}  // namespace alphecca::engine

// Experts that lie on other ranks: where they are, and how the rows of a wide step get there and back.
//
// In wide plans a rank has its own rows and all weights but the experts'. Rows travel to the ranks that hold their
// experts; of the head's work only the choices travel, from each rank to all.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/config.h"
#include "model/shard_plan.h"
#include "worker/comm/communicator.h"
#include "worker/forward/gemma.h"
#include "worker/forward/scratch.h"
#include "worker/forward/weights.h"

namespace alphecca::forward {

// Where the plan has the experts of each layer, on the device. Fused ranks look up which choices are theirs.
class ExpertHomes {
 public:
  // Empty where a rank has every expert in order: nothing needs looking up.
  static absl::StatusOr<ExpertHomes> Upload(const model::ModelConfig& config, const model::ShardPlan& plan, int rank,
                                            kernels::Backend& backend);

  bool empty() const { return layers_.empty(); }
  // Of layer l: [E, 2C] i32 (kernels::PlaceExpertsArgs), C the most copies of an expert in any layer.
  kernels::Tensor Layer(int l) const;

 private:
  std::vector<BufferPtr> layers_;
  int64_t experts_ = 0;
  int64_t copies_ = 1;
};

// As kernels::ExpertsArgs, but ids are experts of the model, and `load` counts the rows of all ranks.
struct WideExpertsArgs {
  kernels::Tensor in;       // [T, D]
  kernels::Tensor ids;      // [T, k] i32
  kernels::Tensor weights;  // [T, k]
  kernels::Tensor homes;
  const kernels::Matrix* gate_up = nullptr;
  const kernels::Matrix* down = nullptr;
  kernels::Tensor load;
  kernels::Tensor out;  // [T, D]
};

// What the ranks exchange in one step. All call the same in the same order, whether they have rows or not.
class WideExchange {
 public:
  // All must outlive the object.
  WideExchange(kernels::Backend& backend, comm::Communicator& comm, const Scratch& scratch, kernels::Stream& stream,
               const kernels::Step& step, const WideStep& all)
      : backend_(backend), comm_(comm), scratch_(scratch), stream_(stream), step_(step), all_(all) {}

  // Each row goes once to each rank that holds some of its experts; what those make of it comes back and is added up
  // in the order of ranks.
  absl::Status Experts(const WideExpertsArgs& a);

  // Each rank chooses for its own logit rows from the `count` candidates of each, which lie in the scratch; then all
  // have the choices of all.
  absl::Status Choose(int count);

 private:
  kernels::Backend& backend_;
  comm::Communicator& comm_;
  const Scratch& scratch_;
  kernels::Stream& stream_;
  const kernels::Step& step_;
  const WideStep all_;
};

}  // namespace alphecca::forward

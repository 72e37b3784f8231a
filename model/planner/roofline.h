// How fast a plan can be at best: the bytes a step must read over the memory's bandwidth, its arithmetic over the peak,
// its collectives over the links. A bound, not a promise: no kernel, launch or scheduling costs anything here.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"
#include "model/config.h"
#include "model/planner/devices.h"
#include "model/shard_plan.h"

namespace alphecca::model {

struct Load {
  int64_t sequences = 1;     // that decode together
  int64_t context = 1;       // tokens of each
  int64_t kv_tokens = 0;     // that full-attention pools hold (wide: all owners'): no more are read in a step
  int64_t prefill_rows = 1;  // of a prefill step
};

// Of one group.
struct Bound {
  double decode_tokens_per_s = 0;   // of all sequences together, their caches filled as far as the pool allows
  double prefill_tokens_per_s = 0;  // mean over a prompt of `context` tokens that runs alone
};

// Experts are taken to be routed evenly at random: of E, B rows with k each touch E (1 - (1 - k/E)^B) on average. Wide:
// sequences are spread evenly, a prompt that runs alone is one rank's.
Bound PredictBound(const ModelConfig& config, const ShardPlan& plan, const Device& device, kernels::DType weights,
                   kernels::DType kv_type, const Load& load);

}  // namespace alphecca::model

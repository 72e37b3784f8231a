// One rank's part of a shard group, as the coordinator assigns it: the checked form of v1::Assignment.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "alphecca/v1/cluster.pb.h"
#include "common/ids.h"
#include "kernels/backend.h"
#include "model/prefix_hash.h"
#include "model/shard_plan.h"
#include "model/weight_type.h"

namespace alphecca::worker {

struct ShardAssignment {
  GroupId group;
  Epoch epoch;
  std::string model;
  std::string checkpoint;
  std::string revision;  // empty: not checked
  model::Sharding sharding;
  int rank = 0;
  model::WeightType weights = model::WeightType::kAsFile;
  kernels::Activations activations = kernels::Activations::kDefault;
  bool resident_tables = false;
  kernels::DType kv_type = kernels::DType::kBF16;
  int64_t context = 0;    // 0: the model's
  int max_sequences = 0;  // 0: the default
  std::string plan_hash;  // empty: not checked
  std::vector<std::string> peers;
  std::string communicator;  // "shm", "gloo", "solo"
  std::string rendezvous;
  std::optional<model::PrefixKey> prefix_key;  // secret; none: the leader draws one

  int size() const { return std::max(sharding.tp, sharding.ep); }
  bool leads() const { return rank == 0; }
};

// InvalidArgument: names the field, its value and what would be right.
absl::StatusOr<ShardAssignment> FromProto(const v1::Assignment& assignment);

}  // namespace alphecca::worker

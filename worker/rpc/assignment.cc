#include "worker/rpc/assignment.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/kv_type.h"

namespace alphecca::worker {
namespace {

absl::Status Bad(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("assignment: ", what));
}

absl::Status CheckShape(const v1::Assignment& a) {
  if (a.epoch() == 0) {
    return Bad("epoch is 0, must be at least 1");
  }
  if (a.tp() < 1 || a.ep() < 1 || a.tp() > 1024 || a.ep() > 1024) {
    return Bad(absl::StrCat("tp ", a.tp(), " and ep ", a.ep(), " must be 1 to 1024"));
  }
  const int size = a.tp() > a.ep() ? a.tp() : a.ep();
  if (a.rank() < 0 || a.rank() >= size) {
    return Bad(absl::StrCat("rank ", a.rank(), " is not within a group of ", size));
  }
  if (a.peers_size() != size) {
    return Bad(absl::StrCat(a.peers_size(), " peers for a group of ", size));
  }
  if (a.communicator() != "shm" && a.communicator() != "gloo" && a.communicator() != "solo") {
    return Bad(absl::StrCat("communicator \"", a.communicator(), "\" is none of shm, gloo, solo"));
  }
  if (a.communicator() == "solo" && size != 1) {
    return Bad(absl::StrCat("communicator \"solo\" for a group of ", size));
  }
  if (size > 1 && a.rendezvous().empty()) {
    return Bad("a group of several ranks needs a rendezvous secret");
  }
  if (a.checkpoint().empty()) {
    return Bad("checkpoint is empty, must be a path on this host");
  }
  if (a.context() < 0 || a.max_sequences() < 0) {
    return Bad(absl::StrCat("context ", a.context(), " and max_sequences ", a.max_sequences(), " must be 0 or more"));
  }
  if (!a.prefix_key().empty() && a.prefix_key().size() != sizeof(model::PrefixKey)) {
    return Bad(absl::StrCat("prefix_key of ", a.prefix_key().size(), " bytes, must have ", sizeof(model::PrefixKey)));
  }
  return absl::OkStatus();
}

absl::StatusOr<model::Sharding> ShardingOf(const v1::Assignment& a) {
  model::Sharding sharding{.tp = a.tp(), .ep = a.ep()};
  const absl::StatusOr<model::ExpertMode> mode =
      model::ParseExpertMode(a.expert_mode().empty() ? "fused" : a.expert_mode());
  if (!mode.ok()) {
    return Bad(std::string(mode.status().message()));
  }
  sharding.mode = *mode;
  const int per_rank = a.expert_replicas().per_rank();
  const auto& experts = a.expert_replicas().experts();
  if (per_rank < 0 ||
      (per_rank == 0 ? !experts.empty() : experts.empty() || experts.size() % (int64_t{per_rank} * a.ep()) != 0)) {
    return Bad(absl::StrCat(experts.size(), " expert replicas: want ", per_rank, " for each of ", a.ep(),
                            " ranks in every layer"));
  }
  for (auto expert = experts.begin(); expert != experts.end();) {
    std::vector<std::vector<int32_t>>& layer = sharding.replicas.emplace_back();
    for (int rank = 0; rank < a.ep(); ++rank, expert += per_rank) {
      layer.emplace_back(expert, expert + per_rank);
    }
  }
  return sharding;
}

}  // namespace

absl::StatusOr<ShardAssignment> FromProto(const v1::Assignment& a) {
  RETURN_IF_ERROR(CheckShape(a));
  ShardAssignment out;
  out.group = GroupId(a.group_id());
  out.epoch = Epoch(a.epoch());
  out.model = a.model();
  out.checkpoint = a.checkpoint();
  out.revision = a.revision();
  ASSIGN_OR_RETURN(out.sharding, ShardingOf(a));
  out.rank = a.rank();
  out.context = a.context();
  out.max_sequences = a.max_sequences();
  out.plan_hash = a.plan_hash();
  out.resident_tables = a.resident_tables();
  out.peers.assign(a.peers().begin(), a.peers().end());
  out.communicator = a.communicator();
  out.rendezvous = a.rendezvous();
  if (!a.prefix_key().empty()) {
    a.prefix_key().copy(reinterpret_cast<char*>(out.prefix_key.emplace().data()), sizeof(model::PrefixKey));
  }
  const absl::StatusOr<model::WeightType> weights = model::ParseWeightType(a.weights());
  if (!weights.ok()) {
    return Bad(std::string(weights.status().message()));
  }
  out.weights = *weights;
  if (a.activations() == "f32") {
    out.activations = kernels::Activations::kF32;
  } else if (a.activations() != "default" && !a.activations().empty()) {
    return Bad(absl::StrCat("activations \"", a.activations(), "\" is neither default nor f32"));
  }
  if (!a.kv_type().empty()) {
    const std::optional<kernels::DType> kv_type = kernels::KvTypeByName(a.kv_type());
    if (!kv_type.has_value()) {
      return Bad(absl::StrCat("kv_type \"", a.kv_type(), "\" is not ", kernels::kKvNames));
    }
    out.kv_type = *kv_type;
  }
  return out;
}

}  // namespace alphecca::worker

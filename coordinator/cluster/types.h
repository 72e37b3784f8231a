// What membership, assignment and group state are made of: the domain forms of alphecca/v1/cluster.proto.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "model/expert_replicas.h"
#include "model/prefix_hash.h"
#include "model/shard_plan.h"

namespace alphecca::coordinator {

inline constexpr uint32_t kProtocolVersion = 1;

struct DeviceInfo {
  std::string kind;  // "cpu", "cuda"
  std::string name;
  int64_t memory_bytes = 0;  // that a shard may use
  int32_t threads = 0;
  std::string isa;
};

// What a worker says of itself when it joins.
struct Registration {
  uint32_t protocol_version = 0;
  std::string build;
  DeviceInfo device;
  std::string address;  // host:port
  std::string name;     // empty: one is made
  std::string host;     // equal on ranks that may share memory
};

// Within an epoch a shard goes through these in order; failed may follow any.
enum class ShardState { kIdle, kLoading, kConnecting, kReady, kFailed };

struct ShardReport {
  Epoch epoch;
  ShardState state = ShardState::kIdle;
  int64_t loaded_bytes = 0;
  int64_t total_bytes = 0;
  std::string message;
  std::string fingerprint;
  int64_t weight_bytes = 0;
  int64_t kv_bytes = 0;
};

// A way to share a model among the ranks of a group.
struct Split {
  int tp = 1;
  int ep = 1;
  std::string plan_hash;
  int64_t rank_bytes = 0;  // that a worker's device must have for its shard; 0: any
  bool experts = false;    // the model has some
  model::ExpertMode expert_mode = model::ExpertMode::kFused;
  model::ExpertReplicas expert_replicas = {};
  int ranks() const { return tp > ep ? tp : ep; }
};

// What becomes of a group that loses a worker.
enum class OnLoss {
  kWait,    // it waits for as many workers as it had
  kReplan,  // it forms anew of the workers there are, by whichever split they hold
};

// A model to serve and how: fixed for the life of the coordinator.
struct ModelSpec {
  std::string name;
  std::string checkpoint;     // path on the workers' hosts
  std::string revision;       // of configuration and tensor index, as the coordinator sees it
  std::vector<Split> splits;  // the ways to share it that the operator allows, best first; at least one
  int replicas = 1;           // groups; 0: as many as the workers make
  OnLoss on_loss = OnLoss::kWait;
  std::string weights = "as-file";
  bool resident_tables = false;  // read in, not mapped
  std::string activations = "default";
  std::string kv_type = "bf16";
  int64_t context = 0;
  int max_sequences = 0;
};

// One rank's part of a group.
struct Assignment {
  GroupId group;
  Epoch epoch;
  ModelSpec model;
  Split split;
  int rank = 0;
  std::vector<std::string> peers;  // addresses by rank
  std::string communicator;        // "solo", "shm", "gloo"
  std::string rendezvous;
  model::PrefixKey prefix_key = {};  // secret
};

enum class GroupState { kWaiting, kLoading, kReady, kFailed };
std::string_view GroupStateName(GroupState state);  // as in GroupStatus.state

// What the state machine wants done, in order. Effects of a released epoch come before those of a later one.
class ClusterEffects {
 public:
  virtual ~ClusterEffects() = default;
  virtual void Assign(WorkerId worker, const Assignment& assignment) = 0;
  virtual void Release(WorkerId worker, Epoch epoch, const std::string& reason) = 0;
  // The worker is no longer a member: its stream should end with this status.
  virtual void Evict(WorkerId worker, const absl::Status& why) = 0;
  virtual void GroupReady(GroupId group, Epoch epoch, const std::string& model, const std::string& leader_address,
                          const std::string& fingerprint) = 0;
  // A group that was ready no longer is.
  virtual void GroupLost(GroupId group, Epoch epoch, const std::string& model, const absl::Status& why) = 0;
};

// Snapshots for people and programs.
struct RankView {
  WorkerId worker;
  ShardReport report;
};
struct GroupView {
  GroupId id;
  Epoch epoch;
  std::string model;
  Split split;  // of the epoch; while it waits: the model's first
  GroupState state = GroupState::kWaiting;
  std::string fingerprint;
  std::string message;
  std::vector<RankView> ranks;
};
struct WorkerView {
  WorkerId id;
  Registration registration;
  ShardState state = ShardState::kIdle;
  Epoch epoch;
};
struct ClusterView {
  std::vector<ModelSpec> models;
  std::vector<GroupView> groups;
  std::vector<WorkerView> workers;
};

}  // namespace alphecca::coordinator

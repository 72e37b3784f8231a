// Records what the cluster's state machine asks for.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "coordinator/cluster/cluster.h"

namespace alphecca::coordinator {

class RecordingEffects : public ClusterEffects {
 public:
  struct Sent {
    WorkerId worker;
    Assignment assignment;
  };
  struct Released {
    WorkerId worker;
    Epoch epoch;
    std::string reason;
  };

  void Assign(WorkerId worker, const Assignment& assignment) override { assigned.push_back({worker, assignment}); }
  void Release(WorkerId worker, Epoch epoch, const std::string& reason) override {
    released.push_back({worker, epoch, reason});
  }
  void Evict(WorkerId worker, const absl::Status& why) override { evicted.emplace_back(worker, why); }
  void GroupReady(GroupId group, Epoch epoch, const std::string&, const std::string& leader,
                  const std::string& fingerprint) override {
    ready[group] = epoch;
    last_leader = leader;
    last_fingerprint = fingerprint;
  }
  void GroupLost(GroupId group, Epoch epoch, const std::string&, const absl::Status& why) override {
    lost.emplace_back(group, epoch);
    last_loss = why;
    ready.erase(group);
  }

  std::vector<Sent> assigned;
  std::vector<Released> released;
  std::vector<std::pair<WorkerId, absl::Status>> evicted;
  std::map<GroupId, Epoch> ready;
  std::vector<std::pair<GroupId, Epoch>> lost;
  absl::Status last_loss;
  std::string last_leader;
  std::string last_fingerprint;
};

inline constexpr int64_t kTestMemory = int64_t{64} << 20;

inline Registration TestWorker(const std::string& name, const std::string& host, int port) {
  Registration r;
  r.protocol_version = kProtocolVersion;
  r.build = "b1";
  r.device.kind = "cpu";
  r.device.isa = "avx2";
  r.device.memory_bytes = kTestMemory;
  r.address = host + ":" + std::to_string(port);
  r.name = name;
  r.host = host;
  return r;
}

inline ModelSpec TestModel(const std::string& name, int tp, int ep, int replicas) {
  ModelSpec m;
  m.name = name;
  m.checkpoint = "/models/" + name;
  m.splits = {{.tp = tp, .ep = ep, .plan_hash = "0123456789abcdef", .rank_bytes = 0}};
  m.replicas = replicas;
  return m;
}

inline ClusterOptions TestOptions() {
  ClusterOptions options;
  options.first_epoch = Epoch(100);
  options.prefix_key = {5, 6};
  options.make_rendezvous = [n = 0]() mutable { return "rendezvous-" + std::to_string(++n); };
  return options;
}

inline ShardReport TestReport(Epoch epoch, ShardState state, const std::string& message = "") {
  ShardReport r;
  r.epoch = epoch;
  r.state = state;
  r.message = message;
  r.fingerprint = state == ShardState::kReady ? "cpu/avx2" : "";
  return r;
}

}  // namespace alphecca::coordinator

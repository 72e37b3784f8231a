// What a worker counts. Names: alphecca_worker_*.
#pragma once

#include <array>
#include <string>

#include "absl/status/status.h"
#include "alphecca/v1/cluster.pb.h"
#include "common/metrics.h"
#include "worker/engine/engine.h"
#include "worker/engine/shard_runner.h"

namespace alphecca::worker {

// Thread-safe, as the registry's metrics are.
class WorkerMetrics {
 public:
  explicit WorkerMetrics(MetricsRegistry& registry);

  void SetShardState(v1::ShardState state);
  // Sizes of the shard; zeros: none.
  void SetShard(int64_t weight_bytes, int64_t kv_bytes, const engine::ShardLimits& limits);
  void SetCounts(const engine::EngineCounts& counts);
  // Rows by layer and expert of this rank's shard, and what was counted of them before (empty: nothing yet). One
  // thread.
  void SetExpertLoad(const forward::ExpertLoad& load, const forward::ExpertLoad& before);
  void ClearExpertImbalance(size_t layers);
  void CountError(const absl::Status& status);

  Counter& tokens_in;   // prompt tokens of admitted sequences
  Counter& tokens_out;  // tokens generated
  Counter& sequences;   // admitted
  Counter& steps;
  Counter& step_rows;
  Histogram& queue_seconds;
  Histogram& step_seconds;
  Histogram& load_seconds;
  // By collective.
  Histogram& AllReduceSeconds() { return *collectives_[0]; }
  Histogram& AllGatherSeconds() { return *collectives_[1]; }
  Histogram& AllToAllSeconds() { return *collectives_[2]; }
  Histogram& BarrierSeconds() { return *collectives_[3]; }

 private:
  Gauge& ExpertImbalance(size_t layer);

  MetricsRegistry& registry_;
  std::array<Histogram*, 4> collectives_{};
  std::array<Gauge*, 6> states_{};  // by v1::ShardState
  Gauge& running_;
  Gauge& waiting_;
  std::array<Gauge*, 2> kv_used_{};      // by kernels::PoolKind
  std::array<Gauge*, 2> kv_capacity_{};  // likewise
  std::array<Gauge*, 2> kv_idle_{};      // likewise
  engine::EngineCounts counted_;         // what the counters below hold of the engine that runs
  Counter& preemptions_;
  Counter& prefix_tokens_;
  Counter& prefix_hit_tokens_;
  Gauge& weight_bytes_;
  Gauge& kv_bytes_;
};

}  // namespace alphecca::worker

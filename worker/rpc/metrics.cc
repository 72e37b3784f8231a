#include "worker/rpc/metrics.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/version.h"

namespace alphecca::worker {
namespace {

constexpr std::array<const char*, 6> kStateNames = {"unspecified", "idle", "loading", "connecting", "ready", "failed"};

// From 10 us: a sum between threads of one host takes little more.
std::vector<double> CollectiveBuckets() {
  return {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1, 10};
}

}  // namespace

WorkerMetrics::WorkerMetrics(MetricsRegistry& registry)
    : tokens_in(registry.AddCounter("alphecca_worker_prompt_tokens_total", "Prompt tokens of admitted sequences.")),
      tokens_out(registry.AddCounter("alphecca_worker_generated_tokens_total", "Tokens generated.")),
      sequences(registry.AddCounter("alphecca_worker_sequences_total", "Sequences admitted.")),
      steps(registry.AddCounter("alphecca_worker_steps_total", "Steps run on this rank.")),
      step_rows(registry.AddCounter("alphecca_worker_step_rows_total", "Rows (tokens) of the steps run on this rank.")),
      queue_seconds(registry.AddHistogram("alphecca_worker_queue_seconds",
                                          "From a sequence's arrival to its first step, seconds (leader).",
                                          LatencyBuckets())),
      step_seconds(registry.AddHistogram("alphecca_worker_step_seconds", "Time of one step on this rank, seconds.",
                                         LatencyBuckets())),
      load_seconds(registry.AddHistogram("alphecca_worker_load_seconds", "Time to load a shard, seconds.",
                                         {0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000})),
      registry_(registry),
      running_(registry.AddGauge("alphecca_worker_running_sequences", "Sequences in the running batch (leader).")),
      waiting_(registry.AddGauge("alphecca_worker_waiting_sequences", "Sequences in the queue (leader).")),
      preemptions_(registry.AddCounter("alphecca_worker_preemptions_total",
                                       "Sequences that gave their KV blocks back to others and began again (leader).")),
      prefix_tokens_(registry.AddCounter("alphecca_worker_prefix_tokens_total",
                                         "Tokens of sequences that joined the batch, looked up in the prefix cache "
                                         "(leader).")),
      prefix_hit_tokens_(registry.AddCounter("alphecca_worker_prefix_hit_tokens_total",
                                             "Of them, tokens whose KV was there (leader).")),
      weight_bytes_(registry.AddGauge("alphecca_worker_weight_bytes", "Weights resident on this rank, bytes.")),
      kv_bytes_(registry.AddGauge("alphecca_worker_kv_bytes", "Memory of the KV pools of this rank, bytes.")) {
  const std::array<const char*, 4> names = {"all_reduce", "all_gather", "all_to_all", "barrier"};
  for (size_t i = 0; i < names.size(); ++i) {
    collectives_[i] = &registry.AddHistogram("alphecca_worker_collective_seconds",
                                             "Time of one collective on this rank, waiting included, seconds.",
                                             CollectiveBuckets(), {{"collective", names[i]}});
  }
  for (size_t i = 1; i < kStateNames.size(); ++i) {
    states_[i] = &registry.AddGauge("alphecca_worker_shard_state", "1 for the state of this worker's shard.",
                                    {{"state", kStateNames[i]}});
  }
  const std::array<const char*, 2> pools = {"full", "sliding"};
  for (size_t i = 0; i < pools.size(); ++i) {
    kv_used_[i] = &registry.AddGauge("alphecca_worker_kv_blocks_used", "KV blocks in use, by pool (leader).",
                                     {{"pool", pools[i]}});
    kv_idle_[i] =
        &registry.AddGauge("alphecca_worker_kv_blocks_idle",
                           "KV blocks that only the prefix cache keeps, by pool (leader).", {{"pool", pools[i]}});
    kv_capacity_[i] =
        &registry.AddGauge("alphecca_worker_kv_blocks_capacity", "KV blocks there are, by pool.", {{"pool", pools[i]}});
  }
  registry.AddGauge("alphecca_worker_build_info", "1, labelled with the build.", {{"build", BuildVersion()}}).Set(1);
  SetShardState(v1::SHARD_STATE_IDLE);
}

void WorkerMetrics::SetShardState(v1::ShardState state) {
  for (size_t i = 1; i < states_.size(); ++i) {
    states_[i]->Set(static_cast<size_t>(state) == i ? 1 : 0);
  }
}

void WorkerMetrics::SetShard(int64_t weight_bytes, int64_t kv_bytes, const engine::ShardLimits& limits) {
  weight_bytes_.Set(static_cast<double>(weight_bytes));
  kv_bytes_.Set(static_cast<double>(kv_bytes));
  kv_capacity_[0]->Set(static_cast<double>(limits.full_blocks * limits.owners));
  kv_capacity_[1]->Set(static_cast<double>(limits.sliding_blocks * limits.owners));
}

void WorkerMetrics::SetCounts(const engine::EngineCounts& counts) {
  running_.Set(counts.running);
  waiting_.Set(counts.waiting);
  kv_used_[0]->Set(static_cast<double>(counts.full_blocks_used));
  kv_used_[1]->Set(static_cast<double>(counts.sliding_blocks_used));
  kv_idle_[0]->Set(static_cast<double>(counts.full_blocks_idle));
  kv_idle_[1]->Set(static_cast<double>(counts.sliding_blocks_idle));
  if (counts.steps < counted_.steps) {
    counted_ = {};  // another engine, which counts from 0
  }
  preemptions_.Increment(static_cast<double>(counts.preemptions - counted_.preemptions));
  prefix_tokens_.Increment(static_cast<double>(counts.prompt_tokens - counted_.prompt_tokens));
  prefix_hit_tokens_.Increment(static_cast<double>(counts.cached_tokens - counted_.cached_tokens));
  counted_ = counts;
}

void WorkerMetrics::SetExpertLoad(const forward::ExpertLoad& load, const forward::ExpertLoad& before) {
  for (size_t l = 0; l < load.size(); ++l) {
    const std::vector<uint64_t>& experts = load[l];
    const uint64_t total = std::accumulate(experts.begin(), experts.end(), uint64_t{0});
    const uint64_t counted = before.empty() ? 0 : std::accumulate(before[l].begin(), before[l].end(), uint64_t{0});
    registry_
        .AddCounter("alphecca_worker_expert_tokens_total",
                    "Tokens that experts of this rank computed, one for each expert of a token, by layer.",
                    {{"layer", absl::StrCat(l)}})
        .Increment(static_cast<double>(total - counted));
    const double mean = static_cast<double>(total) / static_cast<double>(experts.size());
    const auto most = static_cast<double>(*std::max_element(experts.begin(), experts.end()));
    ExpertImbalance(l).Set(total == 0 ? 0 : most / mean);
  }
}

void WorkerMetrics::ClearExpertImbalance(size_t layers) {
  for (size_t l = 0; l < layers; ++l) {
    ExpertImbalance(l).Set(0);
  }
}

Gauge& WorkerMetrics::ExpertImbalance(size_t layer) {
  return registry_.AddGauge(
      "alphecca_worker_expert_imbalance",
      "Tokens of the busiest expert of this rank over the mean of its experts, since the load, by layer; 0: no shard.",
      {{"layer", absl::StrCat(layer)}});
}

void WorkerMetrics::CountError(const absl::Status& status) {
  registry_
      .AddCounter("alphecca_worker_errors_total", "Sequences that ended by an error, by code.",
                  {{"code", absl::StatusCodeToString(status.code())}})
      .Increment();
}

}  // namespace alphecca::worker

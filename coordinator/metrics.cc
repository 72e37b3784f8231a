#include "coordinator/metrics.h"

#include "absl/status/status.h"

namespace alphecca::coordinator {

std::string CodeName(absl::StatusCode code) {
  return absl::StatusCodeToString(code);
}

CoordinatorMetrics::CoordinatorMetrics(MetricsRegistry& registry) : registry_(registry) {}

CoordinatorMetrics::Model& CoordinatorMetrics::ForModel(const std::string& model) {
  const MutexLock lock(mutex_);
  const auto it = models_.find(model);
  if (it != models_.end()) {
    return it->second;
  }
  const Labels labels = {{"model", model}};
  const std::vector<double> buckets = LatencyBuckets();
  Model m;
  m.time_to_first_token = &registry_.AddHistogram("alphecca_time_to_first_token_seconds",
                                                  "From the request's arrival to its first token", buckets, labels);
  m.time_per_output_token =
      &registry_.AddHistogram("alphecca_time_per_output_token_seconds",
                              "Mean time between the tokens of a sample after its first", buckets, labels);
  m.request_duration = &registry_.AddHistogram("alphecca_request_duration_seconds",
                                               "From a generation request's arrival to its end", buckets, labels);
  m.preparation = &registry_.AddHistogram(
      "alphecca_request_preparation_seconds",
      "From a generation request's arrival until its sequences are sent to a group: queueing, validation, tokenizing",
      buckets, labels);
  m.prompt_tokens = &registry_.AddCounter("alphecca_prompt_tokens_total", "Prompt tokens taken in", labels);
  m.cached_tokens =
      &registry_.AddCounter("alphecca_cached_prompt_tokens_total", "Prompt tokens found in the prefix cache", labels);
  m.output_tokens = &registry_.AddCounter("alphecca_output_tokens_total", "Tokens generated and counted", labels);
  constexpr char kRouted[] = "alphecca_routed_requests_total";
  constexpr char kRoutedHelp[] =
      "Requests sent to a group, by whether some of their prompt was expected in its prefix cache";
  m.routed_to_prefix = &registry_.AddCounter(kRouted, kRoutedHelp, {{"model", model}, {"prefix", "expected"}});
  m.routed_without_prefix = &registry_.AddCounter(kRouted, kRoutedHelp, {{"model", model}, {"prefix", "none"}});
  m.expected_cached_tokens = &registry_.AddCounter(
      "alphecca_expected_cached_prompt_tokens_total",
      "Prompt tokens that were expected in the prefix cache of the group their request was sent to", labels);
  m.broken_tool_calls =
      &registry_.AddCounter("alphecca_broken_tool_calls_total",
                            "Tool calls given back as content: not well formed, or cut by the end", labels);
  m.open_requests = &registry_.AddGauge("alphecca_requests_open", "Generation requests not yet ended", labels);
  return models_.emplace(model, m).first->second;
}

void CoordinatorMetrics::CountRequest(const std::string& method, const std::string& code) {
  registry_
      .AddCounter("alphecca_requests_total", "Requests ended, by method and status code",
                  {{"method", method}, {"code", code}})
      .Increment();
}

void CoordinatorMetrics::SetCluster(const ClusterView& view, const Router& router) {
  registry_.AddGauge("alphecca_workers", "Live workers").Set(static_cast<double>(view.workers.size()));
  for (const ModelSpec& model : view.models) {
    std::map<GroupState, int> states;
    double running = 0;
    double waiting = 0;
    for (const GroupView& group : view.groups) {
      if (group.model != model.name) {
        continue;
      }
      ++states[group.state];
      if (const auto client = router.Find(group.model, group.id); client != nullptr) {
        running += client->load().running;
        waiting += client->load().waiting;
      }
    }
    for (const auto& [state, label] :
         {std::pair{GroupState::kWaiting, "waiting"}, std::pair{GroupState::kLoading, "loading"},
          std::pair{GroupState::kReady, "ready"}, std::pair{GroupState::kFailed, "failed"}}) {
      registry_.AddGauge("alphecca_groups", "Shard groups by state", {{"model", model.name}, {"state", label}})
          .Set(states[state]);
    }
    const Labels labels = {{"model", model.name}};
    registry_.AddGauge("alphecca_sequences_running", "Sequences in the groups' running batches", labels).Set(running);
    registry_.AddGauge("alphecca_sequences_waiting", "Sequences in the groups' queues", labels).Set(waiting);
  }
}

void CoordinatorMetrics::SetPrefixIndex(const PrefixIndex::Size& size) {
  registry_.AddGauge("alphecca_prefix_index_blocks", "KV blocks known to be in prefix caches, each once")
      .Set(static_cast<double>(size.blocks));
  registry_.AddGauge("alphecca_prefix_index_bytes", "Memory of the index of prefix caches")
      .Set(static_cast<double>(size.bytes));
}

}  // namespace alphecca::coordinator

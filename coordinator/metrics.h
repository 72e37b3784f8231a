// What the coordinator measures.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "coordinator/cluster/types.h"
#include "coordinator/routing/router.h"

namespace alphecca::coordinator {

// Thread-safe. The registry must outlive it.
class CoordinatorMetrics {
 public:
  explicit CoordinatorMetrics(MetricsRegistry& registry);

  // One per model; valid as long as the registry. Latencies in seconds.
  struct Model {
    Histogram* time_to_first_token = nullptr;
    Histogram* time_per_output_token = nullptr;
    Histogram* request_duration = nullptr;
    Histogram* preparation = nullptr;  // validation, text to tokens, until the sequences are opened
    Counter* prompt_tokens = nullptr;
    Counter* cached_tokens = nullptr;
    Counter* output_tokens = nullptr;
    Counter* routed_to_prefix =
        nullptr;  // requests, by whether the chosen group was expected to have some of the prompt
    Counter* routed_without_prefix = nullptr;
    Counter* expected_cached_tokens = nullptr;
    Counter* broken_tool_calls = nullptr;
    Gauge* open_requests = nullptr;
  };
  Model& ForModel(const std::string& model) ABSL_LOCKS_EXCLUDED(mutex_);

  // `code` as google.rpc.Code's name, "OK", "INVALID_ARGUMENT".
  void CountRequest(const std::string& method, const std::string& code);

  // Gauges of workers, groups by state, running and waiting sequences.
  void SetCluster(const ClusterView& view, const Router& router);
  void SetPrefixIndex(const PrefixIndex::Size& size);

 private:
  MetricsRegistry& registry_;
  Mutex mutex_;
  std::map<std::string, Model> models_ ABSL_GUARDED_BY(mutex_);
};

// The name of a status code as in google.rpc.Code.
std::string CodeName(absl::StatusCode code);

}  // namespace alphecca::coordinator

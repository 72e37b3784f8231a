// cluster.yaml: the models of a cluster and how each is served; what the flags say of all of them, for each. And the
// shares of tenants.
//
//   models:
//     - path: /models/gemma-4-31b-it   # the workers find it at the same path
//       name: chat                     # default: from the path
//       tp: auto                       # or a number; ep likewise
//       replicas: auto                 # or a number: groups
//       on_loss: replan                # or wait
//       context: 32768
//       max_sequences: 64
//       kv_type: bf16
//       weights: as-file
//       activations: default
//   tenants:
//     batch:
//       weight: 0.25                   # its share of a busy group against other tenants' 1
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/request/served_model.h"

namespace alphecca::coordinator {

using TenantWeight = std::pair<std::string, double>;

struct ClusterConfig {
  std::vector<ServeOptions> models;
  std::vector<TenantWeight> tenant_weights;
};

// `defaults` where a model says nothing. Values are not checked here beyond their kind. InvalidArgument names the line
// and the key: no YAML, an unknown key, a value of the wrong kind, an empty list of models, neither models nor tenants.
absl::StatusOr<ClusterConfig> ParseClusterConfig(const std::string& yaml, const ServeOptions& defaults);
// The same of a file. NotFound.
absl::StatusOr<ClusterConfig> ReadClusterConfig(const std::string& path, const ServeOptions& defaults);

}  // namespace alphecca::coordinator

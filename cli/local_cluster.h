// A cluster on this host: one coordinator and some workers, as real processes on loopback.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/client.h"
#include "cli/model_ref.h"
#include "cli/process.h"

namespace alphecca::cli {

struct LocalClusterOptions {
  ResolvedModel model;
  int tp = 1;
  int ep = 0;               // 0: as the coordinator chooses (tp for a model with experts, else 1)
  int threads = 0;          // of each worker; 0: this host's, shared out evenly
  int64_t context = 0;      // tokens of a sequence; 0: the model's, capped by memory
  int max_sequences = 0;    // 0: the coordinator's default
  std::string expert_mode;  // "", "fused", "wide"
  std::string expert_load;  // file of a recorded load, with hot_experts
  int hot_experts = 0;
  std::string weights;  // "" or as model::ParseWeightType takes it
  bool resident_tables = false;
  std::string activations;  // "", "default" or "f32"
  std::string kv_type;      // "", or as --kv-type has it
  std::string kernels;      // "", "cpu" or "ref"
  std::string listen = "127.0.0.1:0";
  std::string metrics = "127.0.0.1:0";
  std::string trace;       // prefix of the workers' trace files
  std::string log_folder;  // empty: a fresh one under the temporary folder
  bool quiet = false;      // no progress on stderr
};

class LocalCluster {
 public:
  // Starts all processes and waits until the model is ready, showing progress. Any process's end, or a shard's failure,
  // ends the wait with that process's reason.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(const LocalClusterOptions& options,
                                                             absl::Duration timeout);
  ~LocalCluster();  // stops workers, then the coordinator

  Client& client() { return *client_; }
  const std::string& address() const { return address_; }
  const std::string& metrics_address() const { return metrics_address_; }
  const std::vector<std::string>& worker_metrics() const { return worker_metrics_; }
  const std::string& log_folder() const { return log_folder_; }
  // Not ok once a process has ended.
  absl::Status Running();

 private:
  LocalCluster() = default;
  absl::Status StartProcesses(const LocalClusterOptions& options);
  absl::Status WaitReady(const LocalClusterOptions& options, absl::Time deadline);

  std::string log_folder_;
  bool owns_log_folder_ = false;
  std::string address_;
  std::string metrics_address_;
  std::vector<std::string> worker_metrics_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<ChildProcess> coordinator_;
  std::vector<ChildProcess> workers_;
};

}  // namespace alphecca::cli

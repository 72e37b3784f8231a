#include "cli/local_cluster.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/progress.h"
#include "common/cpus.h"
#include "common/status_macros.h"

namespace alphecca::cli {
namespace {

namespace fs = std::filesystem;

struct Addresses {
  std::string listen;
  std::string metrics;
};

// Each process says where it listens in one JSON line on stdout, once it does.
absl::StatusOr<Addresses> ReadAddresses(ChildProcess& process, absl::Time deadline) {
  ASSIGN_OR_RETURN(const std::string line, process.ReadLine(deadline));
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("listen") || !json["listen"].is_string()) {
    return absl::InternalError(absl::StrCat("unexpected first line of a process: ", line));
  }
  return Addresses{.listen = json["listen"].get<std::string>(), .metrics = json.value("metrics", "")};
}

void AddFlag(std::vector<std::string>& arguments, const char* flag, const std::string& value) {
  if (!value.empty()) {
    arguments.emplace_back(flag);
    arguments.push_back(value);
  }
}

std::vector<std::string> CoordinatorArguments(const LocalClusterOptions& options) {
  std::vector<std::string> arguments = {"--listen",  options.listen,
                                        "--metrics", options.metrics,
                                        "--model",   absl::StrCat(options.model.name, "=", options.model.path),
                                        "--tp",      absl::StrCat(options.tp)};
  AddFlag(arguments, "--ep", options.ep > 0 ? absl::StrCat(options.ep) : "");
  AddFlag(arguments, "--expert-mode", options.expert_mode);
  AddFlag(arguments, "--expert-load", options.expert_load);
  AddFlag(arguments, "--hot-experts", options.hot_experts > 0 ? absl::StrCat(options.hot_experts) : "");
  AddFlag(arguments, "--context", options.context > 0 ? absl::StrCat(options.context) : "");
  AddFlag(arguments, "--max-sequences", options.max_sequences > 0 ? absl::StrCat(options.max_sequences) : "");
  AddFlag(arguments, "--weights", options.weights);
  if (options.resident_tables) {
    arguments.emplace_back("--resident-tables");
  }
  AddFlag(arguments, "--activations", options.activations);
  AddFlag(arguments, "--kv-type", options.kv_type);
  return arguments;
}

std::vector<std::string> WorkerArguments(const LocalClusterOptions& options, const std::string& coordinator, int index,
                                         int workers) {
  const int threads = options.threads > 0 ? options.threads : std::max(1, UsableThreads() / workers);
  std::vector<std::string> arguments = {
      "--coordinator", coordinator,          "--listen", "127.0.0.1:0",
      "--metrics",     "127.0.0.1:0",        "--name",   absl::StrCat("worker-", index),
      "--threads",     absl::StrCat(threads)};
  AddFlag(arguments, "--kernels", options.kernels);
  AddFlag(arguments, "--trace", options.trace.empty() ? "" : absl::StrCat(options.trace, ".", index, ".json"));
  return arguments;
}

// What the user waits for, or why there is nothing to wait for.
absl::StatusOr<bool> Ready(const v1::ClusterStatus& status, const std::string& model) {
  for (const v1::ModelStatus& m : status.models()) {
    if (m.name() != model) {
      continue;
    }
    for (const v1::GroupStatus& group : m.groups()) {
      if (group.state() == "ready") {
        return true;
      }
      if (group.state() == "failed") {
        return absl::FailedPreconditionError(absl::StrCat("model '", model, "': ", group.message()));
      }
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(const LocalClusterOptions& options,
                                                                  absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  std::unique_ptr<LocalCluster> cluster(new LocalCluster);
  std::error_code error;
  if (options.log_folder.empty()) {
    std::string folder = (fs::temp_directory_path(error) / "alphecca-XXXXXX").string();
    if (mkdtemp(folder.data()) == nullptr) {
      return absl::PermissionDeniedError(absl::StrCat(folder, ": a folder for logs cannot be made"));
    }
    cluster->log_folder_ = folder;
    cluster->owns_log_folder_ = options.quiet;
  } else {
    cluster->log_folder_ = options.log_folder;
    fs::create_directories(options.log_folder, error);
  }
  absl::Status status = cluster->StartProcesses(options);
  if (status.ok()) {
    status = cluster->WaitReady(options, deadline);
  }
  if (!status.ok()) {
    cluster->owns_log_folder_ = false;  // the logs say why
    return status;
  }
  return cluster;
}

LocalCluster::~LocalCluster() {
  client_.reset();  // the coordinator would wait for its connection to close
  workers_.clear();
  coordinator_.reset();
  if (owns_log_folder_) {
    std::error_code error;
    fs::remove_all(log_folder_, error);
  }
}

absl::Status LocalCluster::StartProcesses(const LocalClusterOptions& options) {
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  ASSIGN_OR_RETURN(ChildProcess coordinator, ChildProcess::Start("alphecca-coordinator", CoordinatorArguments(options),
                                                                 log_folder_ + "/coordinator.log"));
  coordinator_ = std::make_unique<ChildProcess>(std::move(coordinator));
  ASSIGN_OR_RETURN(const Addresses addresses, ReadAddresses(*coordinator_, deadline));
  address_ = addresses.listen;
  metrics_address_ = addresses.metrics;
  client_ = Client::Connect(address_);
  const int count = std::max(options.tp, options.ep);
  for (int i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(ChildProcess worker,
                     ChildProcess::Start("alphecca-worker", WorkerArguments(options, address_, i, count),
                                         absl::StrCat(log_folder_, "/worker-", i, ".log")));
    workers_.push_back(std::move(worker));
  }
  for (ChildProcess& worker : workers_) {
    ASSIGN_OR_RETURN(const Addresses worker_addresses, ReadAddresses(worker, deadline));
    worker_metrics_.push_back(worker_addresses.metrics);
  }
  return absl::OkStatus();
}

absl::Status LocalCluster::WaitReady(const LocalClusterOptions& options, absl::Time deadline) {
  LoadProgress progress(options.quiet);
  while (absl::Now() < deadline) {
    RETURN_IF_ERROR(Running());
    const absl::StatusOr<v1::ClusterStatus> status = client_->Status(absl::Seconds(5));
    if (status.ok()) {
      progress.Show(*status);
      ASSIGN_OR_RETURN(const bool ready, Ready(*status, options.model.name));
      // The group may be ready a moment before the router has its stream.
      if (const auto model = client_->GetModel(options.model.name); ready && model.ok() && model->ready()) {
        progress.Done();
        return absl::OkStatus();
      }
    }
    absl::SleepFor(absl::Milliseconds(20));  // polling a status call: there is no event to wait on
  }
  return absl::DeadlineExceededError(
      absl::StrCat("model '", options.model.name, "' is not ready in time; logs: ", log_folder_));
}

absl::Status LocalCluster::Running() {
  RETURN_IF_ERROR(coordinator_->Running());
  for (ChildProcess& worker : workers_) {
    RETURN_IF_ERROR(worker.Running());
  }
  return absl::OkStatus();
}

}  // namespace alphecca::cli

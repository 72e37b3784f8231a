// The subcommands of `alphecca`. Each Add* declares one with its flags; `result` gets the exit status of the one that
// ran.
#pragma once

#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/local_cluster.h"

namespace alphecca::cli {

void AddUp(CLI::App& app, int& result);
void AddGenerate(CLI::App& app, int& result);
void AddChat(CLI::App& app, int& result);
void AddStatus(CLI::App& app, int& result);
void AddVerify(CLI::App& app, int& result);
void AddConvert(CLI::App& app, int& result);
void AddPerplexity(CLI::App& app, int& result);
void AddPlan(CLI::App& app, int& result);
void AddPull(CLI::App& app, int& result);
void AddFilters(CLI::App& app, int& result);

// Exit statuses of all commands: 0 done, 1 failed, 2 wrong use (a flag, a value, a model that is not there),
// 3 a plan that does not fit its devices.
int ExitStatus(const absl::Status& status);
// Prints "alphecca: message" on stderr and returns the exit status.
int Fail(const absl::Status& status);

// Flags of commands that start a cluster of their own.
struct ClusterFlags {
  std::string model = "tiny-moe";
  std::string connect;  // empty: start one
  int ranks = 1;        // where no degree is given
  LocalClusterOptions options;
};
// `ranks`: of a group, where no degree is given.
void AddClusterFlags(CLI::App& command, ClusterFlags& flags, int ranks);
// Chooses degrees that are not given and resolves the model, with download progress.
absl::Status ResolveClusterFlags(ClusterFlags& flags);

// A running cluster, own or connected to, and the model's name in it.
struct Session {
  std::unique_ptr<LocalCluster> own;
  std::unique_ptr<Client> remote;
  std::string model;
  double load_seconds = 0;
  Client& client() { return own != nullptr ? own->client() : *remote; }
};
absl::StatusOr<Session> OpenSession(ClusterFlags& flags, bool quiet);

// Sampling flags of generate and chat; what is not given is left to the model.
struct SamplingFlags {
  float temperature = -1;
  int top_k = -1;
  float top_p = -1;
  float min_p = -1;
  int64_t seed = -1;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::vector<std::string> logit_bias;  // "id=bias"
  int max_tokens = 0;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};
void AddSamplingFlags(CLI::App& command, SamplingFlags& flags);
v1::GenerationOptions ToOptions(const SamplingFlags& flags);

}  // namespace alphecca::cli

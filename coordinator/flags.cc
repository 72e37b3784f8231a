#include "coordinator/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "coordinator/config_file.h"
#include "kernels/kv_type.h"
#include "model/shard_plan.h"
#include "model/weight_type.h"

namespace alphecca::coordinator {
namespace {

constexpr char kAbout[] =
    R"(The front door and the brain of an Alphecca cluster: takes requests over gRPC (alphecca.v1.Inference), turns text into
tokens, and shards the models over the workers that join it.

Serve a model split in two, then start as many workers as its ranks (the larger of --tp and --ep):

  alphecca-coordinator --model tiny=models/tiny-moe --tp 2
  alphecca-worker --coordinator 127.0.0.1:7070 &
  alphecca-worker --coordinator 127.0.0.1:7070 &
  alphecca generate --connect 127.0.0.1:7070 --prompt "In the beginning"

`alphecca up` does all of that on one machine. `alphecca status` tells which workers are there and what is missing.
Prints one JSON line with its addresses once it listens; logs are JSON lines on stderr. SIGTERM lets open requests end
(--drain), a second one does not wait.)";

bool NameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-' || c == ':';
}

std::string NameOfPath(const std::string& path) {
  std::filesystem::path p = std::filesystem::path(path).lexically_normal();
  if (p.filename().empty()) {
    p = p.parent_path();
  }
  std::string name = p.extension() == ".gguf" ? p.stem().string() : p.filename().string();
  for (char& c : name) {
    c = NameCharacter(c) ? c : '-';
  }
  return name;
}

struct RawFlags {
  std::string listen = "127.0.0.1:7070";
  std::string metrics = "127.0.0.1:7071";
  std::vector<std::string> models;
  std::string config;
  std::string on_loss = "wait";
  std::vector<std::string> tenant_weights;
  ServeOptions serve;
  double heartbeat = 1;
  double lease = 5;
  double drain = 30;
};

void AddOptions(CLI::App& app, RawFlags& raw, CoordinatorFlags& flags) {
  app.add_option("--listen", raw.listen, "host:port for clients and workers; port 0: any free one")
      ->capture_default_str();
  app.add_option("--metrics", raw.metrics, "host:port of /metrics, /healthz and /readyz; port 0: any free one")
      ->capture_default_str();
  app.add_option("--model", raw.models,
                 "NAME=PATH or PATH of a model directory or .gguf file, which the workers find at the same path; "
                 "repeat it for several models");
  app.add_option("--config", raw.config,
                 "cluster.yaml: a list `models`, each with path and, where it differs from the flags, name, tp, ep, "
                 "expert_mode, expert_load, hot_experts, replicas, on_loss, context, max_sequences, kv_type, weights, "
                 "resident_tables, activations; and a map `tenants` of names, each with weight");
  app.add_option("--tp", raw.serve.tp,
                 "Tensor parallel degree: ranks that split attention, dense layers and vocabulary (0: as few as hold "
                 "the model, by the memory of the workers that join)")
      ->capture_default_str();
  app.add_option("--ep", raw.serve.ep,
                 "Expert parallel degree: ranks that split the experts (0: as --tp where the model has experts)");
  app.add_option(
         "--expert-mode", raw.serve.expert_mode,
         "fused: all ranks see all rows, best for few sequences; wide (--tp 1, --ep ranks): each rank has its own "
         "sequences and rows travel to the experts, best for many")
      ->capture_default_str();
  app.add_option("--expert-load", raw.serve.expert_load,
                 "A recorded load (alphecca perplexity --record-experts) that says which experts are hot");
  app.add_option("--hot-experts", raw.serve.hot_experts,
                 "Copies of other ranks' experts that each rank holds, chosen to even out --expert-load");
  app.add_option("--replicas", raw.serve.replicas, "Shard groups of each model (0: as many as the workers make)")
      ->capture_default_str();
  app.add_option("--on-loss", raw.on_loss,
                 "When a group loses a worker: wait for another, or replan: form anew of the workers there are")
      ->capture_default_str();
  app.add_option("--context", raw.serve.context,
                 "Tokens of one sequence at most, prompt and answer (default: the model's, at most 8192); fewer where "
                 "the workers' memory holds no more");
  app.add_option("--max-sequences", raw.serve.max_sequences, "Sequences at once in each group")->capture_default_str();
  app.add_option("--kv-type", raw.serve.kv_type, "Type of the KV cache: bf16, f32, or q8_0 (8 bits a number)")
      ->capture_default_str();
  app.add_option("--weights", raw.serve.weights,
                 "as-file, or what F32 and BF16 files are converted to while loading: f32, bf16, sfp8 or q4_0")
      ->capture_default_str();
  app.add_flag("--resident-tables", raw.serve.resident_tables,
               "Read tables that are only looked up (per-layer embeddings) at load and keep them in memory");
  app.add_option("--activations", raw.serve.activations, "default, or f32 for exact comparisons")
      ->capture_default_str();
  app.add_option("--heartbeat", raw.heartbeat, "Seconds between a worker's signs of life")->capture_default_str();
  app.add_option("--lease", raw.lease, "Seconds without one after which a worker is taken for dead")
      ->capture_default_str();
  app.add_option("--drain", raw.drain, "Seconds that open requests get at SIGTERM")->capture_default_str();
  app.add_option("--max-open", flags.max_open_sequences,
                 "Sequences open at once, waiting ones too; beyond, clients are told "
                 "to retry, but of tenants with less than an equal part of them")
      ->capture_default_str();
  app.add_option("--tenant-weight", raw.tenant_weights,
                 "NAME=W: the tenant's share of a busy group against the 1 of tenants without one, 0.001 to 1000; "
                 "repeat it for several tenants");
  app.add_option("--text-threads", flags.text_threads, "Threads that tokenize")->capture_default_str();
}

absl::Status Check(const char* flag, bool good, const std::string& value, const char* right) {
  return good ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat(flag, " ", value, ": want ", right));
}

absl::Status CheckServe(const ServeOptions& s) {
  RETURN_IF_ERROR(Check("--tp", s.tp >= 0 && s.tp <= 256, absl::StrCat(s.tp), "0 to 256"));
  RETURN_IF_ERROR(Check("--ep", s.ep >= 0 && s.ep <= 256, absl::StrCat(s.ep), "0 to 256"));
  RETURN_IF_ERROR(Check("--expert-mode", model::ParseExpertMode(s.expert_mode).ok(), s.expert_mode, "fused or wide"));
  RETURN_IF_ERROR(Check("--hot-experts",
                        s.hot_experts >= 0 && s.hot_experts <= 1024 && (s.hot_experts > 0) == !s.expert_load.empty(),
                        absl::StrCat(s.hot_experts), "1 to 1024 with --expert-load, 0 without"));
  RETURN_IF_ERROR(Check("--replicas", s.replicas >= 0 && s.replicas <= 1024, absl::StrCat(s.replicas), "0 to 1024"));
  RETURN_IF_ERROR(Check("--context", s.context == 0 || s.context >= 2, absl::StrCat(s.context), "at least 2"));
  RETURN_IF_ERROR(Check("--max-sequences", s.max_sequences >= 1 && s.max_sequences <= 65536,
                        absl::StrCat(s.max_sequences), "1 to 65536"));
  RETURN_IF_ERROR(Check("--kv-type", kernels::KvTypeByName(s.kv_type).has_value(), s.kv_type, kernels::kKvNames));
  RETURN_IF_ERROR(Check("--weights", model::ParseWeightType(s.weights).ok(), s.weights,
                        std::string(model::kWeightTypeNames).c_str()));
  return Check("--activations", s.activations == "default" || s.activations == "f32", s.activations, "default or f32");
}

absl::Status AddModel(const NamedPath& model, ServeOptions serve, std::set<std::string>& names,
                      CoordinatorFlags& flags) {
  if (!names.insert(model.name).second) {
    return absl::InvalidArgumentError(absl::StrCat("two models named \"", model.name, "\" (the second: ", model.path,
                                                   "); give it another, NAME=PATH or `name`"));
  }
  serve.name = model.name;
  serve.path = model.path;
  flags.models.push_back(std::move(serve));
  return absl::OkStatus();
}

absl::Status AddTenantWeight(const std::string& name, double weight, CoordinatorFlags& flags) {
  if (name.empty() || !IsTenantName(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tenant \"", name, "\": want a name of 1 to ", kMaxNameBytes, " of [A-Za-z0-9._:-]"));
  }
  if (!(weight >= 0.001 && weight <= 1000)) {  // NaN too
    return absl::InvalidArgumentError(absl::StrCat("tenant ", name, ": weight ", weight, ": want 0.001 to 1000"));
  }
  if (!flags.tenant_weights.emplace(name, weight).second) {
    return absl::InvalidArgumentError(
        absl::StrCat("tenant ", name, " has two weights, ", flags.tenant_weights[name], " and ", weight, ": want one"));
  }
  return absl::OkStatus();
}

absl::Status FillTenantWeights(const RawFlags& raw, CoordinatorFlags& flags) {
  for (const std::string& argument : raw.tenant_weights) {
    const size_t equals = argument.rfind('=');
    double weight = 0;
    if (equals == std::string::npos || !absl::SimpleAtod(argument.substr(equals + 1), &weight)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tenant-weight ", argument, ": want NAME=W, W a number from 0.001 to 1000"));
    }
    RETURN_IF_ERROR(AddTenantWeight(argument.substr(0, equals), weight, flags));
  }
  return absl::OkStatus();
}

absl::Status FillFromFile(const RawFlags& raw, std::set<std::string>& names, CoordinatorFlags& flags) {
  ASSIGN_OR_RETURN(const ClusterConfig config, ReadClusterConfig(raw.config, raw.serve));
  for (const ServeOptions& serve : config.models) {
    if (const absl::Status status = CheckServe(serve); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(raw.config, ": model ", serve.path, ": ", status.message()));
    }
    ASSIGN_OR_RETURN(const NamedPath model,
                     ParseModelArgument(serve.name.empty() ? serve.path : absl::StrCat(serve.name, "=", serve.path)));
    RETURN_IF_ERROR(AddModel(model, serve, names, flags));
  }
  for (const auto& [name, weight] : config.tenant_weights) {
    if (const absl::Status status = AddTenantWeight(name, weight, flags); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(raw.config, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status FillModels(const RawFlags& raw, CoordinatorFlags& flags) {
  std::set<std::string> names;
  for (const std::string& argument : raw.models) {
    ASSIGN_OR_RETURN(const NamedPath model, ParseModelArgument(argument));
    RETURN_IF_ERROR(AddModel(model, raw.serve, names, flags));
  }
  if (!raw.config.empty()) {
    RETURN_IF_ERROR(FillFromFile(raw, names, flags));
  }
  if (flags.models.empty()) {
    return absl::InvalidArgumentError("no model to serve: give --model or --config; --help shows an example");
  }
  return absl::OkStatus();
}

}  // namespace

std::string HostPort::ToString() const {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port) : absl::StrCat("[", host, "]:", port);
}

absl::StatusOr<HostPort> ParseHostPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  HostPort result;
  if (colon == std::string::npos || !absl::SimpleAtoi(text.substr(colon + 1), &result.port) || result.port < 0 ||
      result.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": want host:port with a port in [0, 65535]"));
  }
  result.host = text.substr(0, colon);
  if (result.host.size() >= 2 && result.host.front() == '[' && result.host.back() == ']') {
    result.host = result.host.substr(1, result.host.size() - 2);
  } else if (result.host.find(':') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": put an IPv6 address in brackets, [::1]:7070"));
  }
  if (result.host.empty()) {
    result.host = "0.0.0.0";
  }
  return result;
}

absl::StatusOr<NamedPath> ParseModelArgument(const std::string& argument) {
  std::error_code ignored;
  NamedPath result;
  const size_t equals = argument.find('=');
  const bool named =
      equals != std::string::npos && equals > 0 &&
      std::all_of(argument.begin(), argument.begin() + static_cast<std::ptrdiff_t>(equals), NameCharacter) &&
      !std::filesystem::exists(argument, ignored);
  result.path = named ? argument.substr(equals + 1) : argument;
  result.name = named ? argument.substr(0, equals) : NameOfPath(argument);
  if (result.path.empty() || result.name.empty() || result.name.size() > 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("--model \"", argument, "\": want NAME=PATH or PATH, the name of at most 128 of [A-Za-z0-9._:-]"));
  }
  const std::filesystem::path absolute = std::filesystem::absolute(result.path, ignored).lexically_normal();
  if (!std::filesystem::exists(absolute, ignored)) {
    return absl::NotFoundError(absl::StrCat("--model: there is no ", absolute.string()));
  }
  result.path = absolute.string();
  while (result.path.size() > 1 && result.path.back() == '/') {
    result.path.pop_back();
  }
  return result;
}

absl::StatusOr<CoordinatorFlags> ParseFlags(int argc, const char* const* argv) {
  RawFlags raw;
  CoordinatorFlags flags;
  CLI::App app(kAbout, "alphecca-coordinator");
  AddOptions(app, raw, flags);
  app.set_version_flag("--version", BuildVersion());
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return absl::CancelledError(app.help());
  } catch (const CLI::CallForVersion&) {
    return absl::CancelledError(absl::StrCat(BuildVersion(), "\n"));
  } catch (const CLI::ParseError& e) {
    return absl::InvalidArgumentError(absl::StrCat(e.what(), "\nRun with --help for the flags and an example."));
  }
  ASSIGN_OR_RETURN(flags.listen, ParseHostPort(raw.listen));
  ASSIGN_OR_RETURN(flags.metrics, ParseHostPort(raw.metrics));
  RETURN_IF_ERROR(CheckServe(raw.serve));
  RETURN_IF_ERROR(Check("--on-loss", raw.on_loss == "wait" || raw.on_loss == "replan", raw.on_loss, "wait or replan"));
  raw.serve.on_loss = raw.on_loss == "wait" ? OnLoss::kWait : OnLoss::kReplan;
  RETURN_IF_ERROR(Check("--heartbeat", raw.heartbeat >= 0.01 && raw.heartbeat <= 3600, absl::StrCat(raw.heartbeat),
                        "0.01 to 3600 seconds"));
  RETURN_IF_ERROR(Check("--lease", raw.lease >= 2 * raw.heartbeat && raw.lease <= 86400, absl::StrCat(raw.lease),
                        "at least twice --heartbeat, at most 86400 seconds"));
  RETURN_IF_ERROR(
      Check("--drain", raw.drain >= 0 && raw.drain <= 86400, absl::StrCat(raw.drain), "0 to 86400 seconds"));
  RETURN_IF_ERROR(Check("--max-open", flags.max_open_sequences >= 1 && flags.max_open_sequences <= 1'000'000,
                        absl::StrCat(flags.max_open_sequences), "1 to 1000000"));
  RETURN_IF_ERROR(Check("--text-threads", flags.text_threads >= 1 && flags.text_threads <= 256,
                        absl::StrCat(flags.text_threads), "1 to 256"));
  flags.heartbeat = absl::Seconds(raw.heartbeat);
  flags.lease = absl::Seconds(raw.lease);
  flags.drain = absl::Seconds(raw.drain);
  RETURN_IF_ERROR(FillTenantWeights(raw, flags));
  RETURN_IF_ERROR(FillModels(raw, flags));
  return flags;
}

}  // namespace alphecca::coordinator

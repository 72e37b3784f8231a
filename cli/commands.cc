#include "cli/commands.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/progress.h"
#include "common/status_macros.h"
#include "kernels/kv_type.h"
#include "kernels/logit_rules.h"

namespace alphecca::cli {

namespace {

// "id=bias"; false: it is not that.
bool ReadBias(const std::string& text, int32_t& id, float& bias) {
  const size_t equals = text.find('=');
  return equals != std::string::npos && absl::SimpleAtoi(text.substr(0, equals), &id) &&
         absl::SimpleAtof(text.substr(equals + 1), &bias);
}

// Empty if `text` is a bias within its range, else what would be.
std::string CheckBias(const std::string& text) {
  int32_t id = 0;
  float bias = 0.0F;
  const bool good = ReadBias(text, id, bias) && id >= 0 && std::fabs(bias) <= kernels::kMaxBias;
  return good ? "" : "'" + text + "' is not ID=BIAS, a token id and a number from -100 to 100";
}

}  // namespace

int ExitStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
      return 2;
    default:
      return 1;
  }
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "alphecca: %s\n", std::string(status.message()).c_str());
  return ExitStatus(status);
}

void AddClusterFlags(CLI::App& command, ClusterFlags& flags, int ranks) {
  LocalClusterOptions& o = flags.options;
  o.tp = 0;
  flags.ranks = ranks;
  command
      .add_option("-m,--model", flags.model,
                  "A known name, a checkpoint directory, a .gguf file, or hf:org/repo[@revision]")
      ->capture_default_str();
  command.add_option("--tp", o.tp, "Ranks that share attention, MLPs and vocabulary (tensor parallelism); wide: 1")
      ->check(CLI::Range(1, 64))
      ->default_str(absl::StrCat(ranks));
  command
      .add_option("--ep", o.ep,
                  "Sets that the experts of an MoE model form (expert parallelism); 0: as --tp; wide: at least 2")
      ->check(CLI::Range(0, 64))
      ->default_str("0");
  command
      .add_option("--expert-mode", o.expert_mode,
                  "fused, or wide: each of --ep ranks has its own sequences, and rows travel to the experts")
      ->check(CLI::IsMember({"fused", "wide"}));
  command.add_option("--expert-load", o.expert_load,
                     "A recorded load (perplexity --record-experts), for --hot-experts");
  command.add_option("--hot-experts", o.hot_experts, "Copies of other ranks' experts that each rank holds")
      ->check(CLI::Range(0, 1024));
  command.add_option("--threads", o.threads, "Threads of each worker; 0: this host's, shared out")
      ->check(CLI::Range(0, 1024));
  command.add_option("--context", o.context, "Tokens of one sequence at most; 0: the model's own limit")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--max-sequences", o.max_sequences, "Sequences at once at most; 0: the default")
      ->check(CLI::Range(0, 4096));
  command.add_option("--weights", o.weights, "as-file: types as the file has them; others: converted while loading")
      ->check(CLI::IsMember({"as-file", "f32", "bf16", "sfp8", "q4_0"}));
  command.add_flag("--resident-tables", o.resident_tables,
                   "Read tables that are only looked up (per-layer embeddings) at load and keep them in memory");
  command.add_option("--activations", o.activations, "default: int8 against quantised weights; f32: F32 against all")
      ->check(CLI::IsMember({"default", "f32"}));
  command.add_option("--kv-type", o.kv_type, "Type of the KV cache")->check(CLI::IsMember(kernels::KvTypeNames()));
  command.add_option("--kernels", o.kernels, "cpu: fast; ref: the plain reference")
      ->check(CLI::IsMember({"cpu", "ref"}));
  command.add_option("--logs", o.log_folder, "Folder for the processes' logs (default: a temporary one)");
  command.add_option("--trace", o.trace, "Each worker writes a timeline of its ops to PREFIX.<worker>.json")
      ->type_name("PREFIX");
}

absl::Status ResolveClusterFlags(ClusterFlags& flags) {
  LocalClusterOptions& o = flags.options;
  const bool wide = o.expert_mode == "wide";
  if (o.tp == 0) {
    o.tp = wide ? 1 : flags.ranks;
  }
  if (wide && o.ep == 0) {
    o.ep = std::max(2, flags.ranks);
  }
  ASSIGN_OR_RETURN(flags.options.model, ResolveModel(flags.model, DownloadProgress()));
  return absl::OkStatus();
}

absl::StatusOr<Session> OpenSession(ClusterFlags& flags, bool quiet) {
  Session session;
  const absl::Time start = absl::Now();
  if (!flags.connect.empty()) {
    session.remote = Client::Connect(flags.connect);
    // The model's name there; an empty one stands for the only model served.
    session.model = flags.model;
  } else {
    RETURN_IF_ERROR(ResolveClusterFlags(flags));
    flags.options.quiet = quiet;
    ASSIGN_OR_RETURN(session.own, LocalCluster::Start(flags.options, absl::Minutes(30)));
    session.model = flags.options.model.name;
  }
  session.load_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return session;
}

void AddSamplingFlags(CLI::App& command, SamplingFlags& flags) {
  command.add_option("-n,--max-tokens", flags.max_tokens, "Tokens to generate at most; 0: what the context leaves")
      ->check(CLI::NonNegativeNumber);
  command.add_option("-t,--temperature", flags.temperature, "0: always the most likely token (default: the model's)")
      ->check(CLI::Range(0.0, 100.0));
  command.add_option("--top-k", flags.top_k, "Only the k most likely tokens; 0: off")->check(CLI::Range(0, 1024));
  command.add_option("--top-p", flags.top_p, "Only the likeliest tokens that reach this probability")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--min-p", flags.min_p, "Only tokens this share as likely as the likeliest")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--seed", flags.seed, "The same seed gives the same text (default: one is drawn)")
      ->check(CLI::NonNegativeNumber);
  command
      .add_option("--repetition-penalty", flags.repetition_penalty,
                  "Above 1: tokens of prompt and answer become less likely; 1: off")
      ->check(CLI::Range(kernels::kMinRepetitionPenalty, kernels::kMaxRepetitionPenalty));
  command
      .add_option("--presence-penalty", flags.presence_penalty,
                  "Taken from the logits of tokens that the answer has already; 0: off")
      ->check(CLI::Range(-kernels::kMaxCountPenalty, kernels::kMaxCountPenalty));
  command
      .add_option("--frequency-penalty", flags.frequency_penalty, "The same, for each time that it has them; 0: off")
      ->check(CLI::Range(-kernels::kMaxCountPenalty, kernels::kMaxCountPenalty));
  command
      .add_option("--logit-bias", flags.logit_bias,
                  "Added to the logits of token ids, each -100 to 100 (see alphecca tokenize)")
      ->delimiter(',')
      ->type_name("ID=BIAS")
      ->check(CheckBias);
  command.add_option("--stop", flags.stop, "A string that ends the text (may be given again)");
  command.add_flag("--ignore-eos", flags.ignore_eos, "Go on past the model's end tokens");
}

v1::GenerationOptions ToOptions(const SamplingFlags& flags) {
  v1::GenerationOptions options;
  v1::Sampling& sampling = *options.mutable_sampling();
  if (flags.temperature >= 0) {
    sampling.set_temperature(flags.temperature);
  }
  if (flags.top_k >= 0) {
    sampling.set_top_k(flags.top_k);
  }
  if (flags.top_p >= 0) {
    sampling.set_top_p(flags.top_p);
  }
  if (flags.min_p >= 0) {
    sampling.set_min_p(flags.min_p);
  }
  if (flags.seed >= 0) {
    sampling.set_seed(static_cast<uint64_t>(flags.seed));
  }
  if (flags.repetition_penalty) {
    sampling.set_repetition_penalty(*flags.repetition_penalty);
  }
  if (flags.presence_penalty) {
    sampling.set_presence_penalty(*flags.presence_penalty);
  }
  if (flags.frequency_penalty) {
    sampling.set_frequency_penalty(*flags.frequency_penalty);
  }
  for (const std::string& text : flags.logit_bias) {
    int32_t id = 0;
    float bias = 0.0F;
    if (ReadBias(text, id, bias)) {  // checked as it was given
      (*sampling.mutable_logit_bias())[id] = bias;
    }
  }
  if (flags.max_tokens > 0) {
    options.set_max_tokens(flags.max_tokens);
  }
  for (const std::string& stop : flags.stop) {
    options.add_stop(stop);
  }
  options.set_ignore_eos(flags.ignore_eos);
  return options;
}

}  // namespace alphecca::cli

// alphecca perplexity: how well a model, its weights held in some type, predicts a text.
#include "worker/verify/perplexity.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "common/status_macros.h"
#include "kernels/kv_type.h"
#include "model/shard_plan.h"
#include "nlohmann/json.hpp"
#include "text/tokenizer.h"

namespace alphecca::cli {
namespace {

constexpr int64_t kLogitBytes = int64_t{256} << 20;  // of one step, so that large vocabularies go in fewer rows

struct PerplexityFlags {
  std::string model;
  std::string text;
  std::string weights = "as-file";
  std::string activations = "default";
  std::string kv_type = "bf16";
  int tp = 1;
  int ep = 0;
  int64_t context = 512;
  int threads = 0;
  std::string record_experts;
  bool json = false;
};

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read, or is empty"));
  }
  return text.str();
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  if (!(file << text << std::flush)) {
    return absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
  }
  return absl::OkStatus();
}

// Before the work, so that none is lost. Leaves what is there as it is.
absl::Status CheckWritable(const std::string& path) {
  std::error_code error;
  const bool there = std::filesystem::exists(path, error);
  const bool opens = std::ofstream(path, std::ios::binary | std::ios::app).is_open();
  if (!there) {
    std::filesystem::remove(path, error);
  }
  return opens ? absl::OkStatus()
               : absl::InvalidArgumentError(absl::StrCat("--record-experts ", path, ": no file can be written there"));
}

absl::StatusOr<verify::GroupOptions> ToOptions(const PerplexityFlags& flags, const model::ModelConfig& config) {
  verify::GroupOptions options;
  options.sharding.tp = flags.tp;
  options.sharding.ep = flags.ep > 0 ? flags.ep : model::DefaultEp(config, flags.tp);
  ASSIGN_OR_RETURN(options.weights, model::ParseWeightType(flags.weights));
  options.backend.activations =
      flags.activations == "f32" ? kernels::Activations::kF32 : kernels::Activations::kDefault;
  options.backend.threads =
      flags.threads == 0 ? 0 : std::max(1, flags.threads / std::max(options.sharding.tp, options.sharding.ep));
  options.kv_type = *kernels::KvTypeByName(flags.kv_type);
  options.context = flags.context;
  const int64_t rows = kLogitBytes / (config.vocab * static_cast<int64_t>(sizeof(float)));
  options.max_rows = std::clamp<int64_t>(rows, 1, std::min<int64_t>(256, flags.context));
  options.max_logit_rows = options.max_rows;
  return options;
}

absl::Status Run(const PerplexityFlags& flags) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(flags.text));
  ASSIGN_OR_RETURN(const ResolvedModel resolved, ResolveModel(flags.model, DownloadProgress()));
  ASSIGN_OR_RETURN(const std::unique_ptr<model::Checkpoint> checkpoint, model::Checkpoint::Open(resolved.path));
  ASSIGN_OR_RETURN(const std::unique_ptr<text::Tokenizer> tokenizer, text::Tokenizer::Open(resolved.path));
  if (!tokenizer->bos()) {
    return absl::InvalidArgumentError(
        absl::StrCat(resolved.path, ": the tokenizer names no BOS, which windows begin with"));
  }
  if (!flags.record_experts.empty()) {
    if (checkpoint->config().experts == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--record-experts: ", resolved.name, " has no experts"));
    }
    RETURN_IF_ERROR(CheckWritable(flags.record_experts));
  }
  ASSIGN_OR_RETURN(const verify::GroupOptions options, ToOptions(flags, checkpoint->config()));
  const std::vector<int32_t> ids = tokenizer->EncodeText(text);
  const bool shows = isatty(STDERR_FILENO) == 1;
  const auto progress = [&](int64_t tokens) {
    if (shows) {
      std::fprintf(stderr, "\r%lld of %zu tokens%s", static_cast<long long>(tokens), ids.size(),
                   static_cast<size_t>(tokens) == ids.size() ? "\n" : "");
    }
  };
  ASSIGN_OR_RETURN(const verify::PerplexityResult result,
                   verify::MeasurePerplexity(*checkpoint, ids, *tokenizer->bos(), options, progress));
  if (!flags.record_experts.empty()) {
    RETURN_IF_ERROR(WriteText(flags.record_experts, model::ExpertRowsToJson(result.expert_rows) + "\n"));
  }
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"model", resolved.name},   {"weights", flags.weights},         {"activations", flags.activations},
        {"kv", flags.kv_type},      {"tp", options.sharding.tp},        {"ep", options.sharding.ep},
        {"context", flags.context}, {"windows", result.windows},        {"tokens", result.tokens},
        {"nll", result.mean()},     {"perplexity", result.perplexity()}};
    std::printf("%s\n", json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  } else {
    std::printf("%s, weights %s: perplexity %.4f, %.5f nats a token (%lld tokens in %lld windows of %lld)\n",
                resolved.name.c_str(), flags.weights.c_str(), result.perplexity(), result.mean(),
                static_cast<long long>(result.tokens), static_cast<long long>(result.windows),
                static_cast<long long>(flags.context));
  }
  return absl::OkStatus();
}

}  // namespace

void AddPerplexity(CLI::App& app, int& result) {
  auto flags = std::make_shared<PerplexityFlags>();
  CLI::App* command = app.add_subcommand("perplexity", "Measure how well a model predicts a text");
  command->footer(
      "The text's tokens go in windows that do not overlap, each begun with BOS; every token of the text is predicted\n"
      "from those before it in its window. Ranks are threads of this process.\n"
      "  alphecca perplexity --model tiny-dense --text tests/data/text/kjv-heldout.txt --weights q4_0");
  command->add_option("-m,--model", flags->model, "A known name, a checkpoint directory, a .gguf file, or hf:org/repo")
      ->required();
  command->add_option("--text", flags->text, "File with the text, UTF-8")->required();
  command->add_option("--weights", flags->weights, "as-file: types as the file has them; others: converted at load")
      ->check(CLI::IsMember({"as-file", "f32", "bf16", "sfp8", "q4_0"}))
      ->capture_default_str();
  command->add_option("--activations", flags->activations, "default: int8 against quantised weights; f32: F32")
      ->check(CLI::IsMember({"default", "f32"}))
      ->capture_default_str();
  command->add_option("--kv-type", flags->kv_type, "Type of the KV cache")
      ->check(CLI::IsMember(kernels::KvTypeNames()))
      ->capture_default_str();
  command->add_option("--tp", flags->tp, "Tensor-parallel ranks")->check(CLI::Range(1, 64))->capture_default_str();
  command->add_option("--ep", flags->ep, "Expert-parallel sets; 0: as --tp on MoE models")->check(CLI::Range(0, 64));
  command->add_option("--context", flags->context, "Tokens of a window, BOS included")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "Threads of all ranks together; 0: this host's")
      ->check(CLI::Range(0, 1024));
  command->add_option(
      "--record-experts", flags->record_experts,
      "File for how many tokens chose each expert of an MoE model, for the coordinator's --expert-load");
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback([flags, &result] {
    const absl::Status status = Run(*flags);
    result = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace alphecca::cli

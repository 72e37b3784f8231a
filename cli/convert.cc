// alphecca convert: a checkpoint with its weights in another type, written once.
#include "model/convert.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "common/cpus.h"
#include "common/status_macros.h"
#include "model/shard_plan.h"
#include "nlohmann/json.hpp"
#include "text/tokenizer_data.h"

namespace alphecca::cli {
namespace {

struct ConvertFlags {
  std::string model;
  std::string weights = "as-file";
  std::string plan;
  std::string out;
  int threads = 0;
  bool force = false;
};

std::optional<std::string> ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return std::nullopt;
  }
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// For other programs: ours render chats themselves.
std::optional<std::string> ChatTemplate(const std::filesystem::path& directory) {
  if (auto own_file = ReadText(directory / "chat_template.jinja")) {
    return own_file;
  }
  const auto config = nlohmann::json::parse(ReadText(directory / "tokenizer_config.json").value_or(""), nullptr, false);
  const auto found = config.is_object() ? config.find("chat_template") : config.end();
  return config.is_object() && found != config.end() && found->is_string() ? std::optional(found->get<std::string>())
                                                                           : std::nullopt;
}

// Empty where the directory has no tokenizer: the result is served by token ids then, as the source is.
absl::StatusOr<model::GgufMetadata> TokenizerMetadata(const model::Checkpoint& checkpoint) {
  model::GgufMetadata metadata;
  const auto data = text::ReadTokenizerFiles(checkpoint.path());
  if (absl::IsNotFound(data.status())) {
    return metadata;
  }
  RETURN_IF_ERROR(data.status());
  const model::ModelConfig& config = checkpoint.config();
  text::WriteTokenizerGguf(*data, config.family == model::Family::kGemma4, config.vocab, metadata);
  if (const auto chat = ChatTemplate(checkpoint.path())) {
    metadata.String("tokenizer.chat_template", *chat);
  }
  return metadata;
}

// "tp=4,ep=2" or "tp=4"; experts are split as `up` does without --ep.
absl::Status ReadPlan(const std::string& text, const model::ModelConfig& config, model::ConvertOptions& options) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  const auto degree = [](absl::string_view part, absl::string_view name, int& to) {
    return absl::ConsumePrefix(&part, name) && absl::SimpleAtoi(part, &to) && to > 0;
  };
  if (parts.size() > 2 || !degree(parts[0], "tp=", options.tp) ||
      (parts.size() == 2 && !degree(parts[1], "ep=", options.ep))) {
    return absl::InvalidArgumentError(absl::StrCat("--plan \"", text, "\": tp=N or tp=N,ep=N is expected"));
  }
  if (parts.size() == 1) {
    options.ep = model::DefaultEp(config, options.tp);
  }
  return absl::OkStatus();
}

absl::Status Run(const ConvertFlags& flags) {
  ASSIGN_OR_RETURN(const ResolvedModel resolved, ResolveModel(flags.model, DownloadProgress()));
  ASSIGN_OR_RETURN(const std::unique_ptr<model::Checkpoint> checkpoint, model::Checkpoint::Open(resolved.path));
  model::ConvertOptions options;
  ASSIGN_OR_RETURN(options.weights, model::ParseWeightType(flags.weights));
  if (!flags.plan.empty()) {
    RETURN_IF_ERROR(ReadPlan(flags.plan, checkpoint->config(), options));
  } else if (options.weights == model::WeightType::kAsFile) {
    return absl::InvalidArgumentError("neither --weights nor --plan is given: the result would be the source");
  }
  options.out = flags.out;
  options.force = flags.force;
  options.threads = flags.threads > 0 ? flags.threads : UsableThreads();
  if (isatty(STDERR_FILENO) == 1) {
    options.progress = [](int64_t done, int64_t total) {
      std::fprintf(stderr, "\r%3.0f %% of %.2f GB%s", 100.0 * static_cast<double>(done) / static_cast<double>(total),
                   static_cast<double>(total) / 1e9, done == total ? "\n" : "");
    };
  }
  const bool as_safetensors = options.weights == model::WeightType::kAsFile && checkpoint->gguf() == nullptr;
  if (options.weights == model::WeightType::kSFP8 || as_safetensors) {
    RETURN_IF_ERROR(model::ConvertToSafetensors(*checkpoint, options));
  } else {
    model::GgufMetadata tokenizer;
    if (checkpoint->gguf() == nullptr) {
      ASSIGN_OR_RETURN(tokenizer, TokenizerMetadata(*checkpoint));
    }
    RETURN_IF_ERROR(model::ConvertToGguf(*checkpoint, tokenizer, options));
  }
  std::printf("%s\n", flags.out.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddConvert(CLI::App& app, int& result) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* command =
      app.add_subcommand("convert", "Write a checkpoint with its weights in another type, or laid out for a plan");
  command->footer(
      "bf16 and q4_0 write one .gguf file, tokenizer included; sfp8 a directory with model.safetensors and copies of\n"
      "the source's JSON files. The result serves as the source does with the same --weights, without converting at\n"
      "each start. F32, F16 and BF16 weights are converted; quantised ones would be rounded twice and are refused.\n"
      "--plan lays the bytes of each rank of that plan together, so that a rank reads no others; the file then serves\n"
      "that plan only. Without --weights it keeps the source's types and form.\n"
      "  alphecca convert --model hf:google/gemma-4-E2B-it --weights q4_0 --out e2b-q4_0.gguf\n"
      "  alphecca convert --model hf:google/gemma-4-31B-it --plan tp=8 --out gemma-4-31b-tp8");
  command->add_option("-m,--model", flags->model, "A known name, a checkpoint directory, a .gguf file, or hf:org/repo")
      ->required();
  command->add_option("--weights", flags->weights, "Type to write: as-file only with --plan")
      ->check(CLI::IsMember({"as-file", "bf16", "sfp8", "q4_0"}))
      ->capture_default_str();
  command->add_option("--plan", flags->plan, "tp=N[,ep=N]: lay out for this plan; ep: tp if the model has experts");
  command->add_option("-o,--out", flags->out, "Path to write: a .gguf file, or a directory of safetensors")->required();
  command->add_option("--threads", flags->threads, "Threads that convert; 0: this host's")->check(CLI::Range(0, 1024));
  command->add_flag("--force", flags->force, "Replace what is there");
  command->callback([flags, &result] {
    const absl::Status status = Run(*flags);
    result = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace alphecca::cli

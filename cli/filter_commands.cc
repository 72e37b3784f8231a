// alphecca tokenize, render, parse: the text layer as filters, one JSON object a line in and out.
#include <iostream>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/filters.h"
#include "cli/progress.h"

namespace alphecca::cli {
namespace {

// The path behind a --model value; empty stays empty.
absl::StatusOr<std::string> Path(const std::string& model) {
  if (model.empty()) {
    return model;
  }
  absl::StatusOr<ResolvedModel> resolved = ResolveModel(model, DownloadProgress());
  if (!resolved.ok()) {
    return resolved.status();
  }
  return resolved->path;
}

}  // namespace

void AddFilters(CLI::App& app, int& result) {
  auto model = std::make_shared<std::string>();
  auto format = std::make_shared<std::string>("gemma4");

  CLI::App* tokenize = app.add_subcommand("tokenize", "Text to token ids and back, a JSON object a line");
  tokenize->footer(
      "In: {\"text\":...,\"special\":\"plain\"|\"parse\"}, {\"hex\":...,\"special\":...} or {\"ids\":[...]}\n"
      "Out: {\"ids\":[...]} or {\"text\":...}\n"
      "  echo '{\"text\":\"In the beginning\",\"special\":\"plain\"}' | alphecca tokenize --model tiny-moe");
  tokenize->add_option("-m,--model", *model, "Whose tokenizer: as for generate")->required();
  tokenize->callback([model, &result] {
    const absl::StatusOr<std::string> path = Path(*model);
    result = path.ok() ? RunTokenize(*path, std::cin, std::cout) : Fail(path.status());
  });

  CLI::App* render = app.add_subcommand("render", "Chat requests to prompts, a JSON object a line");
  render->footer("Out: {\"prompt\":...,\"pieces\":[[\"c\"|\"t\",text],...],\"ids\":[...] with --model}");
  render->add_option("--format", *format, "The chat format")
      ->check(CLI::IsMember({"gemma4", "gemma4-small", "gemma3"}))
      ->capture_default_str();
  render->add_option("-m,--model", *model, "Adds the prompt's ids by this model's tokenizer");
  render->callback([model, format, &result] {
    const absl::StatusOr<std::string> path = Path(*model);
    result = path.ok() ? RunRender(*format, *path, std::cin, std::cout) : Fail(path.status());
  });

  CLI::App* parse =
      app.add_subcommand("parse", "Model output to thoughts, content and tool calls, a JSON object a line");
  parse->footer("In: {\"pieces\":[...],\"starts_in_thought\":bool,\"end\":\"stop\"|\"length\"}");
  parse->add_option("--format", *format, "The chat format")->check(CLI::IsMember({"gemma4"}))->capture_default_str();
  parse->callback([format, &result] { result = RunParse(*format, std::cin, std::cout); });
}

}  // namespace alphecca::cli

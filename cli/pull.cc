// alphecca pull: fetch a model from a hub into the cache, and say where it lies.
#include <cstdio>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/progress.h"

namespace alphecca::cli {

void AddPull(CLI::App& app, int& result) {
  auto model = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("pull", "Download a model into the cache and print its path");
  command->footer(
      "A broken download goes on where it stopped; files are checked against the hub's hashes.\n"
      "HF_TOKEN gives access, HF_ENDPOINT names another hub, ALPHECCA_CACHE another folder.\n"
      "  alphecca pull hf:google/gemma-4-E2B-it");
  command->add_option("model", *model, "hf:org/repo[@revision]")->required();
  command->callback([model, &result] {
    const absl::StatusOr<ResolvedModel> resolved = ResolveModel(*model, DownloadProgress());
    if (!resolved.ok()) {
      result = Fail(resolved.status());
      return;
    }
    std::printf("%s\n", resolved->path.c_str());
    result = 0;
  });
}

}  // namespace alphecca::cli

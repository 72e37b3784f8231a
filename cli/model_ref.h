// What --model may say, and the path it stands for on this host.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/hub.h"

namespace alphecca::cli {

struct ResolvedModel {
  std::string name;  // served under this name
  std::string path;  // directory or .gguf file
};

// A known name ("tiny-moe"; one of KnownModels), a directory, a .gguf file, or "hf:org/repo[@revision]" (downloaded
// into the cache, with `progress`). NotFound says what is known.
absl::StatusOr<ResolvedModel> ResolveModel(const std::string& reference, const hub::Progress& progress);

// Names of the folders of $ALPHECCA_MODELS, else of models/ beside the build or the installation, that hold a
// checkpoint or a fetch.py: a program that gets one, once, and prints its path.
std::vector<std::string> KnownModels();

}  // namespace alphecca::cli

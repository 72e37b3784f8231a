#include "cli/model_ref.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/process.h"
#include "common/status_macros.h"

namespace alphecca::cli {
namespace {

namespace fs = std::filesystem;

// The folder of embedded models: build/<preset>/bin/ lies three levels below the repository's root.
fs::path ModelsFolder() {
  if (const char* folder = std::getenv("ALPHECCA_MODELS"); folder != nullptr) {
    return folder;
  }
  const fs::path bin = BinaryFolder();
  for (const char* relative : {"../../../models", "../share/alphecca/models"}) {
    std::error_code error;
    if (fs::path folder = fs::weakly_canonical(bin / relative, error); !error && fs::is_directory(folder, error)) {
      return folder;
    }
  }
  return {};
}

absl::StatusOr<ResolvedModel> ResolveKnown(const std::string& name) {
  const fs::path folder = ModelsFolder() / name;
  std::error_code error;
  if (fs::is_regular_file(folder / "config.json", error)) {
    return ResolvedModel{.name = name, .path = folder.string()};
  }
  absl::StatusOr<std::string> path = OutputOf({"python3", (folder / "fetch.py").string()});
  if (!path.ok()) {
    return absl::Status(path.status().code(), absl::StrCat("model '", name, "': ", path.status().message()));
  }
  return ResolvedModel{.name = name, .path = std::string(absl::StripTrailingAsciiWhitespace(*path))};
}

std::string NameOfPath(const fs::path& path) {
  fs::path name = path.filename().empty() ? path.parent_path().filename() : path.filename();
  if (name.extension() == ".gguf") {
    name = name.stem();
  }
  return name.string();
}

}  // namespace

std::vector<std::string> KnownModels() {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(ModelsFolder(), error), end; !error && it != end; it.increment(error)) {
    if (fs::is_regular_file(it->path() / "config.json", error) || fs::is_regular_file(it->path() / "fetch.py", error)) {
      names.push_back(it->path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<ResolvedModel> ResolveModel(const std::string& reference, const hub::Progress& progress) {
  if (absl::StartsWith(reference, "hf:")) {
    ASSIGN_OR_RETURN(const hub::Reference hf, hub::ParseReference(reference));
    ASSIGN_OR_RETURN(std::string path, hub::Download(hf, hub::OptionsFromEnvironment(), progress));
    return ResolvedModel{.name = hf.repo.substr(hf.repo.find('/') + 1), .path = std::move(path)};
  }
  std::error_code error;
  const bool plain_name = reference.find('/') == std::string::npos;
  if (plain_name) {
    const std::vector<std::string> known = KnownModels();
    if (std::find(known.begin(), known.end(), reference) != known.end()) {
      return ResolveKnown(reference);
    }
  }
  if (fs::exists(reference, error)) {
    const fs::path path = fs::canonical(reference, error);
    return ResolvedModel{.name = NameOfPath(path), .path = path.string()};
  }
  return absl::NotFoundError(absl::StrCat("model '", reference,
                                          "': no such directory or .gguf file, and no known name (known: ",
                                          absl::StrJoin(KnownModels(), ", "), "; hf:org/repo downloads)"));
}

}  // namespace alphecca::cli

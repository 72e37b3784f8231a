// Downloads a model from a Hugging Face style hub: with resume, checksum and progress, into a cache.
//
//   GET {endpoint}/api/models/{repo}/revision/{revision}       -> {"sha": commit, "siblings": [{"rfilename": path},
//   ...]} GET {endpoint}/{repo}/resolve/{commit}/{path}              -> the file; X-Linked-Etag or ETag names its hash:
//                                                                 64 hex digits: SHA-256 of the file; 40: its git blob
//                                                                 id
// Files land in {cache}/{org}--{repo}/{commit}/; one being fetched is NAME.part and goes on where it stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace alphecca::hub {

struct Reference {
  std::string repo;               // "org/name"
  std::string revision = "main";  // branch, tag or commit
};

struct Options {
  std::string endpoint;
  std::string cache;
  std::string token;  // sent as a bearer token if not empty
};

// (file, bytes done, bytes in all, 0 if unknown)
using Progress = std::function<void(const std::string& file, int64_t done, int64_t total)>;

// "hf:org/repo[@revision]". InvalidArgument.
absl::StatusOr<Reference> ParseReference(const std::string& text);

// HF_ENDPOINT, ALPHECCA_CACHE (default ~/.cache/alphecca), HF_TOKEN.
Options OptionsFromEnvironment();

// Fetches what serving needs (config, tokenizer, safetensors; or, where there is no safetensors, the one .gguf file)
// and returns the directory (or the .gguf file). Files already there and whole are not fetched again. NotFound,
// Unavailable, DataLoss (checksum), InvalidArgument (a hostile listing).
absl::StatusOr<std::string> Download(const Reference& reference, const Options& options, const Progress& progress);

}  // namespace alphecca::hub

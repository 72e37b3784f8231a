// Finds the tokenizer files of a model.
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "common/status_macros.h"
#include "model/gguf.h"
#include "text/concat.h"
#include "text/tokenizer.h"

namespace alphecca::text {
namespace {

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path) {
  constexpr std::streamoff kMaxBytes = std::streamoff{1} << 30;
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) {
    return absl::NotFoundError(Concat(path.string(), ": ", std::strerror(errno)));
  }
  const std::streamoff size = in.tellg();
  if (size < 0 || size > kMaxBytes) {
    return absl::InvalidArgumentError(Concat(path.string(), ": ", size, " bytes; at most ", kMaxBytes));
  }
  std::string contents(static_cast<size_t>(size), '\0');
  in.seekg(0);
  in.read(contents.data(), size);
  if (in.gcount() != size) {
    return absl::DataLossError(Concat(path.string(), ": read ", in.gcount(), " of ", size, " bytes"));
  }
  return contents;
}

absl::Status Annotate(const absl::Status& status, std::string_view path) {
  return absl::Status(status.code(), Concat(path, ": ", status.message()));
}

absl::StatusOr<TokenizerData> ReadDirectory(const std::filesystem::path& directory) {
  ASSIGN_OR_RETURN(const std::string json, ReadFile(directory / "tokenizer.json"));
  ASSIGN_OR_RETURN(TokenizerData data, ReadTokenizerJson(json));
  // Either may be absent; both may name ids.
  for (const char* name : {"config.json", "generation_config.json"}) {
    std::error_code unused;
    if (!std::filesystem::exists(directory / name, unused)) {
      continue;
    }
    ASSIGN_OR_RETURN(const std::string config, ReadFile(directory / name));
    if (const absl::Status read = ReadGenerationConfig(config, data); !read.ok()) {
      return Annotate(read, name);
    }
  }
  return data;
}

absl::StatusOr<TokenizerData> ReadGguf(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<model::GgufFile> file, model::GgufFile::Open(path));
  return ReadTokenizerGguf(*file);
}

}  // namespace

absl::StatusOr<TokenizerData> ReadTokenizerFiles(const std::string& path) {
  absl::StatusOr<TokenizerData> data =
      path.ends_with(".gguf") ? ReadGguf(path) : ReadDirectory(std::filesystem::path(path));
  return data.ok() ? std::move(data) : Annotate(data.status(), path);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Open(const std::string& path) {
  ASSIGN_OR_RETURN(TokenizerData data, ReadTokenizerFiles(path));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Create(std::move(data));
  return tokenizer.ok() ? std::move(tokenizer) : Annotate(tokenizer.status(), path);
}

}  // namespace alphecca::text

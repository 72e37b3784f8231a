// Reads the tokenizer out of GGUF metadata.
#include <utility>

#include "common/status_macros.h"
#include "model/gguf.h"
#include "text/concat.h"
#include "text/tokenizer_data.h"

namespace alphecca::text {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";

std::string Key(std::string_view name) {
  return Concat(kPrefix, name);
}

absl::Status ReadTypes(const model::GgufFile& file, TokenizerData& data) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> types, file.Ints(Key("token_type")));
  data.types.reserve(types.size());
  for (size_t id = 0; id < types.size(); ++id) {
    if (types[id] < 1 || types[id] > 6) {
      return absl::InvalidArgumentError(
          Concat(Key("token_type"), "[", id, "] is ", types[id], "; token types are 1 to 6"));
    }
    data.types.push_back(static_cast<TokenType>(types[id]));
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const model::GgufFile& file, TokenizerData& data) {
  ASSIGN_OR_RETURN(const std::vector<std::string_view> merges, file.Strings(Key("merges")));
  data.merges.reserve(merges.size());
  for (const std::string_view merge : merges) {
    const size_t space = merge.find(' ', 1);
    if (merge.empty() || space == std::string_view::npos) {
      return absl::InvalidArgumentError(
          Concat(Key("merges"), ": \"", merge.substr(0, 64), "\" has no space between its sides"));
    }
    data.merges.push_back({std::string(merge.substr(0, space)), std::string(merge.substr(space + 1))});
  }
  return absl::OkStatus();
}

absl::Status ReadIds(const model::GgufFile& file, TokenizerData& data) {
  const auto read = [&](std::string_view name, std::optional<int64_t>& id) -> absl::Status {
    if (file.Has(Key(name))) {
      ASSIGN_OR_RETURN(id, file.Int(Key(name)));
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(read("bos_token_id", data.bos_id));
  RETURN_IF_ERROR(read("unknown_token_id", data.unknown_id));
  for (const std::string_view name : {"eos_token_id", "eot_token_id"}) {
    std::optional<int64_t> id;
    RETURN_IF_ERROR(read(name, id));
    if (id.has_value()) {
      data.end_ids.push_back(*id);
    }
  }
  if (file.Has(Key("suppress_tokens"))) {
    ASSIGN_OR_RETURN(data.suppress_ids, file.Ints(Key("suppress_tokens")));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerData> ReadTokenizerGguf(const model::GgufFile& file) {
  TokenizerData data;
  ASSIGN_OR_RETURN(const std::vector<std::string_view> tokens, file.Strings(Key("tokens")));
  data.tokens.assign(tokens.begin(), tokens.end());
  RETURN_IF_ERROR(ReadTypes(file, data));
  if (file.Has(Key("scores"))) {
    ASSIGN_OR_RETURN(const std::vector<double> scores, file.Floats(Key("scores")));
    data.scores.assign(scores.begin(), scores.end());
  }
  if (file.Has(Key("merges"))) {
    RETURN_IF_ERROR(ReadMerges(file, data));
  }
  RETURN_IF_ERROR(ReadIds(file, data));
  return data;
}

}  // namespace alphecca::text

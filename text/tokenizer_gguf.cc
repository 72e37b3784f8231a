// The tokenizer in GGUF metadata: read and written.
#include <algorithm>
#include <unordered_map>
#include <utility>

#include "common/status_macros.h"
#include "model/gguf.h"
#include "model/gguf_writer.h"
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

// SentencePiece models rank merges by the score of what they make: minus the place of the first merge that makes it.
std::vector<float> Scores(const TokenizerData& data, size_t count) {
  constexpr float kNotMade = -1e6F;
  std::vector<float> scores(count, kNotMade);
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    ids.emplace(data.tokens[id], id);
  }
  for (size_t rank = data.merges.size(); rank-- > 0;) {
    const std::string made = data.merges[rank].left + data.merges[rank].right;
    if (const auto id = ids.find(made); id != ids.end()) {
      scores[id->second] = -static_cast<float>(rank);
    }
  }
  return scores;
}

void WriteIds(const TokenizerData& data, model::GgufMetadata& metadata) {
  const auto write = [&](std::string_view name, int64_t id) {
    if (id >= 0 && id < static_cast<int64_t>(data.tokens.size())) {
      metadata.U32(Key(name), static_cast<uint32_t>(id));
    }
  };
  write("bos_token_id", data.bos_id.value_or(-1));
  write("unknown_token_id", data.unknown_id.value_or(-1));
  // Files name at most two end tokens; further ones are known by their text.
  std::vector<int64_t> ends;
  for (const int64_t id : data.end_ids) {
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) {
      ends.push_back(id);
    }
  }
  write("eos_token_id", !ends.empty() ? ends[0] : -1);
  write("eot_token_id", ends.size() > 1 ? ends[1] : -1);
  const auto padding = std::find(data.tokens.begin(), data.tokens.end(), "<pad>");
  write("padding_token_id", padding != data.tokens.end() ? padding - data.tokens.begin() : -1);
  std::vector<int32_t> suppressed;
  for (const int64_t id : data.suppress_ids) {
    if (id >= 0 && id < static_cast<int64_t>(data.tokens.size())) {
      suppressed.push_back(static_cast<int32_t>(id));
    }
  }
  if (!suppressed.empty()) {
    metadata.I32s(Key("suppress_tokens"), suppressed);
  }
}

}  // namespace

void WriteTokenizerGguf(const TokenizerData& data, bool gemma4, int64_t vocab, model::GgufMetadata& metadata) {
  std::vector<std::string> tokens = data.tokens;
  tokens.resize(std::max(tokens.size(), static_cast<size_t>(std::max<int64_t>(vocab, 0))));
  std::vector<int32_t> types(tokens.size(), static_cast<int32_t>(TokenType::kUnused));
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].empty()) {
      tokens[id] = Concat("[PAD", id, "]");
    } else if (id < data.types.size()) {
      types[id] = static_cast<int32_t>(data.types[id]);
    }
  }
  std::vector<std::string> merges;
  for (const TokenizerData::Merge& merge : data.merges) {
    merges.push_back(Concat(merge.left, " ", merge.right));
  }
  metadata.String(Key("model"), gemma4 ? "gemma4" : "llama");
  metadata.Strings(Key("tokens"), tokens);
  std::vector<float> scores = data.scores.empty() ? Scores(data, tokens.size()) : data.scores;
  scores.resize(tokens.size(), 0.0F);
  metadata.F32s(Key("scores"), scores);
  metadata.I32s(Key("token_type"), types);
  if (!merges.empty()) {
    metadata.Strings(Key("merges"), merges);
  }
  WriteIds(data, metadata);
  metadata.Bool(Key("add_bos_token"), true);
  metadata.Bool(Key("add_space_prefix"), false);
}

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

// What a tokenizer file says, whatever its format: filled by the readers of tokenizer.json and of GGUF metadata,
// checked and indexed by Tokenizer::Create.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace alphecca::model {
class GgufFile;
class GgufMetadata;
}  // namespace alphecca::model

namespace alphecca::text {

// Numbered as in GGUF.
enum class TokenType : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct TokenizerData {
  struct Merge {
    std::string left;
    std::string right;
  };

  std::vector<std::string> tokens;  // by id; empty for an id without a token
  std::vector<TokenType> types;     // one each
  std::vector<float> scores;        // empty or one each; rank the merges where `merges` is empty
  std::vector<Merge> merges;        // best first
  std::optional<int64_t> bos_id;
  std::optional<int64_t> unknown_id;
  std::vector<int64_t> end_ids;       // as the files name them; known end tokens are added by their text
  std::vector<int64_t> suppress_ids;  // likewise
};

// The contents of a tokenizer.json. InvalidArgument, naming what is wrong.
absl::StatusOr<TokenizerData> ReadTokenizerJson(std::string_view json);
// Adds what a generation_config.json or config.json says: eos_token_id (a number or a list), bos_token_id,
// suppress_tokens.
absl::Status ReadGenerationConfig(std::string_view json, TokenizerData& data);
// The keys `tokenizer.*` of a GGUF file.
absl::StatusOr<TokenizerData> ReadTokenizerGguf(const model::GgufFile& file);

// The same of a model directory (tokenizer.json, config.json, generation_config.json) or a .gguf file. NotFound without
// the file.
absl::StatusOr<TokenizerData> ReadTokenizerFiles(const std::string& path);
// The keys that ReadTokenizerGguf and other readers want, for a model of `vocab` embedding rows: ids without a token
// get one of a name of their own, since readers want as many tokens as rows. `gemma4`: which tokenizer the file names.
void WriteTokenizerGguf(const TokenizerData& data, bool gemma4, int64_t vocab, model::GgufMetadata& metadata);

}  // namespace alphecca::text

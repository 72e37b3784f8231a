// Reads Hugging Face's tokenizer.json, generation_config.json and config.json.
#include <algorithm>
#include <utility>

#include "common/status_macros.h"
#include "text/concat.h"
#include "text/json.h"
#include "text/tokenizer_data.h"
#include "text/vocabulary.h"

namespace alphecca::text {
namespace {

// One "key": id of the vocabulary, or an added token.
struct Entry {
  std::string text;
  int64_t id = 0;
};
struct Added {
  Entry entry;
  bool special = false;
};

struct JsonTokenizer {
  std::string model_type;
  bool byte_fallback = false;
  std::string unknown;
  std::vector<Entry> vocabulary;
  std::vector<TokenizerData::Merge> merges;
  std::vector<Added> added;
};

// "left right" or ["left", "right"].
absl::Status ReadMerge(JsonCursor& cursor, TokenizerData::Merge& merge) {
  if (cursor.Peek() == '[') {
    int sides = 0;
    RETURN_IF_ERROR(cursor.ReadArray([&] {
      if (sides == 2) {
        return cursor.Error("a merge has more than two sides");
      }
      return cursor.ReadString(sides++ == 0 ? merge.left : merge.right);
    }));
    return sides == 2 ? absl::OkStatus() : cursor.Error("a merge has fewer than two sides");
  }
  std::string both;
  RETURN_IF_ERROR(cursor.ReadString(both));
  const size_t space = both.find(' ', 1);
  if (both.empty() || space == std::string::npos) {
    return cursor.Error("a merge has no space between its sides");
  }
  merge.left = both.substr(0, space);
  merge.right = both.substr(space + 1);
  return absl::OkStatus();
}

absl::Status ReadModel(JsonCursor& cursor, JsonTokenizer& file) {
  return cursor.ReadObject([&](const std::string& key) -> absl::Status {
    if (key == "type") {
      return cursor.ReadString(file.model_type);
    }
    if (key == "byte_fallback") {
      ASSIGN_OR_RETURN(file.byte_fallback, cursor.ReadBool());
      return absl::OkStatus();
    }
    if (key == "unk_token" && cursor.Peek() == '"') {
      return cursor.ReadString(file.unknown);
    }
    if (key == "vocab") {
      if (cursor.Peek() != '{') {
        return cursor.Error("model.vocab must be an object, as in BPE models");
      }
      file.vocabulary.clear();
      return cursor.ReadObject([&](const std::string& text) -> absl::Status {
        ASSIGN_OR_RETURN(const int64_t id, cursor.ReadInt());
        file.vocabulary.push_back({text, id});
        return absl::OkStatus();
      });
    }
    if (key == "merges") {
      file.merges.clear();
      return cursor.ReadArray([&] { return ReadMerge(cursor, file.merges.emplace_back()); });
    }
    return cursor.SkipValue();
  });
}

absl::Status ReadAdded(JsonCursor& cursor, Added& added) {
  bool has_id = false;
  RETURN_IF_ERROR(cursor.ReadObject([&](const std::string& key) -> absl::Status {
    if (key == "id") {
      has_id = true;
      ASSIGN_OR_RETURN(added.entry.id, cursor.ReadInt());
      return absl::OkStatus();
    }
    if (key == "content") {
      return cursor.ReadString(added.entry.text);
    }
    if (key == "special") {
      ASSIGN_OR_RETURN(added.special, cursor.ReadBool());
      return absl::OkStatus();
    }
    return cursor.SkipValue();
  }));
  return has_id ? absl::OkStatus() : cursor.Error("an added token has no id");
}

absl::Status ReadFile(std::string_view json, JsonTokenizer& file) {
  JsonCursor cursor(json);
  RETURN_IF_ERROR(cursor.ReadObject([&](const std::string& key) -> absl::Status {
    if (key == "model") {
      return ReadModel(cursor, file);
    }
    if (key == "added_tokens") {
      file.added.clear();
      return cursor.ReadArray([&] { return ReadAdded(cursor, file.added.emplace_back()); });
    }
    return cursor.SkipValue();
  }));
  return cursor.End();
}

absl::Status Invalid(std::string_view what) {
  return absl::InvalidArgumentError(Concat("tokenizer.json: ", what));
}

// Ids may have holes, but not so many that a few entries of a file would take any amount of memory.
absl::StatusOr<size_t> TokenCount(const JsonTokenizer& file) {
  const int64_t entries = static_cast<int64_t>(file.vocabulary.size() + file.added.size());
  const int64_t limit = 2 * entries + 1024;
  int64_t highest = -1;
  const auto check = [&](const Entry& entry) {
    highest = std::max(highest, entry.id);
    return entry.id >= 0 && entry.id < limit
               ? absl::OkStatus()
               : Invalid(Concat("token \"", entry.text.substr(0, 64), "\" has id ", entry.id, "; with ", entries,
                                " tokens, ids must be in [0, ", limit, ")"));
  };
  for (const Entry& entry : file.vocabulary) {
    RETURN_IF_ERROR(check(entry));
  }
  for (const Added& added : file.added) {
    RETURN_IF_ERROR(check(added.entry));
  }
  return static_cast<size_t>(highest + 1);
}

absl::Status ReadIds(JsonCursor& cursor, std::vector<int64_t>& ids) {
  ids.clear();
  const auto read = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t id, cursor.ReadInt());
    ids.push_back(id);
    return absl::OkStatus();
  };
  if (cursor.Peek() == 'n') {
    return cursor.SkipValue();
  }
  return cursor.Peek() == '[' ? cursor.ReadArray(read) : read();
}

}  // namespace

absl::StatusOr<TokenizerData> ReadTokenizerJson(std::string_view json) {
  JsonTokenizer file;
  if (const absl::Status read = ReadFile(json, file); !read.ok()) {
    return Invalid(std::string(read.message()));
  }
  if (file.model_type != "BPE") {
    return Invalid(Concat("model.type is \"", file.model_type, "\"; wanted \"BPE\""));
  }
  ASSIGN_OR_RETURN(const size_t count, TokenCount(file));
  TokenizerData data;
  data.tokens.resize(count);
  data.types.resize(count, TokenType::kUnused);
  for (Entry& entry : file.vocabulary) {
    const size_t id = static_cast<size_t>(entry.id);
    if (!data.tokens[id].empty()) {
      return Invalid(Concat("id ", id, " is both \"", data.tokens[id], "\" and \"", entry.text, "\""));
    }
    const bool byte = file.byte_fallback && ByteOfPiece(entry.text) >= 0;
    data.types[id] = byte ? TokenType::kByte : TokenType::kNormal;
    if (!file.unknown.empty() && entry.text == file.unknown) {
      data.unknown_id = entry.id;
    }
    data.tokens[id] = std::move(entry.text);
  }
  for (Added& added : file.added) {
    const size_t id = static_cast<size_t>(added.entry.id);
    data.tokens[id] = std::move(added.entry.text);
    data.types[id] = added.special ? TokenType::kControl : TokenType::kUserDefined;
    if (!file.unknown.empty() && data.tokens[id] == file.unknown) {
      data.unknown_id = added.entry.id;
    }
  }
  data.merges = std::move(file.merges);
  return data;
}

absl::Status ReadGenerationConfig(std::string_view json, TokenizerData& data) {
  JsonCursor cursor(json);
  std::vector<int64_t> end_ids;
  std::vector<int64_t> suppress_ids;
  RETURN_IF_ERROR(cursor.ReadObject([&](const std::string& key) -> absl::Status {
    if (key == "eos_token_id") {
      return ReadIds(cursor, end_ids);
    }
    if (key == "suppress_tokens") {
      return ReadIds(cursor, suppress_ids);
    }
    if (key == "bos_token_id" && cursor.Peek() != 'n') {
      ASSIGN_OR_RETURN(data.bos_id, cursor.ReadInt());
      return absl::OkStatus();
    }
    return cursor.SkipValue();
  }));
  RETURN_IF_ERROR(cursor.End());
  data.end_ids.insert(data.end_ids.end(), end_ids.begin(), end_ids.end());
  data.suppress_ids.insert(data.suppress_ids.end(), suppress_ids.begin(), suppress_ids.end());
  return absl::OkStatus();
}

}  // namespace alphecca::text

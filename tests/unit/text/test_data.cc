#include "test_data.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "text/utf8.h"

namespace alphecca::text {
namespace {

const std::filesystem::path kText = std::filesystem::path(ALPHECCA_TEST_DATA) / "text";

JsonValue Parsed(const std::string& json, const std::string& where) {
  absl::StatusOr<JsonValue> value = ParseJson(json);
  EXPECT_TRUE(value.ok()) << where << ": " << value.status();
  return value.value_or(JsonValue());
}

}  // namespace

std::string ReadTestFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream contents;
  contents << in.rdbuf();
  return contents.str();
}

std::vector<JsonValue> ReadGoldens(const std::string& folder) {
  std::set<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(kText / folder)) {
    files.insert(entry.path());
  }
  std::vector<JsonValue> goldens;
  for (const std::filesystem::path& file : files) {
    goldens.push_back(Parsed(ReadTestFile(file.string()), file.string()));
  }
  EXPECT_FALSE(goldens.empty()) << folder;
  return goldens;
}

std::vector<JsonValue> ReadGoldenLines(const std::string& file) {
  std::istringstream in(ReadTestFile((kText / file).string()));
  std::vector<JsonValue> lines;
  for (std::string line; std::getline(in, line);) {
    lines.push_back(Parsed(line, file));
  }
  EXPECT_FALSE(lines.empty()) << file;
  return lines;
}

std::string TextOf(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.Find(key);
  return value == nullptr ? "" : value->text;
}

std::vector<Piece> PiecesOf(const JsonValue& list) {
  std::vector<Piece> pieces;
  for (const JsonValue& pair : list.items) {
    pieces.push_back({pair.items.at(0).text == "c", pair.items.at(1).text});
  }
  return pieces;
}

std::string Joined(const std::vector<Piece>& pieces) {
  std::string text;
  for (const Piece& piece : pieces) {
    text += piece.text;
  }
  return text;
}

std::vector<Piece> ByCharacter(const std::vector<Piece>& pieces) {
  std::vector<Piece> split;
  for (const Piece& piece : pieces) {
    for (size_t at = 0; at < piece.text.size() && !piece.control;) {
      const size_t length = DecodeUtf8(piece.text, at).length;
      split.push_back({false, piece.text.substr(at, length)});
      at += length;
    }
    if (piece.control) {
      split.push_back(piece);
    }
  }
  return split;
}

std::vector<int32_t> IdsOf(const JsonValue& list) {
  std::vector<int32_t> ids;
  for (const JsonValue& id : list.items) {
    ids.push_back(std::stoi(id.text));
  }
  return ids;
}

}  // namespace alphecca::text

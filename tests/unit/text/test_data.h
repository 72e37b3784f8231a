// Reads the golden cases under tests/data/text.
#pragma once

#include <string>
#include <vector>

#include "text/json.h"
#include "text/pieces.h"

namespace alphecca::text {

std::string ReadTestFile(const std::string& path);
// All files of tests/data/text/<folder>, by name; never empty (the calling test fails).
std::vector<JsonValue> ReadGoldens(const std::string& folder);
// All lines of tests/data/text/<file>; never empty.
std::vector<JsonValue> ReadGoldenLines(const std::string& file);

// A string member; empty if it is absent or null.
std::string TextOf(const JsonValue& object, std::string_view key);
// [["c" or "t", text], ...]
std::vector<Piece> PiecesOf(const JsonValue& list);
std::string Joined(const std::vector<Piece>& pieces);
// Text in single characters.
std::vector<Piece> ByCharacter(const std::vector<Piece>& pieces);
std::vector<int32_t> IdsOf(const JsonValue& list);

}  // namespace alphecca::text

// Tool declarations, calls and responses of Gemma 4's chat format: spec gemma4-text-format, sections 2.6 to 2.8.
#pragma once

#include <string_view>

#include "text/json.h"
#include "text/pieces.h"

namespace alphecca::text {

// x between two quote tokens.
void AppendQuoted(std::string_view text, PieceBuilder& out);
// A value in the format's own notation; `quote_keys`: keys as quoted strings.
void AppendValue(const JsonValue& value, bool quote_keys, PieceBuilder& out);
// "k:v,..." sorted by key, keys bare. `object` may be null.
void AppendFields(const JsonValue& object, PieceBuilder& out);
// A tool's "function" object.
void AppendDeclaration(const JsonValue& function, PieceBuilder& out);

}  // namespace alphecca::text

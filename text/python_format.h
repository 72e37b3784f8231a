// How Python prints and judges JSON values: the official chat templates run in Python, and prompts must be theirs.
#pragma once

#include <string>
#include <string_view>

#include "text/json.h"

namespace alphecca::text {

// A JSON number as Python prints it: integers digit for digit, others as the shortest digits that read back as the same
// double ("1e-07", "3.0"); "inf" if too large.
std::string PythonNumber(std::string_view json_number);
// Not an integer, and too large for a double.
bool OverflowsDouble(std::string_view json_number);

// bool(value); none for an absent value.
bool Truthy(const JsonValue* value);
// str(value): strings as they are, everything else as repr prints it.
std::string PythonStr(const JsonValue& value);

}  // namespace alphecca::text

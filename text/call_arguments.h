// Reads what a model wrote between <|tool_call> and its end: spec gemma4-text-format, section 3.2.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace alphecca::text {

struct ParsedCall {
  std::string name;
  std::string arguments;  // compact JSON, keys in the model's order, numbers as the model wrote them
};

// In the text of a call, stands for the quote token. No valid UTF-8 has this byte.
inline constexpr char kQuoteMark = '\xFF';

// `call` is UTF-8 with quote marks. Lenient as models need it; InvalidArgument if it is malformed all the same, or
// nests deeper than 64.
absl::StatusOr<ParsedCall> ParseCall(std::string_view call);

// Whether a call that nothing ended is whole: brackets balance and no string is open.
bool IsBalancedCall(std::string_view call);

}  // namespace alphecca::text

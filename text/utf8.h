// UTF-8: decoding, repair by the WHATWG rule (one U+FFFD per maximal ill-formed subpart), and what Python's str does
// with white space and case, which the chat templates rely on.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace alphecca::text {

struct Utf8Char {
  char32_t code = 0;  // U+FFFD if ill-formed
  size_t length = 1;  // bytes; of the maximal ill-formed subpart if ill-formed
  bool valid = false;
};

// The character at `at`, which must be below text.size().
Utf8Char DecodeUtf8(std::string_view text, size_t at);
void AppendUtf8(char32_t code, std::string& out);

bool IsValidUtf8(std::string_view text);
std::string ReplaceIllFormed(std::string_view text);
// How many bytes at the end (0 to 3) are the beginning of a valid sequence that more bytes could complete.
size_t IncompleteSuffix(std::string_view text);

// Python's str.isspace for one character, as str.strip sees it.
bool IsPythonSpace(char32_t code);
// str.strip, str.rstrip of valid UTF-8.
std::string_view Strip(std::string_view text);
std::string_view StripRight(std::string_view text);
// str.lower, str.upper of valid UTF-8.
std::string Lower(std::string_view text);
std::string Upper(std::string_view text);

}  // namespace alphecca::text

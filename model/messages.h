// Texts of error messages. The distribution's absl is built for C++14: its string_view is not std::string_view.
#pragma once

#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace alphecca::model {

namespace internal {
inline absl::string_view Piece(std::string_view text) {
  return {text.data(), text.size()};
}
template <typename T>
const T& Piece(const T& value) {
  return value;
}
}  // namespace internal

// absl::StrCat that also takes std::string_view.
template <typename... T>
std::string Text(const T&... parts) {
  return absl::StrCat(internal::Piece(parts)...);
}

// A name out of a file: printable, in quotes, at most 120 bytes of it.
inline std::string Quoted(std::string_view name) {
  return Text("'", absl::CHexEscape(internal::Piece(name.substr(0, 120))), name.size() > 120 ? "...'" : "'");
}

}  // namespace alphecca::model

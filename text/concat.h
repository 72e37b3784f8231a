// absl::StrCat that takes std::string_view: the distribution's absl has a string_view type of its own.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace alphecca::text {

template <typename T>
decltype(auto) ConcatPart(const T& part) {
  if constexpr (std::is_same_v<T, std::string_view>) {
    return absl::string_view(part.data(), part.size());
  } else {
    return (part);
  }
}

template <typename... Parts>
std::string Concat(const Parts&... parts) {
  return absl::StrCat(ConcatPart(parts)...);
}

}  // namespace alphecca::text

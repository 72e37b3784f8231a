#include "text/python_format.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <system_error>

#include "absl/strings/charconv.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

bool IsInteger(std::string_view number) {
  return number.find_first_of(".eE") == std::string_view::npos;
}

double ToDouble(std::string_view number) {
  double value = 0;  // when out of range, from_chars stores the largest double or what is nearest to zero
  const absl::from_chars_result result = absl::from_chars(number.data(), number.data() + number.size(), value);
  if (result.ec == std::errc::result_out_of_range && std::abs(value) > 1) {
    return std::copysign(std::numeric_limits<double>::infinity(), value);
  }
  return value;
}

bool IsZero(std::string_view number) {
  return IsInteger(number) ? number == "0" || number == "-0" : ToDouble(number) == 0;
}

std::string Repr(const JsonValue& value);

// repr of a string: in single quotes unless it holds those alone. Characters that Python cannot print are escaped for
// the ASCII and Latin-1 range only.
std::string ReprString(std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos;
  const char quote = single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    if (c.code == '\\' || c.code == static_cast<char32_t>(quote)) {
      out += '\\';
      out += static_cast<char>(c.code);
    } else if (c.code == '\n' || c.code == '\r' || c.code == '\t') {
      out += c.code == '\n' ? "\\n" : c.code == '\r' ? "\\r" : "\\t";
    } else if (c.code < 0x20 || (c.code >= 0x7F && c.code <= 0xA0) || c.code == 0xAD) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned>(c.code));
      out += escape;
    } else {
      out.append(text, at, c.length);
    }
    at += c.length;
  }
  return out + quote;
}

std::string ReprItems(const JsonValue& value) {
  const bool object = value.IsObject();
  std::string out = object ? "{" : "[";
  for (const JsonValue& item : value.items) {
    out += out.size() > 1 ? ", " : "";
    out += Repr(item);
  }
  for (const JsonMember& member : value.members) {
    out += out.size() > 1 ? ", " : "";
    out += ReprString(member.key) + ": " + Repr(member.value);
  }
  return out + (object ? "}" : "]");
}

std::string Repr(const JsonValue& value) {
  switch (value.kind) {
    case JsonValue::Kind::kNull:
      return "None";
    case JsonValue::Kind::kBool:
      return value.boolean ? "True" : "False";
    case JsonValue::Kind::kNumber:
      return PythonNumber(value.text);
    case JsonValue::Kind::kString:
      return ReprString(value.text);
    default:
      return ReprItems(value);
  }
}

}  // namespace

std::string PythonNumber(std::string_view json_number) {
  if (IsInteger(json_number)) {
    return json_number == "-0" ? "0" : std::string(json_number);
  }
  const double value = ToDouble(json_number);
  if (std::isinf(value)) {
    return value < 0 ? "-inf" : "inf";
  }
  // "d.ddde[+-]xx" with the fewest digits that read back.
  char buffer[40];
  const char* end = std::to_chars(buffer, buffer + sizeof buffer, std::abs(value), std::chars_format::scientific).ptr;
  const std::string_view printed(buffer, static_cast<size_t>(end - buffer));
  const size_t e = printed.find('e');
  std::string digits(1, printed[0]);
  if (e > 2) {
    digits += printed.substr(2, e - 2);
  }
  const int exponent = std::atoi(std::string(printed.substr(e + 1)).c_str());
  std::string out = std::signbit(value) ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) {
      out += "." + digits.substr(1);
    }
    const std::string power = std::to_string(std::abs(exponent));
    return out + (exponent < 0 ? "e-" : "e+") + (power.size() < 2 ? "0" : "") + power;
  }
  if (exponent < 0) {
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    return out + digits + std::string(whole - digits.size(), '0') + ".0";
  }
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

bool OverflowsDouble(std::string_view json_number) {
  return !IsInteger(json_number) && std::isinf(ToDouble(json_number));
}

bool Truthy(const JsonValue* value) {
  if (value == nullptr) {
    return false;
  }
  switch (value->kind) {
    case JsonValue::Kind::kNull:
      return false;
    case JsonValue::Kind::kBool:
      return value->boolean;
    case JsonValue::Kind::kNumber:
      return !IsZero(value->text);
    case JsonValue::Kind::kString:
      return !value->text.empty();
    case JsonValue::Kind::kArray:
      return !value->items.empty();
    default:
      return !value->members.empty();
  }
}

std::string PythonStr(const JsonValue& value) {
  return value.IsString() ? value.text : Repr(value);
}

}  // namespace alphecca::text

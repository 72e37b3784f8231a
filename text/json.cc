#include "text/json.h"

#include <charconv>
#include <system_error>
#include <utility>

#include "common/status_macros.h"
#include "text/concat.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}

}  // namespace

JsonValue& JsonMembers::Slot(const std::string& key) {
  constexpr size_t kIndexFrom = 16;
  if (members_.size() < kIndexFrom) {
    for (JsonMember& member : members_) {
      if (member.key == key) {
        return member.value;
      }
    }
  } else {
    if (places_.empty()) {
      for (size_t i = 0; i < members_.size(); ++i) {
        places_.emplace(members_[i].key, i);
      }
    }
    const auto [place, added] = places_.emplace(key, members_.size());
    if (!added) {
      return members_[place->second].value;
    }
  }
  members_.push_back({key, {}});
  return members_.back().value;
}

const JsonValue* JsonValue::Find(std::string_view key) const {
  for (const JsonMember& member : members) {
    if (member.key == key) {
      return &member.value;
    }
  }
  return nullptr;
}

JsonValue JsonValue::String(std::string_view text) {
  JsonValue value;
  value.kind = Kind::kString;
  value.text = text;
  return value;
}

JsonValue JsonValue::Object() {
  JsonValue value;
  value.kind = Kind::kObject;
  return value;
}

absl::Status JsonCursor::Error(std::string_view what) const {
  return absl::InvalidArgumentError(Concat("JSON at byte ", at_, ": ", what));
}

char JsonCursor::Peek() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) {
    ++at_;
  }
  return at_ < text_.size() ? text_[at_] : '\0';
}

absl::Status JsonCursor::ReadObject(absl::FunctionRef<absl::Status(const std::string& key)> on_member) {
  if (Peek() != '{') {
    return Error("an object was expected");
  }
  if (++depth_ > kMaxDepth) {
    return Error(Concat("nested deeper than ", kMaxDepth));
  }
  ++at_;
  std::string key;
  bool first = true;
  while (Peek() != '}') {
    if (!first) {
      if (Peek() != ',') {
        return Error("',' or '}' was expected");
      }
      ++at_;
    }
    first = false;
    if (Peek() != '"') {
      return Error("a key in quotes was expected");
    }
    RETURN_IF_ERROR(ReadString(key));
    if (Peek() != ':') {
      return Error("':' was expected");
    }
    ++at_;
    RETURN_IF_ERROR(on_member(key));
  }
  ++at_;
  --depth_;
  return absl::OkStatus();
}

absl::Status JsonCursor::ReadArray(absl::FunctionRef<absl::Status()> on_item) {
  if (Peek() != '[') {
    return Error("an array was expected");
  }
  if (++depth_ > kMaxDepth) {
    return Error(Concat("nested deeper than ", kMaxDepth));
  }
  ++at_;
  bool first = true;
  while (Peek() != ']') {
    if (!first) {
      if (Peek() != ',') {
        return Error("',' or ']' was expected");
      }
      ++at_;
    }
    first = false;
    RETURN_IF_ERROR(on_item());
  }
  ++at_;
  --depth_;
  return absl::OkStatus();
}

absl::Status JsonCursor::ReadString(std::string& out) {
  out.clear();
  if (Peek() != '"') {
    return Error("a string was expected");
  }
  ++at_;
  while (true) {
    const size_t plain = at_;
    bool ascii = true;
    while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' &&
           static_cast<unsigned char>(text_[at_]) >= 0x20) {
      ascii &= static_cast<unsigned char>(text_[at_]) < 0x80;
      ++at_;
    }
    const std::string_view run = text_.substr(plain, at_ - plain);
    if (!ascii && !IsValidUtf8(run)) {
      return Error("the string that ends here is not UTF-8");
    }
    out += run;
    if (at_ >= text_.size()) {
      return Error("a string is not closed");
    }
    if (text_[at_] == '"') {
      ++at_;
      return absl::OkStatus();
    }
    if (text_[at_] != '\\') {
      return Error("a control character in a string must be escaped");
    }
    ++at_;
    RETURN_IF_ERROR(ReadEscape(out));
  }
}

absl::Status JsonCursor::ReadEscape(std::string& out) {
  const char c = at_ < text_.size() ? text_[at_] : '\0';
  constexpr std::string_view kNames = "\"\\/bfnrt";
  constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
  if (const size_t which = kNames.find(c); which != std::string_view::npos) {
    out += kMeanings[which];
    ++at_;
    return absl::OkStatus();
  }
  if (c != 'u') {
    return Error("an unknown escape in a string");
  }
  ++at_;
  ASSIGN_OR_RETURN(uint32_t code, ReadHex4());
  if (code >= 0xD800 && code <= 0xDBFF && text_.substr(at_).starts_with("\\u")) {
    const size_t second = at_;
    at_ += 2;
    ASSIGN_OR_RETURN(const uint32_t low, ReadHex4());
    if (low >= 0xDC00 && low <= 0xDFFF) {
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else {
      at_ = second;  // no partner: read on its own
    }
  }
  AppendUtf8(code >= 0xD800 && code <= 0xDFFF ? 0xFFFD : code, out);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> JsonCursor::ReadHex4() {
  uint32_t code = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    const char lower = static_cast<char>(c | 0x20);
    if (IsDigit(c)) {
      code = code << 4 | static_cast<uint32_t>(c - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      code = code << 4 | static_cast<uint32_t>(lower - 'a' + 10);
    } else {
      return Error("four hexadecimal digits were expected after \\u");
    }
  }
  return code;
}

absl::StatusOr<std::string_view> JsonCursor::ReadNumber() {
  Peek();
  const size_t begin = at_;
  const auto at = [this] { return at_ < text_.size() ? text_[at_] : '\0'; };
  const auto digits = [&] {
    const size_t from = at_;
    while (IsDigit(at())) {
      ++at_;
    }
    return at_ > from;
  };
  if (at() == '-') {
    ++at_;
  }
  if (at() == '0') {
    ++at_;
  } else if (!digits()) {
    return Error("a value was expected");
  }
  if (at() == '.') {
    ++at_;
    if (!digits()) {
      return Error("a digit was expected after '.'");
    }
  }
  if (at() == 'e' || at() == 'E') {
    ++at_;
    if (at() == '+' || at() == '-') {
      ++at_;
    }
    if (!digits()) {
      return Error("a digit was expected in the exponent");
    }
  }
  return text_.substr(begin, at_ - begin);
}

absl::Status JsonCursor::ReadWord(std::string_view word) {
  if (!text_.substr(at_).starts_with(word)) {
    return Error("a value was expected");
  }
  at_ += word.size();
  return absl::OkStatus();
}

absl::StatusOr<bool> JsonCursor::ReadBool() {
  const bool value = Peek() == 't';
  RETURN_IF_ERROR(ReadWord(value ? "true" : "false"));
  return value;
}

absl::StatusOr<int64_t> JsonCursor::ReadInt() {
  ASSIGN_OR_RETURN(const std::string_view digits, ReadNumber());
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return Error(Concat("a whole number of 64 bits was expected, not ", digits.substr(0, 32)));
  }
  return value;
}

absl::Status JsonCursor::ReadInto(JsonValue& value) {
  value = {};
  switch (Peek()) {
    case '{': {
      value.kind = JsonValue::Kind::kObject;
      JsonMembers sink(value.members);
      return ReadObject([&](const std::string& key) { return ReadInto(sink.Slot(key)); });
    }
    case '[':
      value.kind = JsonValue::Kind::kArray;
      return ReadArray([&] { return ReadInto(value.items.emplace_back()); });
    case '"':
      value.kind = JsonValue::Kind::kString;
      return ReadString(value.text);
    case 't':
    case 'f': {
      value.kind = JsonValue::Kind::kBool;
      ASSIGN_OR_RETURN(value.boolean, ReadBool());
      return absl::OkStatus();
    }
    case 'n':
      return ReadWord("null");
    default: {
      ASSIGN_OR_RETURN(const std::string_view digits, ReadNumber());
      value.kind = JsonValue::Kind::kNumber;
      value.text = digits;
      return absl::OkStatus();
    }
  }
}

absl::StatusOr<JsonValue> JsonCursor::ReadValue() {
  JsonValue value;
  RETURN_IF_ERROR(ReadInto(value));
  return value;
}

absl::Status JsonCursor::SkipValue() {
  switch (Peek()) {
    case '{':
      return ReadObject([this](const std::string&) { return SkipValue(); });
    case '[':
      return ReadArray([this] { return SkipValue(); });
    case '"': {
      std::string unused;
      return ReadString(unused);
    }
    case 't':
    case 'f':
      return ReadBool().status();
    case 'n':
      return ReadWord("null");
    default:
      return ReadNumber().status();
  }
}

absl::Status JsonCursor::End() {
  Peek();
  return at_ == text_.size() ? absl::OkStatus() : Error("nothing more was expected");
}

absl::StatusOr<JsonValue> ParseJson(std::string_view text) {
  JsonCursor cursor(text);
  ASSIGN_OR_RETURN(JsonValue value, cursor.ReadValue());
  RETURN_IF_ERROR(cursor.End());
  return value;
}

void AppendJsonString(std::string_view text, std::string& out) {
  constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += kHex[static_cast<unsigned char>(c) >> 4];
          out += kHex[c & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void AppendJson(const JsonValue& value, std::string& out) {
  switch (value.kind) {
    case JsonValue::Kind::kNull:
      out += "null";
      return;
    case JsonValue::Kind::kBool:
      out += value.boolean ? "true" : "false";
      return;
    case JsonValue::Kind::kNumber:
      out += value.text;
      return;
    case JsonValue::Kind::kString:
      AppendJsonString(value.text, out);
      return;
    case JsonValue::Kind::kArray:
      out += '[';
      for (const JsonValue& item : value.items) {
        out += &item == value.items.data() ? "" : ",";
        AppendJson(item, out);
      }
      out += ']';
      return;
    case JsonValue::Kind::kObject:
      out += '{';
      for (const JsonMember& member : value.members) {
        out += &member == value.members.data() ? "" : ",";
        AppendJsonString(member.key, out);
        out += ':';
        AppendJson(member.value, out);
      }
      out += '}';
      return;
  }
}

}  // namespace alphecca::text

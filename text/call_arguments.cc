#include "text/call_arguments.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "text/concat.h"
#include "text/json.h"
#include "text/special_tokens.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

constexpr size_t kMaxDepth = 64;

bool IsJsonSpace(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

absl::Status Malformed(std::string_view what) {
  return absl::InvalidArgumentError(Concat("tool call: ", what));
}

bool IsJsonNumber(std::string_view text) {
  JsonCursor cursor(text);
  const char first = text.empty() ? '\0' : text[0];
  return (first == '-' || (first >= '0' && first <= '9')) && cursor.SkipValue().ok() && cursor.End().ok() &&
         !IsJsonSpace(text.back());
}

// The meaning of the inside of a JSON string; nothing if an escape in it is wrong. Control characters may stand bare.
absl::StatusOr<std::string> Unescape(std::string_view body) {
  std::string escaped = "\"";
  for (const char c : body) {
    if (static_cast<unsigned char>(c) < 0x20) {
      std::string one;
      AppendJsonString(std::string_view(&c, 1), one);
      escaped += std::string_view(one).substr(1, one.size() - 2);
    } else {
      escaped += c;
    }
  }
  escaped += '"';
  JsonCursor cursor(escaped);
  std::string text;
  RETURN_IF_ERROR(cursor.ReadString(text));
  RETURN_IF_ERROR(cursor.End());
  return text;
}

// Quote tokens, which a backslash before them hid, as their spelling.
std::string SpellQuotes(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == kQuoteMark) {
      out += kQuote;
    } else {
      out += c;
    }
  }
  return out;
}

class ArgumentsParser {
 public:
  explicit ArgumentsParser(std::string_view text) : text_(text) {}

  // From '{'. What is left after it may only be white space and closers.
  absl::StatusOr<JsonValue> Run() {
    ASSIGN_OR_RETURN(JsonValue object, Object());
    for (; at_ < text_.size(); ++at_) {
      if (!IsJsonSpace(text_[at_]) && text_[at_] != '}' && text_[at_] != ']') {
        return Malformed("text after the arguments");
      }
    }
    return object;
  }

 private:
  bool AtEnd() const { return at_ >= text_.size(); }
  bool At(char c) const { return !AtEnd() && text_[at_] == c; }
  bool AtAny(std::string_view set) const { return !AtEnd() && set.find(text_[at_]) != std::string_view::npos; }

  void Space() {
    while (!AtEnd() && IsJsonSpace(text_[at_])) {
      ++at_;
    }
  }

  // A string between quote marks, verbatim. One that is still open at the end gives back the closers that its
  // containers need.
  absl::StatusOr<std::string> QuotedString() {
    const size_t begin = ++at_;
    const size_t close = text_.find(kQuoteMark, begin);
    if (close != std::string_view::npos) {
      at_ = close + 1;
      return std::string(text_.substr(begin, close - begin));
    }
    size_t end = text_.size();
    for (const char closer : open_) {  // the outermost is the last in the text
      while (end > begin && IsJsonSpace(text_[end - 1])) {
        --end;
      }
      if (end == begin || text_[end - 1] != closer) {
        return Malformed("a string is not closed");
      }
      --end;
    }
    at_ = end;
    return std::string(text_.substr(begin, end - begin));
  }

  // A string in "..." or '...'. False, and nothing read, if it is not closed.
  bool PlainString(std::string& out) {
    const char quote = text_[at_];
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote && text_[end] != kQuoteMark) {
      end += text_[end] == '\\' ? 2 : 1;
    }
    if (end >= text_.size() || text_[end] != quote) {
      return false;
    }
    const std::string_view body = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    if (quote == '"') {
      out = Unescape(body).value_or(SpellQuotes(body));
    } else {
      out = SpellQuotes(absl::StrReplaceAll(std::string(body), {{"\\'", "'"}}));
    }
    return true;
  }

  absl::StatusOr<JsonValue> Value() {
    Space();
    if (At(kQuoteMark)) {
      ASSIGN_OR_RETURN(const std::string text, QuotedString());
      return JsonValue::String(text);
    }
    if (At('{')) {
      return Object();
    }
    if (At('[')) {
      return Array();
    }
    if (std::string text; AtAny("\"'") && PlainString(text)) {
      return JsonValue::String(text);
    }
    return BareValue();
  }

  absl::StatusOr<JsonValue> BareValue() {
    const size_t begin = at_;
    while (!AtEnd() && !AtAny(",}]\xFF")) {
      ++at_;
    }
    const std::string_view bare = Strip(text_.substr(begin, at_ - begin));
    JsonValue value;
    if (bare == "true" || bare == "True" || bare == "false" || bare == "False") {
      value.kind = JsonValue::Kind::kBool;
      value.boolean = bare == "true" || bare == "True";
    } else if (bare.empty()) {
      return Malformed("a value is missing");
    } else if (bare != "null" && bare != "None") {
      value.kind = IsJsonNumber(bare) ? JsonValue::Kind::kNumber : JsonValue::Kind::kString;
      value.text = bare;
    }
    return value;
  }

  // With the ':' after it.
  absl::StatusOr<std::string> Key() {
    std::string name;
    if (At(kQuoteMark)) {
      ASSIGN_OR_RETURN(name, QuotedString());
    } else if (!(At('"') && PlainString(name))) {
      const size_t begin = at_;
      while (!AtEnd() && !AtAny(":,{}[]\xFF")) {
        ++at_;
      }
      name = Strip(text_.substr(begin, at_ - begin));
    }
    Space();
    if (!At(':') || name.empty()) {
      return Malformed("a key was expected");
    }
    ++at_;
    return name;
  }

  // At the closer, which it reads, or at the end: missing closers are added.
  bool Closed(char closer) {
    Space();
    if (At(closer)) {
      ++at_;
      return true;
    }
    return AtEnd();
  }

  absl::Status Comma() {
    Space();
    if (At(',')) {
      ++at_;
      return absl::OkStatus();
    }
    return AtEnd() || AtAny("}]") ? absl::OkStatus() : Malformed("a comma was expected");
  }

  absl::Status Open(char closer) {
    ++at_;
    open_.push_back(closer);
    return open_.size() <= kMaxDepth ? absl::OkStatus() : Malformed("nested deeper than 64");
  }

  absl::StatusOr<JsonValue> Object() {
    RETURN_IF_ERROR(Open('}'));
    JsonValue object = JsonValue::Object();
    JsonMembers members(object.members);
    while (!Closed('}')) {
      if (At(']')) {
        return Malformed("a wrong bracket");
      }
      ASSIGN_OR_RETURN(const std::string key, Key());
      ASSIGN_OR_RETURN(JsonValue value, Value());
      members.Slot(key) = std::move(value);
      RETURN_IF_ERROR(Comma());
    }
    open_.pop_back();
    return object;
  }

  absl::StatusOr<JsonValue> Array() {
    RETURN_IF_ERROR(Open(']'));
    JsonValue array;
    array.kind = JsonValue::Kind::kArray;
    while (!Closed(']')) {
      if (At('}')) {
        return Malformed("a wrong bracket");
      }
      ASSIGN_OR_RETURN(JsonValue value, Value());
      array.items.push_back(std::move(value));
      RETURN_IF_ERROR(Comma());
    }
    open_.pop_back();
    return array;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::vector<char> open_;  // closers that are still needed, the outermost first
};

bool IsCallName(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == ':' || c == '/' || c == '-';
  });
}

}  // namespace

absl::StatusOr<ParsedCall> ParseCall(std::string_view call) {
  while (!call.empty() && IsJsonSpace(call.front())) {
    call.remove_prefix(1);
  }
  constexpr std::string_view kWord = "call:";
  if (!call.starts_with(kWord)) {
    return Malformed("it does not begin with call:");
  }
  call.remove_prefix(kWord.size());
  const size_t brace = std::min(call.find('{'), call.size());
  ParsedCall parsed;
  parsed.name = Strip(call.substr(0, brace));
  if (!IsCallName(parsed.name)) {
    return Malformed("a bad function name");
  }
  if (brace == call.size()) {
    parsed.arguments = "{}";
    return parsed;
  }
  ASSIGN_OR_RETURN(const JsonValue arguments, ArgumentsParser(call.substr(brace)).Run());
  AppendJson(arguments, parsed.arguments);
  return parsed;
}

bool IsBalancedCall(std::string_view call) {
  int64_t depth = 0;
  bool in_string = false;
  bool seen = false;
  for (const char c : call) {
    if (c == kQuoteMark) {
      in_string = !in_string;
    } else if (!in_string) {
      depth += (c == '{' || c == '[' ? 1 : 0) - (c == '}' || c == ']' ? 1 : 0);
      seen |= c == '{';
    }
  }
  return seen && depth <= 0 && !in_string;
}

}  // namespace alphecca::text

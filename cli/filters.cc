#include "cli/filters.h"

#include <cstdint>
#include <cstdio>
#include <istream>
#include <memory>
#include <ostream>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "common/status_macros.h"
#include "text/chat_format.h"
#include "text/chat_request.h"
#include "text/json.h"
#include "text/tokenizer.h"
#include "text/tool_calls.h"
#include "text/utf8.h"

namespace alphecca::cli {
namespace {

using text::JsonValue;

// A line of JSON with all but ASCII escaped: some readers also take U+2028, U+0085 and others for ends of lines.
std::string Ascii(std::string_view json) {
  std::string out;
  const auto escape = [&](uint32_t unit) {
    char buffer[8];
    std::snprintf(buffer, sizeof buffer, "\\u%04x", unit & 0xFFFF);
    out += buffer;
  };
  for (size_t at = 0; at < json.size();) {
    const text::Utf8Char c = text::DecodeUtf8(json, at);
    at += c.length;
    if (c.code < 0x7F) {
      out += static_cast<char>(c.code);
    } else if (c.code < 0x10000) {
      escape(c.code);
    } else {
      escape(0xD7C0 + (c.code >> 10));
      escape(0xDC00 | (c.code & 0x3FF));
    }
  }
  return out;
}

void WriteError(const absl::Status& status, std::ostream& out) {
  std::string line = "{\"error\":";
  text::AppendJsonString(std::string(status.message()), line);
  out << Ascii(line) << "}\n" << std::flush;
}

// Answers each line that isn't blank.
int Filter(std::istream& in, std::ostream& out,
           absl::FunctionRef<absl::StatusOr<std::string>(const JsonValue& request)> answer) {
  int result = 0;
  std::string line;
  while (std::getline(in, line)) {
    if (text::Strip(line).empty()) {
      continue;
    }
    absl::StatusOr<JsonValue> request = text::ParseJson(line);
    absl::StatusOr<std::string> answered = request.ok() ? answer(*request) : request.status();
    if (answered.ok()) {
      out << Ascii(*answered) << "\n" << std::flush;
    } else {
      WriteError(answered.status(), out);
      result = 1;
    }
  }
  return result;
}

int FailAtOnce(const absl::Status& status, std::ostream& out) {
  WriteError(status, out);
  return 1;
}

void AppendIds(const std::vector<int32_t>& ids, std::string& out) {
  out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    out += (i > 0 ? "," : "") + std::to_string(ids[i]);
  }
  out += ']';
}

// A string member; `fallback` if it is absent.
absl::StatusOr<std::string> StringMember(const JsonValue& request, std::string_view key, std::string_view fallback) {
  const JsonValue* value = request.Find(key);
  if (value == nullptr) {
    return std::string(fallback);
  }
  if (!value->IsString()) {
    return absl::InvalidArgumentError("\"" + std::string(key) + "\" must be a string");
  }
  return value->text;
}

absl::StatusOr<std::string> TextOfIds(const text::Tokenizer& tokenizer, const JsonValue& list) {
  std::vector<int32_t> ids;
  for (const JsonValue& item : list.items) {
    int32_t id = 0;
    if (!item.IsNumber() || !absl::SimpleAtoi(item.text, &id)) {
      return absl::InvalidArgumentError("\"ids\" must be a list of token ids");
    }
    ids.push_back(id);
  }
  if (!list.IsArray()) {
    return absl::InvalidArgumentError("\"ids\" must be a list of token ids");
  }
  ASSIGN_OR_RETURN(const std::string decoded, tokenizer.Decode(ids, text::ShowControl::kShow));
  std::string out = "{\"text\":";
  text::AppendJsonString(decoded, out);
  return out + "}";
}

absl::StatusOr<std::string> IdsOfText(const text::Tokenizer& tokenizer, const JsonValue& request) {
  ASSIGN_OR_RETURN(const std::string special, StringMember(request, "special", "plain"));
  if (special != "plain" && special != "parse") {
    return absl::InvalidArgumentError("\"special\" must be \"plain\" or \"parse\"");
  }
  std::string bytes;
  if (request.Find("hex") != nullptr) {
    ASSIGN_OR_RETURN(const std::string hex, StringMember(request, "hex", ""));
    if (hex.size() % 2 != 0 || hex.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
      return absl::InvalidArgumentError("\"hex\" must be pairs of hexadecimal digits");
    }
    bytes = absl::HexStringToBytes(hex);
  } else if (request.Find("text") != nullptr) {
    ASSIGN_OR_RETURN(bytes, StringMember(request, "text", ""));
  } else {
    return absl::InvalidArgumentError("wanted \"text\", \"hex\" or \"ids\"");
  }
  std::string out = "{\"ids\":";
  AppendIds(tokenizer.EncodeText(bytes, special == "parse" ? text::ControlText::kParse : text::ControlText::kPlain),
            out);
  return out + "}";
}

absl::StatusOr<std::string> Render(const JsonValue& request, text::ChatFormat format,
                                   const text::Tokenizer* tokenizer) {
  ASSIGN_OR_RETURN(const text::ChatRequest chat, text::ParseChatRequest(request));
  ASSIGN_OR_RETURN(const text::RenderedChat rendered, text::RenderChat(chat, format));
  std::string prompt;
  std::string pieces;
  for (const text::Piece& piece : rendered.pieces) {
    prompt += piece.text;
    pieces += pieces.empty() ? "[" : ",[";
    pieces += piece.control ? "\"c\"," : "\"t\",";
    text::AppendJsonString(piece.text, pieces);
    pieces += ']';
  }
  std::string out = "{\"prompt\":";
  text::AppendJsonString(prompt, out);
  out += ",\"pieces\":[" + pieces + "]";
  if (tokenizer != nullptr) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(rendered.pieces));
    out += ",\"ids\":";
    AppendIds(ids, out);
  }
  return out + "}";
}

absl::StatusOr<std::vector<text::Piece>> Pieces(const JsonValue& request) {
  const absl::Status wrong =
      absl::InvalidArgumentError("\"pieces\" must be a list of pairs [\"c\", token] or [\"t\", text]");
  const JsonValue* list = request.Find("pieces");
  if (list == nullptr || !list->IsArray()) {
    return wrong;
  }
  std::vector<text::Piece> pieces;
  for (const JsonValue& pair : list->items) {
    if (pair.items.size() != 2 || !pair.items[0].IsString() || !pair.items[1].IsString() ||
        (pair.items[0].text != "c" && pair.items[0].text != "t")) {
      return wrong;
    }
    pieces.push_back({pair.items[0].text == "c", pair.items[1].text});
  }
  return pieces;
}

// All events of an answer, joined.
struct ParsedOutput {
  std::string reasoning;
  std::string content;
  std::string calls;  // JSON objects with commas between

  void Add(const std::vector<text::OutputEvent>& events) {
    for (const text::OutputEvent& event : events) {
      switch (event.kind) {
        case text::OutputEvent::Kind::kReasoning:
          reasoning += event.text;
          break;
        case text::OutputEvent::Kind::kContent:
          content += event.text;
          break;
        case text::OutputEvent::Kind::kToolCall:
          calls += calls.empty() ? "{\"name\":" : ",{\"name\":";
          text::AppendJsonString(event.name, calls);
          calls += ",\"arguments\":";
          text::AppendJsonString(event.arguments, calls);
          calls += '}';
          break;
      }
    }
  }
};

void AppendTextOrNull(std::string_view value, std::string& out) {
  if (value.empty()) {
    out += "null";
  } else {
    text::AppendJsonString(value, out);
  }
}

absl::StatusOr<std::string> Parse(const JsonValue& request) {
  ASSIGN_OR_RETURN(const std::vector<text::Piece> pieces, Pieces(request));
  ASSIGN_OR_RETURN(const std::string end, StringMember(request, "end", "stop"));
  if (end != "stop" && end != "length") {
    return absl::InvalidArgumentError("\"end\" must be \"stop\" or \"length\"");
  }
  const JsonValue* in_thought = request.Find("starts_in_thought");
  if (in_thought != nullptr && in_thought->kind != JsonValue::Kind::kBool) {
    return absl::InvalidArgumentError("\"starts_in_thought\" must be true or false");
  }
  text::OutputParser parser(in_thought != nullptr && in_thought->boolean);
  ParsedOutput parsed;
  for (const text::Piece& piece : pieces) {
    parsed.Add(parser.Feed(piece));
  }
  parsed.Add(parser.Finish());
  std::string out = "{\"reasoning\":";
  AppendTextOrNull(parsed.reasoning, out);
  out += ",\"content\":";
  AppendTextOrNull(parsed.content, out);
  out += ",\"tool_calls\":[" + parsed.calls + "],\"finish_reason\":\"";
  out += text::FinishReason(parser, end == "length");
  return out + "\"}";
}

}  // namespace

int RunTokenize(const std::string& model, std::istream& in, std::ostream& out) {
  const absl::StatusOr<std::unique_ptr<text::Tokenizer>> tokenizer = text::Tokenizer::Open(model);
  if (!tokenizer.ok()) {
    return FailAtOnce(tokenizer.status(), out);
  }
  return Filter(in, out, [&](const JsonValue& request) {
    const JsonValue* ids = request.Find("ids");
    return ids != nullptr ? TextOfIds(**tokenizer, *ids) : IdsOfText(**tokenizer, request);
  });
}

int RunRender(const std::string& format, const std::string& model, std::istream& in, std::ostream& out) {
  const absl::StatusOr<text::ChatFormat> chat_format = text::ChatFormatByName(format);
  if (!chat_format.ok()) {
    return FailAtOnce(chat_format.status(), out);
  }
  std::unique_ptr<text::Tokenizer> tokenizer;
  if (!model.empty()) {
    absl::StatusOr<std::unique_ptr<text::Tokenizer>> opened = text::Tokenizer::Open(model);
    if (!opened.ok()) {
      return FailAtOnce(opened.status(), out);
    }
    tokenizer = *std::move(opened);
  }
  return Filter(in, out, [&](const JsonValue& request) { return Render(request, *chat_format, tokenizer.get()); });
}

int RunParse(const std::string& format, std::istream& in, std::ostream& out) {
  if (format != "gemma4") {
    return FailAtOnce(absl::InvalidArgumentError("output format \"" + format + "\": wanted gemma4"), out);
  }
  return Filter(in, out, Parse);
}

}  // namespace alphecca::cli

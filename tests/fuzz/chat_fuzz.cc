// Chat requests and model output as JSON of any text: an error, or a prompt in UTF-8 and an answer that does not depend
// on how its text was split. Inputs are goldens: {"request": ...} and {"pieces": ...}, or a request itself.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_format.h"
#include "text/json.h"
#include "text/tool_calls.h"
#include "text/utf8.h"
#include "touch.h"

namespace {

using alphecca::fuzz::Check;
using namespace alphecca::text;  // NOLINT(google-build-using-namespace): all of what is fuzzed here

void FuzzRequest(const JsonValue& json) {
  const absl::StatusOr<ChatRequest> request = ParseChatRequest(json);
  if (!request.ok()) {
    return;
  }
  for (const ChatFormat format : {ChatFormat::kGemma4, ChatFormat::kGemma4Small, ChatFormat::kGemma3}) {
    const bool valid = ValidateChat(*request, format, {true, true, true}).ok();
    const absl::StatusOr<RenderedChat> rendered = RenderChat(*request, format);
    Check(rendered.ok() || !valid);
    if (rendered.ok()) {
      for (const Piece& piece : rendered->pieces) {
        Check(IsValidUtf8(piece.text) && !piece.text.empty());
      }
    }
  }
}

// All that came out, in one line a kind.
std::string Parsed(const std::vector<Piece>& pieces, bool by_character) {
  OutputParser parser;
  std::string text[3];
  const auto add = [&](const std::vector<OutputEvent>& events) {
    for (const OutputEvent& event : events) {
      text[static_cast<int>(event.kind)] += event.text + event.name + event.arguments;
      if (event.kind == OutputEvent::Kind::kToolCall) {
        const absl::StatusOr<JsonValue> arguments = ParseJson(event.arguments);
        Check(arguments.ok() && arguments->IsObject());
      }
    }
  };
  for (const Piece& piece : pieces) {
    for (size_t at = 0; at < piece.text.size() && by_character && !piece.control;) {
      const size_t length = DecodeUtf8(piece.text, at).length;
      add(parser.Feed({false, piece.text.substr(at, length)}));
      at += length;
    }
    if (!by_character || piece.control) {
      add(parser.Feed(piece));
    }
  }
  add(parser.Finish());
  return text[0] + "\n" + text[1] + "\n" + text[2];
}

void FuzzOutput(const JsonValue& list) {
  std::vector<Piece> pieces;
  for (const JsonValue& pair : list.items) {
    if (pair.items.size() == 2) {
      pieces.push_back({pair.items[0].text == "c", pair.items[1].text});
    }
  }
  Check(Parsed(pieces, false) == Parsed(pieces, true));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::StatusOr<JsonValue> json = ParseJson({reinterpret_cast<const char*>(data), size});
  if (!json.ok()) {
    return 0;
  }
  std::string again;
  AppendJson(*json, again);
  Check(ParseJson(again).ok());
  const JsonValue* request = json->Find("request");
  FuzzRequest(request != nullptr ? *request : *json);
  if (const JsonValue* pieces = json->Find("pieces")) {
    FuzzOutput(*pieces);
  }
  return 0;
}

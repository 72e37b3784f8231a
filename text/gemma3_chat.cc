// Gemma 3's chat format: users and the model take turns, a system text goes before the first turn's.
#include <string>
#include <utility>

#include "text/chat_renderers.h"
#include "text/concat.h"
#include "text/special_tokens.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

// The text that the template takes from a system message: all of it, or of the first part.
std::string SystemText(const MessageContent& content) {
  if (content.kind == MessageContent::Kind::kParts) {
    return content.parts.empty() ? "" : content.parts.front().text;
  }
  return content.text;
}

void AppendContent(const MessageContent& content, PieceBuilder& out) {
  if (content.kind == MessageContent::Kind::kParts) {
    for (const ContentPart& part : content.parts) {
      if (MediaOf(part.type) == Media::kImage) {
        out.Control(kGemma3Image);
      } else if (part.type == "text") {
        out.Text(Strip(part.text));
      }
    }
  } else {
    out.Text(Strip(content.text));
  }
}

}  // namespace

absl::StatusOr<RenderedChat> RenderGemma3(const ChatRequest& request) {
  PieceBuilder out;
  out.Control(kBos);
  size_t first = 0;
  std::string prefix;
  if (!request.messages.empty() && request.messages.front().role == "system") {
    prefix = SystemText(request.messages.front().content) + "\n\n";
    first = 1;
  }
  for (size_t i = first; i < request.messages.size(); ++i) {
    const ChatMessage& message = request.messages[i];
    if ((message.role == "user") != ((i - first) % 2 == 0)) {
      return absl::InvalidArgumentError(Concat("messages[", i, "] has role \"", message.role,
                                               "\"; Gemma 3's turns must alternate: user, assistant, user, ..."));
    }
    out.Control(kGemma3Turn);
    out.Text((message.role == "assistant" ? "model" : message.role) + "\n");
    if (i == first) {
      out.Text(prefix);
    }
    AppendContent(message.content, out);
    if (!(request.continue_final_message && i + 1 == request.messages.size())) {
      out.Control(kGemma3TurnEnd);
      out.Text("\n");
    }
  }
  if (request.add_generation_prompt && !request.continue_final_message) {
    out.Control(kGemma3Turn);
    out.Text("model\n");
  }
  return RenderedChat{std::move(out).Take(), false};
}

}  // namespace alphecca::text

// Chat requests to prompts, in the formats that Gemma models were trained on: spec gemma4-text-format, sections 2
// and 5.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/chat_request.h"
#include "text/pieces.h"
#include "text/tokenizer.h"

namespace alphecca::text {

enum class ChatFormat {
  kGemma4,       // 12B, 26B-A4B, 31B
  kGemma4Small,  // E2B, E4B: without the empty thought before an answer
  kGemma3,
};

// "gemma4", "gemma4-small", "gemma3".
absl::StatusOr<ChatFormat> ChatFormatByName(std::string_view name);
std::string_view ChatFormatName(ChatFormat format);
// The format of a model by its control tokens; `edge`: of the E2B and E4B form. A vocabulary without thoughts takes the
// small form. FailedPrecondition if it has no turn tokens: then the model can't chat.
absl::StatusOr<ChatFormat> ChatFormatOf(const Tokenizer& tokenizer, bool edge);

struct RenderedChat {
  std::vector<Piece> pieces;       // begins with <bos>
  bool starts_in_thought = false;  // the output goes on inside a thought that the prompt opened
};

// The official template's prompt, also for requests that ValidateChat refuses; only where it would end outside any turn
// (content beside answered calls), a model turn is opened. InvalidArgument where the template itself fails.
absl::StatusOr<RenderedChat> RenderChat(const ChatRequest& request, ChatFormat format);

// Which media a model takes.
struct MediaSupport {
  bool image = false;
  bool audio = false;
  bool video = false;
};

// What a server must refuse: InvalidArgument that names the message and says what would be right.
absl::Status ValidateChat(const ChatRequest& request, ChatFormat format, const MediaSupport& media);

// [A-Za-z0-9_.:/-]{1,64}: names are printed bare, so another character could break out of the block.
bool IsFunctionName(std::string_view name);

}  // namespace alphecca::text

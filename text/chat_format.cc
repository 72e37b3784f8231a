#include "text/chat_format.h"

#include <array>
#include <utility>

#include "text/chat_renderers.h"
#include "text/concat.h"
#include "text/special_tokens.h"

namespace alphecca::text {
namespace {

constexpr std::array<std::pair<std::string_view, ChatFormat>, 3> kNames = {
    {{"gemma4", ChatFormat::kGemma4}, {"gemma4-small", ChatFormat::kGemma4Small}, {"gemma3", ChatFormat::kGemma3}}};

}  // namespace

absl::StatusOr<ChatFormat> ChatFormatByName(std::string_view name) {
  for (const auto& [known, format] : kNames) {
    if (name == known) {
      return format;
    }
  }
  return absl::InvalidArgumentError(Concat("chat format \"", name, "\": wanted gemma4, gemma4-small or gemma3"));
}

std::string_view ChatFormatName(ChatFormat format) {
  return kNames[static_cast<size_t>(format)].first;
}

absl::StatusOr<ChatFormat> ChatFormatOf(const Tokenizer& tokenizer, bool edge) {
  if (tokenizer.HasGemma4Turns()) {
    const bool thinks = tokenizer.ControlId(kChannel).has_value() && tokenizer.ControlId(kChannelEnd).has_value();
    return edge || !thinks ? ChatFormat::kGemma4Small : ChatFormat::kGemma4;
  }
  if (tokenizer.HasGemma3Turns()) {
    return ChatFormat::kGemma3;
  }
  return absl::FailedPreconditionError(
      "the model's vocabulary has no turn tokens (<|turn> and <turn|>), so it can't chat; plain generation works");
}

absl::StatusOr<RenderedChat> RenderChat(const ChatRequest& request, ChatFormat format) {
  if (format == ChatFormat::kGemma3) {
    return RenderGemma3(request);
  }
  return RenderGemma4(request, format == ChatFormat::kGemma4Small);
}

}  // namespace alphecca::text

// The two families of chat formats, behind RenderChat.
#pragma once

#include "absl/status/statusor.h"
#include "text/chat_format.h"

namespace alphecca::text {

absl::StatusOr<RenderedChat> RenderGemma4(const ChatRequest& request, bool small);
absl::StatusOr<RenderedChat> RenderGemma3(const ChatRequest& request);

}  // namespace alphecca::text

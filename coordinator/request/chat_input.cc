#include "coordinator/request/chat_input.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::coordinator {
namespace {

constexpr size_t kMaxMessages = 4096;
constexpr size_t kMaxTools = 1024;

bool IsFieldPath(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '[' || c == ']';
  });
}

size_t BytesOf(const ChatInput& input) {
  size_t bytes = 0;
  for (const ChatTurn& turn : input.messages) {
    bytes += turn.role.size() + turn.reasoning.size() + turn.tool_call_id.size() + turn.name.size();
    for (const std::string& part : turn.content) {
      bytes += part.size();
    }
    for (const ChatCall& call : turn.tool_calls) {
      bytes += call.id.size() + call.name.size() + call.arguments.size();
    }
  }
  for (const ChatTool& tool : input.tools) {
    bytes += tool.name.size() + tool.description.size() + tool.parameters.size();
  }
  return bytes;
}

void CheckSizes(const ChatInput& input, Violations& violations) {
  if (input.messages.empty() || input.messages.size() > kMaxMessages) {
    violations.Add("messages", absl::StrCat(input.messages.size(), " messages; want 1 to ", kMaxMessages));
  }
  if (input.tools.size() > kMaxTools) {
    violations.Add("tools", absl::StrCat(input.tools.size(), " tools; at most ", kMaxTools, " are taken"));
  }
  CheckTextSize(BytesOf(input), "messages", violations);
}

absl::StatusOr<text::ChatMessage> ReadTurn(const ChatTurn& turn, size_t index) {
  text::ChatMessage message;
  message.role = turn.role;
  if (turn.content.size() == 1) {
    message.content.kind = text::MessageContent::Kind::kText;
    message.content.text = turn.content.front();
  } else if (!turn.content.empty()) {
    message.content.kind = text::MessageContent::Kind::kParts;
    for (const std::string& part : turn.content) {
      message.content.parts.push_back({.type = "text", .text = part});
    }
  }
  message.reasoning = turn.reasoning;
  for (size_t i = 0; i < turn.tool_calls.size(); ++i) {
    const ChatCall& call = turn.tool_calls[i];
    text::MessageToolCall to;
    if (!call.id.empty()) {
      to.id = call.id;
    }
    to.name = call.name;
    absl::StatusOr<text::JsonValue> arguments = text::ParseCallArguments(call.arguments);
    if (!arguments.ok()) {
      return InvalidField(absl::StrCat("messages[", index, "].tool_calls[", i, "].arguments"),
                          std::string(arguments.status().message()));
    }
    to.arguments = *std::move(arguments);
    message.tool_calls.push_back(std::move(to));
  }
  if (!turn.tool_call_id.empty()) {
    message.tool_call_id = turn.tool_call_id;
  }
  message.name = turn.name;
  return message;
}

}  // namespace

absl::Status AsViolation(const absl::Status& status, const std::string& field) {
  if (!absl::IsInvalidArgument(status)) {
    return status;
  }
  const std::string message(status.message());
  const size_t colon = message.find(": ");
  if (colon != std::string::npos && IsFieldPath(message.substr(0, colon))) {
    return InvalidField(message.substr(0, colon), message.substr(colon + 2));
  }
  return InvalidField(field, message);
}

absl::StatusOr<text::ChatRequest> ReadChat(const ChatInput& input, text::ChatFormat format) {
  Violations violations;
  CheckOptions(input.options, violations);
  CheckSizes(input, violations);
  RETURN_IF_ERROR(violations.ToStatus());
  text::ChatRequest request;
  request.enable_thinking = input.enable_thinking;
  request.preserve_thinking = input.preserve_thinking;
  request.add_generation_prompt = true;
  for (size_t i = 0; i < input.messages.size(); ++i) {
    ASSIGN_OR_RETURN(text::ChatMessage message, ReadTurn(input.messages[i], i));
    request.messages.push_back(std::move(message));
  }
  for (size_t i = 0; i < input.tools.size(); ++i) {
    const ChatTool& tool = input.tools[i];
    absl::StatusOr<text::JsonValue> made = text::MakeTool(tool.name, tool.description, tool.parameters);
    if (!made.ok()) {
      return InvalidField(absl::StrCat("tools[", i, "]"), std::string(made.status().message()));
    }
    request.tools.push_back(*std::move(made));
  }
  if (absl::Status status = text::ValidateChat(request, format, text::MediaSupport{}); !status.ok()) {
    return AsViolation(status, "messages");
  }
  return request;
}

}  // namespace alphecca::coordinator

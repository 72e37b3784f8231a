// What a server refuses, beyond what the templates fail on.
#include <algorithm>
#include <string>
#include <vector>

#include "common/status_macros.h"
#include "text/chat_format.h"
#include "text/concat.h"
#include "text/python_format.h"

namespace alphecca::text {
namespace {

absl::Status Refuse(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(Concat(where, ": ", what));
}

bool IsRole(std::string_view role) {
  return role == "system" || role == "developer" || role == "user" || role == "assistant" || role == "tool";
}

absl::Status CheckNumbers(const JsonValue& value, const std::string& where) {
  if (value.IsNumber() && OverflowsDouble(value.text)) {
    return Refuse(where, Concat("the number ", std::string_view(value.text).substr(0, 32), " is too large"));
  }
  for (const JsonValue& item : value.items) {
    RETURN_IF_ERROR(CheckNumbers(item, where));
  }
  for (const JsonMember& member : value.members) {
    RETURN_IF_ERROR(CheckNumbers(member.value, where));
  }
  return absl::OkStatus();
}

absl::Status CheckName(std::string_view name, const std::string& where) {
  return IsFunctionName(name) ? absl::OkStatus()
                              : Refuse(where, Concat("function name \"", name.substr(0, 80),
                                                     "\"; wanted 1 to 64 of A-Z a-z 0-9 _ . : / -"));
}

absl::Status CheckContent(const ChatMessage& message, const MediaSupport& media, const std::string& where) {
  if (message.content.kind == MessageContent::Kind::kValue && message.role != "tool") {
    return Refuse(where + ".content", "wanted a string, a list of parts or null");
  }
  for (size_t i = 0; i < message.content.parts.size(); ++i) {
    const std::string& type = message.content.parts[i].type;
    const std::string place = Concat(where, ".content[", i, "]");
    if (type == "text") {
      continue;
    }
    const std::optional<Media> kind = MediaOf(type);
    if (!kind.has_value()) {
      return Refuse(place, Concat("unknown part type \"", type, "\"; wanted text, image_url, input_audio or video"));
    }
    const bool taken = *kind == Media::kImage ? media.image : *kind == Media::kAudio ? media.audio : media.video;
    if (!taken) {
      return Refuse(place, Concat("this model takes no ", type, " parts"));
    }
  }
  return absl::OkStatus();
}

// Every call needs its result in the tool messages right after it; `results` are those.
absl::Status CheckAnswered(const ChatMessage& message, const std::vector<const ChatMessage*>& results,
                           const std::string& where) {
  if (!message.tool_responses.empty()) {
    return message.tool_responses.size() >= message.tool_calls.size()
               ? absl::OkStatus()
               : Refuse(where, Concat(message.tool_calls.size(), " tool calls, but ", message.tool_responses.size(),
                                      " tool responses"));
  }
  size_t nameless = 0;
  for (const MessageToolCall& call : message.tool_calls) {
    if (!call.id.has_value()) {
      ++nameless;
      continue;
    }
    const bool answered = std::any_of(results.begin(), results.end(),
                                      [&](const ChatMessage* result) { return result->tool_call_id == call.id; });
    if (!answered) {
      return Refuse(where, Concat("no tool message answers the call \"", *call.id, "\" of ", call.name));
    }
  }
  const size_t named = message.tool_calls.size() - nameless;
  if (results.size() < named + nameless) {
    return Refuse(where,
                  Concat(message.tool_calls.size(), " tool calls, but ", results.size(), " tool messages after them"));
  }
  return absl::OkStatus();
}

absl::Status CheckCalls(const ChatMessage& message, const std::string& where) {
  if (message.role != "assistant" && !(message.tool_calls.empty() && message.tool_responses.empty())) {
    return Refuse(where, "only the assistant calls tools");
  }
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    const std::string place = Concat(where, ".tool_calls[", i, "]");
    RETURN_IF_ERROR(CheckName(message.tool_calls[i].name, place));
    RETURN_IF_ERROR(CheckNumbers(message.tool_calls[i].arguments, place));
  }
  for (size_t i = 0; i < message.tool_responses.size(); ++i) {
    const std::string place = Concat(where, ".tool_responses[", i, "]");
    if (!message.tool_responses[i].name.empty()) {
      RETURN_IF_ERROR(CheckName(message.tool_responses[i].name, place));
    }
    RETURN_IF_ERROR(CheckNumbers(message.tool_responses[i].response, place));
  }
  return absl::OkStatus();
}

absl::Status CheckMessages(const ChatRequest& request, const MediaSupport& media) {
  const std::vector<ChatMessage>& messages = request.messages;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const std::string where = Concat("messages[", i, "]");
    if (!IsRole(message.role)) {
      return Refuse(where, Concat("role \"", std::string_view(message.role).substr(0, 80),
                                  "\"; wanted system, developer, user, assistant or tool"));
    }
    RETURN_IF_ERROR(CheckContent(message, media, where));
    RETURN_IF_ERROR(CheckCalls(message, where));
    if (message.role == "tool") {
      RETURN_IF_ERROR(CheckNumbers(message.content.value, where));
      if (!message.name.empty()) {
        RETURN_IF_ERROR(CheckName(message.name, where));
      }
      continue;
    }
    std::vector<const ChatMessage*> results;
    for (size_t next = i + 1; next < messages.size() && messages[next].role == "tool"; ++next) {
      results.push_back(&messages[next]);
    }
    if (!results.empty() && (message.tool_calls.empty() || !message.tool_responses.empty())) {
      return Refuse(Concat("messages[", i + 1, "]"), "a tool message must follow the assistant message that called it");
    }
    RETURN_IF_ERROR(CheckAnswered(message, results, where));
  }
  if (messages.front().role == "tool") {
    return Refuse("messages[0]", "a tool message must follow the assistant message that called it");
  }
  return absl::OkStatus();
}

absl::Status CheckGemma3(const ChatRequest& request) {
  if (!request.tools.empty()) {
    return Refuse("tools", "Gemma 3 has no tool calls");
  }
  const size_t first = request.messages.front().role == "system" ? 1 : 0;
  if (request.messages.size() == first) {
    return Refuse("messages", "Gemma 3 needs a user message");
  }
  for (size_t i = first; i < request.messages.size(); ++i) {
    const std::string_view wanted = (i - first) % 2 == 0 ? "user" : "assistant";
    if (request.messages[i].role != wanted || !request.messages[i].tool_calls.empty()) {
      return Refuse(Concat("messages[", i, "]"), Concat("Gemma 3's turns must alternate; wanted one of the ", wanted));
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool IsFunctionName(std::string_view name) {
  constexpr size_t kLongest = 64;
  return !name.empty() && name.size() <= kLongest && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == ':' || c == '/' || c == '-';
  });
}

absl::Status ValidateChat(const ChatRequest& request, ChatFormat format, const MediaSupport& media) {
  if (request.messages.empty()) {
    return Refuse("messages", "at least one message is needed");
  }
  for (size_t i = 0; i < request.tools.size(); ++i) {
    const std::string where = Concat("tools[", i, "]");
    const JsonValue* name = request.tools[i].Find("name");
    RETURN_IF_ERROR(CheckName(name != nullptr ? std::string_view(name->text) : std::string_view(), where));
    RETURN_IF_ERROR(CheckNumbers(request.tools[i], where));
  }
  RETURN_IF_ERROR(CheckMessages(request, media));
  if (request.continue_final_message) {
    if (request.add_generation_prompt) {
      return Refuse("continue_final_message", "excludes add_generation_prompt");
    }
    if (request.messages.back().role != "assistant" || !request.messages.back().tool_calls.empty()) {
      return Refuse("continue_final_message", "the last message must be the assistant's, without tool calls");
    }
  }
  return format == ChatFormat::kGemma3 ? CheckGemma3(request) : absl::OkStatus();
}

}  // namespace alphecca::text

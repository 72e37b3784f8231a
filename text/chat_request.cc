#include "text/chat_request.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"
#include "text/concat.h"
#include "text/python_format.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

absl::Status Wrong(std::string_view where, std::string_view wanted) {
  return absl::InvalidArgumentError(Concat(where, ": wanted ", wanted));
}

// An optional string: absent and null are empty.
absl::Status ReadText(const JsonValue& object, std::string_view key, std::string_view where, std::string& text) {
  const JsonValue* value = object.Find(key);
  if (value == nullptr || value->IsNull()) {
    return absl::OkStatus();
  }
  if (!value->IsString()) {
    return Wrong(Concat(where, ".", key), "a string");
  }
  text = value->text;
  return absl::OkStatus();
}

absl::Status ReadId(const JsonValue& object, std::string_view key, std::string_view where,
                    std::optional<std::string>& id) {
  const JsonValue* value = object.Find(key);
  if (value == nullptr || value->IsNull()) {
    return absl::OkStatus();
  }
  return ReadText(object, key, where, id.emplace());
}

// An optional list: absent and null are empty. `read` gets each item and its place.
template <typename Read>
absl::Status ReadList(const JsonValue& object, std::string_view key, std::string_view where, const Read& read) {
  const JsonValue* list = object.Find(key);
  if (list == nullptr || list->IsNull()) {
    return absl::OkStatus();
  }
  if (!list->IsArray()) {
    return Wrong(Concat(where, key), "a list");
  }
  for (size_t i = 0; i < list->items.size(); ++i) {
    const std::string place = Concat(where, key, "[", i, "]");
    if (!list->items[i].IsObject()) {
      return Wrong(place, "an object");
    }
    RETURN_IF_ERROR(read(list->items[i], place));
  }
  return absl::OkStatus();
}

absl::Status ReadContent(const JsonValue& message, const std::string& where, MessageContent& content) {
  const JsonValue* value = message.Find("content");
  if (value == nullptr || value->IsNull()) {
    return absl::OkStatus();
  }
  switch (value->kind) {
    case JsonValue::Kind::kString:
      content.kind = MessageContent::Kind::kText;
      content.text = value->text;
      return absl::OkStatus();
    case JsonValue::Kind::kArray:
      content.kind = MessageContent::Kind::kParts;
      return ReadList(message, "content", where + ".",
                      [&](const JsonValue& item, const std::string& place) -> absl::Status {
                        ContentPart& part = content.parts.emplace_back();
                        part.type.clear();
                        RETURN_IF_ERROR(ReadText(item, "type", place, part.type));
                        return ReadText(item, "text", place, part.text);
                      });
    case JsonValue::Kind::kObject:
      return Wrong(where + ".content", "a string, a list of parts or null");
    default:
      content.kind = MessageContent::Kind::kValue;
      content.value = *value;
      return absl::OkStatus();
  }
}

absl::Status ReadCall(const JsonValue& item, const std::string& where, MessageToolCall& call) {
  RETURN_IF_ERROR(ReadId(item, "id", where, call.id));
  const JsonValue* function = item.Find("function");
  if (function == nullptr || !function->IsObject()) {
    return Wrong(where + ".function", "an object");
  }
  RETURN_IF_ERROR(ReadText(*function, "name", where + ".function", call.name));
  const JsonValue* arguments = function->Find("arguments");
  if (arguments == nullptr || arguments->IsNull()) {
    return absl::OkStatus();
  }
  if (arguments->IsObject()) {
    call.arguments = *arguments;
    return absl::OkStatus();
  }
  if (!arguments->IsString()) {
    return Wrong(where + ".function.arguments", "a JSON object as a string");
  }
  absl::StatusOr<JsonValue> parsed = ParseCallArguments(arguments->text);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(Concat(where, ".function.arguments: ", std::string(parsed.status().message())));
  }
  call.arguments = *std::move(parsed);
  return absl::OkStatus();
}

absl::Status ReadMessage(const JsonValue& item, const std::string& where, ChatMessage& message) {
  RETURN_IF_ERROR(ReadText(item, "role", where, message.role));
  RETURN_IF_ERROR(ReadContent(item, where, message.content));
  RETURN_IF_ERROR(ReadText(item, "reasoning", where, message.reasoning));
  if (message.reasoning.empty()) {
    RETURN_IF_ERROR(ReadText(item, "reasoning_content", where, message.reasoning));
  }
  RETURN_IF_ERROR(ReadId(item, "tool_call_id", where, message.tool_call_id));
  RETURN_IF_ERROR(ReadText(item, "name", where, message.name));
  RETURN_IF_ERROR(ReadList(item, "tool_calls", where + ".", [&](const JsonValue& call, const std::string& place) {
    return ReadCall(call, place, message.tool_calls.emplace_back());
  }));
  return ReadList(item, "tool_responses", where + ".",
                  [&](const JsonValue& response, const std::string& place) -> absl::Status {
                    MessageToolResponse& to = message.tool_responses.emplace_back();
                    RETURN_IF_ERROR(ReadText(response, "name", place, to.name));
                    if (const JsonValue* body = response.Find("response")) {
                      to.response = *body;
                    }
                    return absl::OkStatus();
                  });
}

absl::Status ReadTools(const JsonValue& request, ChatRequest& to) {
  const JsonValue* choice = request.Find("tool_choice");
  if (choice != nullptr && choice->IsString() && choice->text == "none") {
    return absl::OkStatus();
  }
  return ReadList(request, "tools", "", [&](const JsonValue& tool, const std::string& where) -> absl::Status {
    const JsonValue* function = tool.Find("function");
    if (function == nullptr || !function->IsObject()) {
      return Wrong(where + ".function", "an object");
    }
    const JsonValue* name = function->Find("name");
    if (name == nullptr || !name->IsString()) {
      return Wrong(where + ".function.name", "a string");
    }
    const JsonValue* parameters = function->Find("parameters");
    if (parameters != nullptr && !parameters->IsObject() && Truthy(parameters)) {
      return Wrong(where + ".function.parameters", "a JSON schema, an object");
    }
    to.tools.push_back(*function);
    return absl::OkStatus();
  });
}

// A switch, at the top level or among the template's arguments, which go before.
absl::Status ReadSwitch(const JsonValue& request, std::string_view key, bool& value) {
  const JsonValue* arguments = request.Find("chat_template_kwargs");
  const JsonValue* found = arguments != nullptr ? arguments->Find(key) : nullptr;
  if (found == nullptr) {
    found = request.Find(key);
  }
  if (found == nullptr || found->IsNull()) {
    return absl::OkStatus();
  }
  if (found->kind != JsonValue::Kind::kBool) {
    return Wrong(key, "true or false");
  }
  value = found->boolean;
  return absl::OkStatus();
}

}  // namespace

std::optional<Media> MediaOf(std::string_view part_type) {
  if (part_type == "image" || part_type == "image_url") {
    return Media::kImage;
  }
  if (part_type == "audio" || part_type == "input_audio") {
    return Media::kAudio;
  }
  return part_type == "video" ? std::optional(Media::kVideo) : std::nullopt;
}

absl::StatusOr<ChatRequest> ParseChatRequest(const JsonValue& request) {
  if (!request.IsObject()) {
    return Wrong("request", "a JSON object");
  }
  const JsonValue* messages = request.Find("messages");
  if (messages == nullptr || !messages->IsArray()) {
    return Wrong("messages", "a list");
  }
  ChatRequest chat;
  RETURN_IF_ERROR(ReadList(request, "messages", "", [&](const JsonValue& message, const std::string& where) {
    return ReadMessage(message, where, chat.messages.emplace_back());
  }));
  RETURN_IF_ERROR(ReadTools(request, chat));
  std::string effort;
  RETURN_IF_ERROR(ReadText(request, "reasoning_effort", "request", effort));
  chat.enable_thinking = !effort.empty() && effort != "none";
  RETURN_IF_ERROR(ReadSwitch(request, "enable_thinking", chat.enable_thinking));
  RETURN_IF_ERROR(ReadSwitch(request, "preserve_thinking", chat.preserve_thinking));
  RETURN_IF_ERROR(ReadSwitch(request, "add_generation_prompt", chat.add_generation_prompt));
  RETURN_IF_ERROR(ReadSwitch(request, "continue_final_message", chat.continue_final_message));
  return chat;
}

absl::StatusOr<JsonValue> ParseCallArguments(std::string_view json) {
  if (Strip(json).empty()) {
    return JsonValue::Object();
  }
  ASSIGN_OR_RETURN(JsonValue arguments, ParseJson(json));
  if (!arguments.IsObject()) {
    return absl::InvalidArgumentError("a call's arguments must be a JSON object");
  }
  return arguments;
}

absl::StatusOr<JsonValue> MakeTool(std::string_view name, std::string_view description,
                                   std::string_view parameters_json) {
  JsonValue tool = JsonValue::Object();
  tool.members.push_back({"name", JsonValue::String(name)});
  tool.members.push_back({"description", JsonValue::String(description)});
  if (!Strip(parameters_json).empty()) {
    absl::StatusOr<JsonValue> parameters = ParseJson(parameters_json);
    if (!parameters.ok() || !parameters->IsObject()) {
      return Wrong(Concat("tool ", name, ": parameters"), "a JSON schema, an object");
    }
    tool.members.push_back({"parameters", *std::move(parameters)});
  }
  return tool;
}

}  // namespace alphecca::text

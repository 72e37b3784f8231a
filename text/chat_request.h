// A conversation to be continued, as the chat formats take it: what clients send in OpenAI's form, read but not judged.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/json.h"

namespace alphecca::text {

struct ContentPart {
  std::string type = "text";  // text, image, image_url, audio, input_audio, video
  std::string text;           // of a text part
};

// The three kinds of media that a part may stand for.
enum class Media { kImage, kAudio, kVideo };
// None for text and unknown types.
std::optional<Media> MediaOf(std::string_view part_type);

struct MessageContent {
  enum class Kind {
    kNone,   // absent or null
    kText,   // `text`
    kParts,  // `parts`
    kValue,  // a number or a boolean, which only a tool's result may be
  };
  Kind kind = Kind::kNone;
  std::string text;
  std::vector<ContentPart> parts;
  JsonValue value;
};

struct MessageToolCall {
  std::optional<std::string> id;
  std::string name;
  JsonValue arguments;  // an object, or null for none
};

// Google's own form of a result, carried by the assistant's message.
struct MessageToolResponse {
  std::string name;  // empty: unknown
  JsonValue response;
};

struct ChatMessage {
  std::string role;  // system, developer, user, assistant or tool
  MessageContent content;
  std::string reasoning;  // assistant: the thought before the answer
  std::vector<MessageToolCall> tool_calls;
  std::vector<MessageToolResponse> tool_responses;
  std::optional<std::string> tool_call_id;  // tool: whose result this is
  std::string name;                         // tool: serves where no id fits
};

struct ChatRequest {
  std::vector<ChatMessage> messages;
  // The "function" objects of the tools: name, description, parameters (a JSON schema), response.
  std::vector<JsonValue> tools;
  bool enable_thinking = false;
  bool preserve_thinking = false;
  // Ends with what makes the model answer.
  bool add_generation_prompt = false;
  // The last message is the assistant's and unfinished: the model goes on with it. Excludes add_generation_prompt.
  bool continue_final_message = false;
};

// Reads an OpenAI chat request: messages, tools, tool_choice (none leaves the tools out), enable_thinking and
// preserve_thinking (top level or in chat_template_kwargs), reasoning_effort, add_generation_prompt,
// continue_final_message; other keys are passed over. InvalidArgument where a member has a type that no request may
// have, or a call's arguments are no JSON object. What a server should refuse beyond that, ValidateChat says.
absl::StatusOr<ChatRequest> ParseChatRequest(const JsonValue& request);

// A call's arguments as clients send them: a JSON object as text; white space alone is the empty object.
absl::StatusOr<JsonValue> ParseCallArguments(std::string_view json);
// A tool from its parts. `parameters_json`: a JSON schema as text; empty for none.
absl::StatusOr<JsonValue> MakeTool(std::string_view name, std::string_view description,
                                   std::string_view parameters_json);

}  // namespace alphecca::text

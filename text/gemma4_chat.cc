// Gemma 4's chat format: the frame of turns, thoughts, calls and responses.
#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "text/chat_renderers.h"
#include "text/concat.h"
#include "text/gemma4_values.h"
#include "text/special_tokens.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

std::string_view Placeholder(Media media) {
  return media == Media::kImage ? kImage : media == Media::kAudio ? kAudio : kVideo;
}

// An assistant's text without the thoughts in it: of each part between closers, what stands before its first opener.
std::string WithoutThoughts(std::string_view text) {
  std::string kept;
  while (true) {
    const size_t close = text.find(kChannelEnd);
    const std::string_view part = text.substr(0, close);
    kept += part.substr(0, part.find(kChannel));
    if (close == std::string_view::npos) {
      break;
    }
    text.remove_prefix(close + kChannelEnd.size());
  }
  return std::string(Strip(kept));
}

class Renderer {
 public:
  Renderer(const ChatRequest& request, bool small) : request_(request), small_(small), messages_(request.messages) {}

  RenderedChat Run() && {
    out_.Control(kBos);
    System();
    for (size_t i = messages_.size(); i > 0 && last_user_ < 0; --i) {
      last_user_ = messages_[i - 1].role == "user" ? static_cast<int64_t>(i - 1) : -1;
    }
    for (size_t i = 0; i < messages_.size(); ++i) {
      if (messages_[i].role != "tool") {
        Message(i);
      }
    }
    const bool in_thought = request_.add_generation_prompt && !request_.continue_final_message && GenerationPrompt();
    return {std::move(out_).Take(), in_thought};
  }

 private:
  // What a turn written so far ends with.
  enum class Block { kNone, kCall, kResponse };

  void System() {
    const bool lead =
        !messages_.empty() && (messages_.front().role == "system" || messages_.front().role == "developer");
    if (!request_.enable_thinking && request_.tools.empty() && !lead) {
      return;
    }
    out_.Control(kTurn);
    out_.Text("system\n");
    if (request_.enable_thinking) {
      out_.Control(kThink);
      out_.Text("\n");
    }
    if (lead) {
      const MessageContent& content = messages_.front().content;
      if (content.kind == MessageContent::Kind::kText) {
        out_.Text(Strip(content.text));
      }
      for (const ContentPart& part : content.parts) {
        out_.Text(Strip(part.text));
        out_.Text(" ");
      }
      messages_ = messages_.subspan(1);
    }
    for (const JsonValue& tool : request_.tools) {
      AppendDeclaration(tool, out_);
    }
    CloseTurn();
  }

  void CloseTurn() {
    out_.Control(kTurnEnd);
    out_.Text("\n");
  }

  void Message(size_t i) {
    const ChatMessage& message = messages_[i];
    const bool model = message.role == "assistant";
    if (!(model && previous_ == "assistant")) {
      out_.Control(kTurn);
      out_.Text((model ? "model" : message.role) + "\n");
    }
    Thought(i);
    last_ = message.tool_calls.empty() ? Block::kNone : Block::kCall;
    for (const MessageToolCall& call : message.tool_calls) {
      out_.Control(kToolCall);
      out_.Text(Concat("call:", call.name, "{"));
      AppendFields(call.arguments, out_);
      out_.Text("}");
      out_.Control(kToolCallEnd);
    }
    const bool answered = Responses(i);
    if (answered) {
      last_ = Block::kResponse;
    }
    const bool written = Content(message, model);
    EndMessage(i, answered, written);
    previous_ = message.role;
  }

  // Thoughts of finished turns are dropped, those of a running loop of calls are kept.
  void Thought(size_t i) {
    const ChatMessage& message = messages_[i];
    const bool kept =
        static_cast<int64_t>(i) > last_user_ || (request_.preserve_thinking && !message.tool_calls.empty());
    if (message.reasoning.empty() || !kept) {
      return;
    }
    out_.Control(kChannel);
    out_.Text(Concat("thought\n", message.reasoning, "\n"));
    out_.Control(kChannelEnd);
  }

  // Whether there were any.
  bool Responses(size_t i) {
    const ChatMessage& message = messages_[i];
    for (const MessageToolResponse& response : message.tool_responses) {
      OpenResponse(response.name.empty() ? "unknown" : response.name);
      if (response.response.IsObject()) {
        AppendFields(response.response, out_);
      } else {
        out_.Text("value:");
        AppendValue(response.response, false, out_);
      }
      CloseResponse();
    }
    if (!message.tool_responses.empty() || message.tool_calls.empty()) {
      return !message.tool_responses.empty();
    }
    size_t next = i + 1;
    for (; next < messages_.size() && messages_[next].role == "tool"; ++next) {
      ToolMessage(messages_[next], message.tool_calls);
    }
    return next > i + 1;
  }

  void ToolMessage(const ChatMessage& result, const std::vector<MessageToolCall>& calls) {
    std::string name = result.name.empty() ? "unknown" : result.name;
    for (const MessageToolCall& call : calls) {
      if (call.id == result.tool_call_id) {
        name = call.name;
      }
    }
    OpenResponse(name);
    out_.Text("value:");
    const MessageContent& content = result.content;
    switch (content.kind) {
      case MessageContent::Kind::kNone:
        out_.Text("null");
        break;
      case MessageContent::Kind::kText:
        AppendQuoted(content.text, out_);
        break;
      case MessageContent::Kind::kValue:
        AppendValue(content.value, false, out_);
        break;
      case MessageContent::Kind::kParts: {
        std::string text;
        for (const ContentPart& part : content.parts) {
          text += part.type == "text" ? part.text : "";
        }
        AppendQuoted(text, out_);
        break;
      }
    }
    CloseResponse();
    for (const ContentPart& part : content.parts) {
      if (const std::optional<Media> media = MediaOf(part.type)) {
        out_.Control(Placeholder(*media));
      }
    }
  }

  void OpenResponse(std::string_view name) {
    out_.Control(kToolResponse);
    out_.Text(Concat("response:", name, "{"));
  }

  void CloseResponse() {
    out_.Text("}");
    out_.Control(kToolResponseEnd);
  }

  // Whether anything but white space was written.
  bool Content(const ChatMessage& message, bool model) {
    bool written = false;
    const auto text = [&](std::string_view raw) {
      const std::string clean = model ? WithoutThoughts(raw) : std::string(Strip(raw));
      out_.Text(clean);
      written |= !clean.empty();
    };
    text(message.content.text);
    for (const ContentPart& part : message.content.parts) {
      if (part.type == "text") {
        text(part.text);
      } else if (const std::optional<Media> media = MediaOf(part.type)) {
        out_.Control(Placeholder(*media));
        written = true;
      }
    }
    return written;
  }

  void EndMessage(size_t i, bool answered, bool written) {
    const ChatMessage& message = messages_[i];
    const auto rest = messages_.subspan(i + 1);
    const auto next = std::find_if(rest.begin(), rest.end(), [](const ChatMessage& m) { return m.role != "tool"; });
    const bool called = !message.tool_calls.empty();
    const bool runs_on =
        message.role == "assistant" && next != rest.end() && next->role == "assistant" && (!called || answered);
    closed_ = false;
    if (called && !answered) {
      out_.Control(kToolResponse);
    } else if (!runs_on && !(answered && !written && next == rest.end()) &&
               !(request_.continue_final_message && next == rest.end())) {
      CloseTurn();
      closed_ = true;
    }
  }

  // Whether it leaves a thought open.
  bool GenerationPrompt() {
    if (last_ == Block::kCall) {
      return false;
    }
    if (last_ == Block::kNone || closed_) {
      // After a response with content, the template leaves the turn closed, and the model would write outside any.
      out_.Control(kTurn);
      out_.Text("model\n");
    }
    if (last_ == Block::kResponse) {
      if (request_.enable_thinking) {
        out_.Control(kChannel);
        out_.Text("thought\n");
      }
      return request_.enable_thinking;
    }
    if (!request_.enable_thinking && !small_) {
      out_.Control(kChannel);
      out_.Text("thought\n");
      out_.Control(kChannelEnd);
    }
    return false;
  }

  const ChatRequest& request_;
  const bool small_;
  std::span<const ChatMessage> messages_;  // without the one that the system turn took
  int64_t last_user_ = -1;                 // its place
  std::string_view previous_;              // the role of the message before, tools' results aside
  Block last_ = Block::kNone;
  bool closed_ = false;  // the last message closed its turn
  PieceBuilder out_;
};

}  // namespace

absl::StatusOr<RenderedChat> RenderGemma4(const ChatRequest& request, bool small) {
  return Renderer(request, small).Run();
}

}  // namespace alphecca::text

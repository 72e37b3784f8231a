#include "coordinator/request/text_flow.h"

#include <utility>

#include "absl/random/random.h"
#include "text/detokenizer.h"
#include "text/stop_strings.h"
#include "text/tool_calls.h"

namespace alphecca::coordinator {
namespace {

class CompletionText : public SampleText {
 public:
  CompletionText(const text::Tokenizer& tokenizer, std::vector<std::string> stops)
      : tokenizer_(tokenizer), detokenizer_(tokenizer), stops_(std::move(stops)) {}

  bool Push(int32_t id, TextDelta& out) override {
    if (tokenizer_.InRange(id)) {  // logits may have rows beyond the vocabulary: such an id has no text
      if (absl::StatusOr<std::string> text = detokenizer_.Add(id); text.ok()) {
        out.text += stops_.Add(*text);
      }
    }
    return stops_.stopped();
  }

  void End(bool, TextDelta& out) override {
    if (!stops_.stopped()) {
      out.text += stops_.Add(detokenizer_.Flush());
      out.text += stops_.Flush();
    }
  }

 private:
  const text::Tokenizer& tokenizer_;
  text::StreamingDetokenizer detokenizer_;
  text::StopStrings stops_;
};

class ChatText : public SampleText {
 public:
  ChatText(const text::Tokenizer& tokenizer, std::vector<std::string> stops, bool in_thought)
      : tokenizer_(tokenizer), detokenizer_(tokenizer), parser_(in_thought), stops_(std::move(stops)) {}

  bool Push(int32_t id, TextDelta& out) override {
    if (!tokenizer_.InRange(id)) {
      return stops_.stopped();
    }
    if (tokenizer_.IsControl(id)) {
      Text(detokenizer_.Flush(), out);
      Take(parser_.Feed({true, std::string(tokenizer_.Spelling(id))}), out);
    } else if (absl::StatusOr<std::string> text = detokenizer_.Add(id); text.ok()) {
      Text(*std::move(text), out);
    }
    return stops_.stopped();
  }

  void End(bool, TextDelta& out) override {
    if (!stops_.stopped()) {
      Text(detokenizer_.Flush(), out);
      Take(parser_.Finish(), out);
      out.text += stops_.Flush();
    }
  }

  bool called_tools() const override { return parser_.calls() > 0; }
  int broken_calls() const override { return parser_.malformed_calls() + parser_.cut_calls(); }

 private:
  void Text(std::string text, TextDelta& out) {
    if (!text.empty()) {
      Take(parser_.Feed({false, std::move(text)}), out);
    }
  }

  void Take(std::vector<text::OutputEvent> events, TextDelta& out) {
    for (text::OutputEvent& event : events) {
      if (stops_.stopped()) {
        return;
      }
      switch (event.kind) {
        case text::OutputEvent::Kind::kReasoning:
          out.reasoning += event.text;
          break;
        case text::OutputEvent::Kind::kContent:
          out.text += stops_.Add(event.text);
          break;
        case text::OutputEvent::Kind::kToolCall:
          out.tool_calls.push_back({text::NewToolCallId(random_), std::move(event.name), std::move(event.arguments)});
          break;
      }
    }
  }

  const text::Tokenizer& tokenizer_;
  text::StreamingDetokenizer detokenizer_;
  text::OutputParser parser_;
  text::StopStrings stops_;
  absl::InsecureBitGen random_;
};

class NoText : public SampleText {
 public:
  bool Push(int32_t, TextDelta&) override { return false; }
  void End(bool, TextDelta&) override {}
};

}  // namespace

std::unique_ptr<SampleText> MakeChatText(const text::Tokenizer& tokenizer, std::vector<std::string> stops,
                                         bool in_thought) {
  return std::make_unique<ChatText>(tokenizer, std::move(stops), in_thought);
}

std::unique_ptr<SampleText> MakeCompletionText(const text::Tokenizer& tokenizer, std::vector<std::string> stops) {
  return std::make_unique<CompletionText>(tokenizer, std::move(stops));
}

std::unique_ptr<SampleText> MakeNoText() {
  return std::make_unique<NoText>();
}

}  // namespace alphecca::coordinator

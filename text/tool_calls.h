// Gemma 4's output, as it streams, into thoughts, content and tool calls: spec gemma4-text-format, section 3.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/random/bit_gen_ref.h"
#include "text/pieces.h"

namespace alphecca::text {

struct OutputEvent {
  enum class Kind { kReasoning, kContent, kToolCall };
  Kind kind = Kind::kContent;
  std::string text;       // of thoughts and content
  std::string name;       // of a call
  std::string arguments;  // compact JSON

  friend bool operator==(const OutputEvent&, const OutputEvent&) = default;
};

// Concatenated, the events don't depend on how text is split into pieces. A call comes as one event when it is
// complete; a malformed or cut one comes back as content, so that nothing is lost and nothing is executed. Not
// thread-safe.
class OutputParser {
 public:
  // `in_thought`: the prompt ended with an opened thought.
  explicit OutputParser(bool in_thought = false) : state_(in_thought ? State::kThought : State::kContent) {}

  // A control token by its spelling, or text: whole UTF-8 characters. Everything after the end is passed over.
  std::vector<OutputEvent> Feed(const Piece& piece);
  // The end of the stream.
  std::vector<OutputEvent> Finish();
  // A control token ended the output, or Finish was called.
  bool ended() const { return ended_; }

  int calls() const { return calls_; }
  // For metrics: calls that came back as content, ended by the model or cut.
  int malformed_calls() const { return malformed_; }
  int cut_calls() const { return cut_; }

 private:
  enum class State {
    kContent,
    kThought,
    kCall,
    kSpilledCall,  // a call past the limit, already given back as content; the rest of it follows
  };

  void Control(std::string_view token);
  void ControlInCall(std::string_view token);
  void Text(std::string_view text);
  void StateText(std::string_view text);
  std::string SkipTurnHeader(std::string_view text);
  void ThoughtText(std::string_view text);
  void ContentText(std::string_view text);
  void CallText(std::string_view text);
  void OpenCall();
  void CloseCall();
  void CutCall();
  void GiveBackCall(std::string_view tail);
  void EmitCall(std::string name, std::string arguments);
  void LeaveThought();
  void End();
  void Emit(OutputEvent::Kind kind, std::string_view text);

  State state_;
  bool started_ = false;                    // anything was fed
  std::optional<std::string> turn_header_;  // read so far, after a leading <|turn>
  std::optional<std::string> label_;        // a thought's label, as far as it was read
  std::string held_;                        // white space not yet given out
  bool after_call_ = false;                 // nothing but white space since a call
  std::string call_;                        // with quote marks in place of quote tokens
  std::string call_raw_;                    // with tags spelled
  int calls_ = 0;
  int malformed_ = 0;
  int cut_ = 0;
  bool ended_ = false;
  std::vector<OutputEvent> events_;
};

// Of an answer with at least one call that the model ended by itself, "tool_calls"; at the token limit "length"; else
// "stop".
std::string_view FinishReason(const OutputParser& parser, bool at_token_limit);

// "call_" and 24 random letters and digits.
std::string NewToolCallId(absl::BitGenRef random);

}  // namespace alphecca::text

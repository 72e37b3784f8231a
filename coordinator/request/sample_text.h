// From one sample's ids to what its client reads. The two forms, plain text and chat, are made by request/text_flow.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace alphecca::coordinator {

struct EmittedCall {
  std::string id;
  std::string name;
  std::string arguments;  // a JSON object
};

// What became visible.
struct TextDelta {
  std::string text;       // Generate: the text; Chat: the answer's content
  std::string reasoning;  // Chat
  std::vector<EmittedCall> tool_calls;
  bool empty() const { return text.empty() && reasoning.empty() && tool_calls.empty(); }
};

class SampleText {
 public:
  virtual ~SampleText() = default;
  // Takes the next token and appends what became visible. True: a stop string was completed, the sample is over;
  // nothing of the stop string or beyond is in `out`.
  virtual bool Push(int32_t id, TextDelta& out) = 0;
  // No more tokens: appends what was held back. `by_itself`: the model ended, not a limit.
  virtual void End(bool by_itself, TextDelta& out) = 0;
  // At least one whole call was emitted.
  virtual bool called_tools() const { return false; }
  // Tool calls that came back as content: not well formed, or cut by the end.
  virtual int broken_calls() const { return 0; }
};

}  // namespace alphecca::coordinator

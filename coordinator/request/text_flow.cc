#include "coordinator/request/text_flow.h"

#include <utility>

#include "text/detokenizer.h"
#include "text/stop_strings.h"

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

}  // namespace

std::unique_ptr<SampleText> MakeCompletionText(const text::Tokenizer& tokenizer, std::vector<std::string> stops) {
  return std::make_unique<CompletionText>(tokenizer, std::move(stops));
}

}  // namespace alphecca::coordinator

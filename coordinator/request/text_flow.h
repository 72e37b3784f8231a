// The two ways from ids to text: a completion, and a chat answer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "coordinator/request/sample_text.h"
#include "text/tokenizer.h"

namespace alphecca::coordinator {

// Whole UTF-8 characters, control tokens hidden, ended by a stop string. The tokenizer must outlive it.
std::unique_ptr<SampleText> MakeCompletionText(const text::Tokenizer& tokenizer, std::vector<std::string> stops);

// The same for Gemma 4's chat output: thoughts and tool calls apart from content, to which stop strings apply.
// `in_thought`: the prompt ended inside a thought.
std::unique_ptr<SampleText> MakeChatText(const text::Tokenizer& tokenizer, std::vector<std::string> stops,
                                         bool in_thought);

// For a model without a tokenizer: ids have no text.
std::unique_ptr<SampleText> MakeNoText();

}  // namespace alphecca::coordinator

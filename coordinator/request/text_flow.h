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

}  // namespace alphecca::coordinator

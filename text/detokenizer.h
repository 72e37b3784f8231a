// Token ids to text as they come: whole UTF-8 characters only.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "text/tokenizer.h"

namespace alphecca::text {

// Concatenated, what it returns equals Tokenizer::Decode of all the ids. At most 3 bytes are held back, and only while
// they begin a valid sequence. The tokenizer must outlive it. Not thread-safe.
class StreamingDetokenizer {
 public:
  explicit StreamingDetokenizer(const Tokenizer& tokenizer, ShowControl show = ShowControl::kHide)
      : tokenizer_(&tokenizer), show_(show) {}

  // The text that this token completes. InvalidArgument for an id out of range, which changes nothing.
  absl::StatusOr<std::string> Add(int32_t id);
  // What is still held back, an unfinished character as U+FFFD; the next text starts afresh.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  ShowControl show_;
  std::string pending_;
};

}  // namespace alphecca::text

// Finds stop strings in streamed text, and holds back what may be the beginning of one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace alphecca::text {

// What it gives out does not depend on how the text is split. Not thread-safe.
class StopStrings {
 public:
  // Empty strings are passed over. Of several that match, the one that begins first ends the text.
  explicit StopStrings(std::vector<std::string> stops);

  // The text that is sure to come before any stop string. Empty once stopped.
  std::string Add(std::string_view text);
  // At the end of the text: what was held back.
  std::string Flush();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace alphecca::text

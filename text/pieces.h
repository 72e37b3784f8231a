// What text becomes before it is token ids: control tokens and plain text, kept apart, so that text from outside can
// never turn into a control token.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace alphecca::text {

struct Piece {
  bool control = false;
  std::string text;  // a control token's spelling, or UTF-8 text

  friend bool operator==(const Piece&, const Piece&) = default;
};

// Builds pieces; neighbouring texts become one.
class PieceBuilder {
 public:
  void Control(std::string_view token) { pieces_.push_back({true, std::string(token)}); }

  void Text(std::string_view text) {
    if (text.empty()) {
      return;
    }
    if (!pieces_.empty() && !pieces_.back().control) {
      pieces_.back().text += text;
    } else {
      pieces_.push_back({false, std::string(text)});
    }
  }

  std::vector<Piece> Take() && { return std::move(pieces_); }

 private:
  std::vector<Piece> pieces_;
};

}  // namespace alphecca::text

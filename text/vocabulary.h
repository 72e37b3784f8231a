// The pieces of a vocabulary by id and by text, which of them are control tokens, and longest matches of whole pieces.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "text/tokenizer_data.h"

namespace alphecca::text {

// The longest of a set of strings that a text holds at some place.
class PieceTrie {
 public:
  struct Match {
    int32_t id = -1;
    size_t length = 0;  // 0: none
  };

  void Insert(std::string_view piece, int32_t id);
  Match LongestAt(std::string_view text, size_t at) const;
  bool MayStartWith(char c) const { return starts_[static_cast<unsigned char>(c)]; }

 private:
  std::array<bool, 256> starts_ = {};
  absl::flat_hash_map<uint64_t, uint32_t> next_;  // node << 8 | byte -> node; the root is 0
  std::vector<int32_t> ids_ = {-1};               // by node
};

// Immutable after creation; movable, not copyable (the index points into the tokens).
class Vocabulary {
 public:
  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  // InvalidArgument if a character could be neither a piece nor bytes nor unknown, or a file of Gemma 4's size has its
  // control tokens at other ids.
  static absl::StatusOr<Vocabulary> Create(std::vector<std::string> tokens, std::vector<TokenType> types,
                                           std::optional<int64_t> unknown_id);

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  const std::string& token(int32_t id) const { return tokens_[static_cast<size_t>(id)]; }
  TokenType type(int32_t id) const { return types_[static_cast<size_t>(id)]; }
  bool IsControl(int32_t id) const { return type(id) == TokenType::kControl || type(id) == TokenType::kUnknown; }
  // Of equal tokens, the lowest id; -1 if there is none.
  int32_t Find(std::string_view text) const;
  // The same, but only a normal piece: what a text may become.
  int32_t FindNormal(std::string_view text) const;
  // -1 without a piece for this byte.
  int32_t byte_id(unsigned char byte) const { return byte_ids_[byte]; }
  int32_t unknown_id() const { return unknown_id_; }  // -1: none

  const PieceTrie& user_defined() const { return user_defined_; }  // with U+2581 for spaces
  const PieceTrie& controls() const { return controls_; }
  // No normal piece has a newline beside another character: then a run of newlines may be looked up whole.
  bool newlines_stand_alone() const { return newlines_stand_alone_; }

 private:
  absl::Status CheckGemma4Ids() const;
  absl::Status IndexBytes();
  void IndexWholePieces();

  std::vector<std::string> tokens_;
  std::vector<TokenType> types_;
  absl::flat_hash_map<std::string_view, int32_t> ids_;
  std::array<int32_t, 256> byte_ids_ = {};
  int32_t unknown_id_ = -1;
  PieceTrie user_defined_;
  PieceTrie controls_;
  bool newlines_stand_alone_ = true;
};

// The byte that a piece spelled "<0xXX>" stands for; -1 if it is spelled otherwise.
int ByteOfPiece(std::string_view piece);

// "\u2581", which stands for a space in pieces.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
std::string SpacesToMarks(std::string_view text);
std::string MarksToSpaces(std::string_view text);

}  // namespace alphecca::text

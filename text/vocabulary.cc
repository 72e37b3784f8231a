#include "text/vocabulary.h"

#include <span>
#include <utility>

#include "common/status_macros.h"
#include "text/concat.h"
#include "text/special_tokens.h"

namespace alphecca::text {
namespace {

constexpr SpecialToken kSpecialTokens[] = {
    {"<pad>", 0, false, true},
    {kEos, 1, true, false},
    {kBos, 2, false, true},
    {"<unk>", 3, false, true},
    {"<mask>", 4, false, true},
    {kTool, 46},
    {kToolEnd, 47},
    {kToolCall, 48},
    {kToolCallEnd, 49},
    {kToolResponse, 50, true, false},
    {kToolResponseEnd, 51},
    {kQuote, 52},
    {kThink, 98},
    {kChannel, 100},
    {kChannelEnd, 101},
    {kTurn, 105},
    {kTurnEnd, 106, true, false},
    {"<|image>", 255999, false, true},
    {"<image|>", 258882, false, true},
    {kImage, 258880, false, true},
    {"<|audio>", 256000, false, true},
    {"<audio|>", 258883, false, true},
    {kAudio, 258881, false, true},
    {kVideo, 258884, false, true},
    // Gemma 3's
    {kGemma3Turn, -1},
    {kGemma3TurnEnd, -1, true, false},
    {"[multimodal]", -1, false, true},
    {kGemma3Image, -1, false, true},
    {"<end_of_image>", -1, false, true},
    {"<image_soft_token>", -1, false, true},
};

int HexDigit(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

}  // namespace

std::span<const SpecialToken> SpecialTokens() {
  return kSpecialTokens;
}

int ByteOfPiece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') {
    return -1;
  }
  const int high = HexDigit(piece[3]);
  const int low = HexDigit(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::string SpacesToMarks(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  for (const char c : text) {
    if (c == ' ') {
      out += kSpaceMark;
    } else {
      out += c;
    }
  }
  return out;
}

std::string MarksToSpaces(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    if (text.substr(at).starts_with(kSpaceMark)) {
      out += ' ';
      at += kSpaceMark.size();
    } else {
      out += text[at++];
    }
  }
  return out;
}

void PieceTrie::Insert(std::string_view piece, int32_t id) {
  if (piece.empty()) {
    return;
  }
  starts_[static_cast<unsigned char>(piece[0])] = true;
  uint32_t node = 0;
  for (const char c : piece) {
    const uint64_t edge = uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [next, added] = next_.try_emplace(edge, static_cast<uint32_t>(ids_.size()));
    if (added) {
      ids_.push_back(-1);
    }
    node = next->second;
  }
  if (ids_[node] < 0) {
    ids_[node] = id;
  }
}

PieceTrie::Match PieceTrie::LongestAt(std::string_view text, size_t at) const {
  Match best;
  if (!MayStartWith(text[at])) {
    return best;
  }
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto next = next_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (next == next_.end()) {
      break;
    }
    node = next->second;
    if (ids_[node] >= 0) {
      best = {ids_[node], i + 1 - at};
    }
  }
  return best;
}

absl::StatusOr<Vocabulary> Vocabulary::Create(std::vector<std::string> tokens, std::vector<TokenType> types,
                                              std::optional<int64_t> unknown_id) {
  if (tokens.empty() || tokens.size() != types.size()) {
    return absl::InvalidArgumentError(
        Concat("tokenizer: ", tokens.size(), " tokens and ", types.size(), " token types; wanted one type each"));
  }
  Vocabulary vocabulary;
  vocabulary.tokens_ = std::move(tokens);
  vocabulary.types_ = std::move(types);
  vocabulary.ids_.reserve(vocabulary.tokens_.size());
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary.token(id).empty()) {
      vocabulary.ids_.try_emplace(vocabulary.token(id), id);
    }
  }
  for (const SpecialToken& special : SpecialTokens()) {
    if (const int32_t id = vocabulary.Find(special.text); id >= 0) {
      vocabulary.types_[static_cast<size_t>(id)] = TokenType::kControl;
    }
  }
  if (unknown_id.has_value()) {
    if (*unknown_id < 0 || *unknown_id >= vocabulary.size()) {
      return absl::InvalidArgumentError(Concat("tokenizer: the unknown token's id is ", *unknown_id,
                                               ", the vocabulary has ", vocabulary.size(), " tokens"));
    }
    vocabulary.unknown_id_ = static_cast<int32_t>(*unknown_id);
    vocabulary.types_[static_cast<size_t>(*unknown_id)] = TokenType::kUnknown;
  }
  RETURN_IF_ERROR(vocabulary.CheckGemma4Ids());
  RETURN_IF_ERROR(vocabulary.IndexBytes());
  vocabulary.IndexWholePieces();
  return vocabulary;
}

absl::Status Vocabulary::CheckGemma4Ids() const {
  if (size() != kGemmaVocabulary || Find(kTurn) < 0) {
    return absl::OkStatus();
  }
  for (const SpecialToken& special : SpecialTokens()) {
    if (special.gemma4_id >= 0 && Find(special.text) != special.gemma4_id) {
      return absl::InvalidArgumentError(Concat("tokenizer: ", special.text, " has id ", Find(special.text),
                                               "; in Gemma 4's vocabulary it is ", special.gemma4_id));
    }
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::IndexBytes() {
  byte_ids_.fill(-1);
  int found = 0;
  for (int32_t id = 0; id < size(); ++id) {
    if (type(id) != TokenType::kByte) {
      continue;
    }
    const int byte = ByteOfPiece(token(id));
    if (byte < 0) {
      return absl::InvalidArgumentError(
          Concat("tokenizer: byte token ", id, " is spelled \"", token(id), "\", not <0xXX>"));
    }
    if (byte_ids_[static_cast<size_t>(byte)] < 0) {
      byte_ids_[static_cast<size_t>(byte)] = id;
      ++found;
    }
  }
  if (found != 256 && unknown_id_ < 0) {
    return absl::InvalidArgumentError(
        Concat("tokenizer: ", found, " of 256 byte tokens and no unknown token: some characters could not be encoded"));
  }
  return absl::OkStatus();
}

void Vocabulary::IndexWholePieces() {
  for (int32_t id = 0; id < size(); ++id) {
    const std::string& text = token(id);
    if (type(id) == TokenType::kUserDefined) {
      user_defined_.Insert(SpacesToMarks(text), id);
    } else if (IsControl(id)) {
      controls_.Insert(text, id);
    } else if (type(id) == TokenType::kNormal && text.find('\n') != std::string::npos &&
               text.find_first_not_of('\n') != std::string::npos) {
      newlines_stand_alone_ = false;
    }
  }
}

int32_t Vocabulary::Find(std::string_view text) const {
  const auto id = ids_.find(text);
  return id == ids_.end() ? -1 : id->second;
}

int32_t Vocabulary::FindNormal(std::string_view text) const {
  const int32_t id = Find(text);
  return id >= 0 && type(id) == TokenType::kNormal ? id : -1;
}

}  // namespace alphecca::text

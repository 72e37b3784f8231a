#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"
#include "text/concat.h"
#include "text/special_tokens.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

void SortUnique(std::vector<int32_t>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

// Slots that no training gave a meaning.
bool IsUnassigned(const Vocabulary& vocabulary, int32_t id) {
  const std::string& token = vocabulary.token(id);
  return token.empty() || vocabulary.type(id) == TokenType::kUnused ||
         (token.starts_with("<unused") && token.ends_with(">"));
}

std::string DecodedBytes(const Vocabulary& vocabulary, int32_t id) {
  const std::string& token = vocabulary.token(id);
  return vocabulary.type(id) == TokenType::kByte ? std::string(1, static_cast<char>(ByteOfPiece(token)))
                                                 : MarksToSpaces(token);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerData data) {
  if (!data.scores.empty() && data.scores.size() != data.tokens.size()) {
    return absl::InvalidArgumentError(
        Concat("tokenizer: ", data.scores.size(), " scores for ", data.tokens.size(), " tokens; wanted one each"));
  }
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer());
  ASSIGN_OR_RETURN(tokenizer->vocabulary_,
                   Vocabulary::Create(std::move(data.tokens), std::move(data.types), data.unknown_id));
  const Vocabulary& vocabulary = tokenizer->vocabulary_;
  if (!data.merges.empty() || data.scores.empty()) {
    tokenizer->bpe_ = Bpe::FromMerges(vocabulary, data.merges);
  } else {
    tokenizer->bpe_ = Bpe::FromScores(vocabulary, data.scores);
  }
  tokenizer->bytes_.reserve(static_cast<size_t>(vocabulary.size()));
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    tokenizer->bytes_.push_back(DecodedBytes(vocabulary, id));
  }
  RETURN_IF_ERROR(tokenizer->CollectSpecialIds(data));
  return tokenizer;
}

absl::Status Tokenizer::CollectSpecialIds(const TokenizerData& data) {
  // Configurations are shared between models: ids past this vocabulary are passed over, since they cannot occur.
  const auto add = [this](std::string_view what, const std::vector<int64_t>& from, std::vector<int32_t>& to) {
    for (const int64_t id : from) {
      if (id < 0) {
        return absl::InvalidArgumentError(Concat("tokenizer: ", what, " id ", id, " is negative"));
      }
      if (InRange(id)) {
        to.push_back(static_cast<int32_t>(id));
      }
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(add("end-of-generation", data.end_ids, end_ids_));
  RETURN_IF_ERROR(add("suppressed", data.suppress_ids, suppress_ids_));
  bos_ = ControlId(kBos);
  if (data.bos_id.has_value()) {
    if (!InRange(*data.bos_id)) {
      return absl::InvalidArgumentError(
          Concat("tokenizer: the BOS id is ", *data.bos_id, ", the vocabulary has ", size(), " tokens"));
    }
    bos_ = static_cast<int32_t>(*data.bos_id);
  }
  for (const SpecialToken& special : SpecialTokens()) {
    if (const std::optional<int32_t> id = ControlId(special.text)) {
      if (special.ends) {
        end_ids_.push_back(*id);
      }
      if (special.suppress) {
        suppress_ids_.push_back(*id);
      }
    }
  }
  for (int32_t id = 0; id < size(); ++id) {
    if (IsUnassigned(vocabulary_, id)) {
      suppress_ids_.push_back(id);
    }
  }
  SortUnique(end_ids_);
  SortUnique(suppress_ids_);
  return absl::OkStatus();
}

std::optional<int32_t> Tokenizer::ControlId(std::string_view text) const {
  const int32_t id = vocabulary_.Find(text);
  return id >= 0 && vocabulary_.IsControl(id) ? std::optional(id) : std::nullopt;
}

bool Tokenizer::HasGemma4Turns() const {
  return ControlId(kTurn).has_value() && ControlId(kTurnEnd).has_value();
}

bool Tokenizer::HasGemma3Turns() const {
  return ControlId(kGemma3Turn).has_value() && ControlId(kGemma3TurnEnd).has_value();
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::span<const Piece> pieces) const {
  std::vector<int32_t> ids;
  for (const Piece& piece : pieces) {
    if (!piece.control) {
      const std::vector<int32_t> more = EncodeText(piece.text);
      ids.insert(ids.end(), more.begin(), more.end());
      continue;
    }
    const std::optional<int32_t> id = ControlId(piece.text);
    if (!id.has_value()) {
      return absl::FailedPreconditionError(
          Concat("the model's vocabulary has no control token ", piece.text, ", which this request needs"));
    }
    ids.push_back(*id);
  }
  return ids;
}

std::vector<int32_t> Tokenizer::EncodeText(std::string_view text, ControlText control) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = ReplaceIllFormed(text);
    text = repaired;
  }
  std::vector<int32_t> ids;
  const auto encode = [&](std::string_view plain) {
    if (!plain.empty()) {
      bpe_.Encode(vocabulary_, SpacesToMarks(plain), ids);
    }
  };
  if (control == ControlText::kPlain) {
    encode(text);
    return ids;
  }
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const PieceTrie::Match match = vocabulary_.controls().LongestAt(text, at);
    if (match.length == 0) {
      ++at;
      continue;
    }
    encode(text.substr(begin, at - begin));
    ids.push_back(match.id);
    at += match.length;
    begin = at;
  }
  encode(text.substr(begin));
  return ids;
}

std::string_view Tokenizer::Bytes(int32_t id, ShowControl show) const {
  if (IsControl(id) && show == ShowControl::kHide) {
    return {};
  }
  return bytes_[static_cast<size_t>(id)];
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids, ShowControl show) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!InRange(id)) {
      return absl::InvalidArgumentError(Concat("token id ", id, " is not in [0, ", size(), ")"));
    }
    bytes += Bytes(id, show);
  }
  return ReplaceIllFormed(bytes);
}

void Tokenizer::PrependBos(std::vector<int32_t>& ids) const {
  if (bos_.has_value() && (ids.empty() || ids.front() != *bos_)) {
    ids.insert(ids.begin(), *bos_);
  }
}

}  // namespace alphecca::text

// The Gemma tokenizer: BPE over Unicode characters with byte fallback, from a Hugging Face directory (tokenizer.json)
// or a GGUF file. Rules: spec gemma4-text-format, section 1.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "text/bpe.h"
#include "text/pieces.h"
#include "text/tokenizer_data.h"
#include "text/vocabulary.h"

namespace alphecca::text {

// Whether the spelling of a control token in a text stands for the token: only ever for text that is trusted.
enum class ControlText { kPlain, kParse };
// Whether decoding shows control tokens by their spelling.
enum class ShowControl { kHide, kShow };

// Thread rule: immutable after creation, any number of threads.
class Tokenizer {
 public:
  // A model directory or a .gguf file. NotFound without the file; InvalidArgument if it is wrong, naming what.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Open(const std::string& path);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerData data);

  // Ids are in [0, size()). A model's logits may have more rows: those have no token.
  int32_t size() const { return vocabulary_.size(); }

  // FailedPrecondition if a control piece is no control token of this vocabulary. No BOS is added.
  absl::StatusOr<std::vector<int32_t>> Encode(std::span<const Piece> pieces) const;
  // Ill-formed UTF-8 is replaced first. No BOS is added.
  std::vector<int32_t> EncodeText(std::string_view text, ControlText control = ControlText::kPlain) const;
  // InvalidArgument for an id out of range.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, ShowControl show = ShowControl::kHide) const;

  // What one token adds to the output: bytes, not always whole characters. Empty for a hidden control token.
  // `id` must be in range.
  std::string_view Bytes(int32_t id, ShowControl show = ShowControl::kHide) const;
  bool InRange(int64_t id) const { return id >= 0 && id < size(); }
  bool IsControl(int32_t id) const { return vocabulary_.IsControl(id); }
  TokenType Type(int32_t id) const { return vocabulary_.type(id); }
  // A token's spelling in the file.
  std::string_view Spelling(int32_t id) const { return vocabulary_.token(id); }
  // The id of a control token; none if this vocabulary has no such control token.
  std::optional<int32_t> ControlId(std::string_view text) const;

  // Put before the ids of a raw completion unless they begin with it. Gemma is lost without it, so it is added also
  // where a file denies it (add_bos_token is false in some, since the chat template writes it). A rendered chat has it
  // already.
  std::optional<int32_t> bos() const { return bos_; }
  void PrependBos(std::vector<int32_t>& ids) const;
  // End-of-generation ids, ascending.
  const std::vector<int32_t>& end_ids() const { return end_ids_; }
  // Ids never to sample (padding, BOS, media, unassigned slots, what the file suppresses), ascending.
  const std::vector<int32_t>& suppress_ids() const { return suppress_ids_; }
  // Has the turn tokens of Gemma 4, or of Gemma 3.
  bool HasGemma4Turns() const;
  bool HasGemma3Turns() const;

 private:
  Tokenizer() = default;
  absl::Status CollectSpecialIds(const TokenizerData& data);

  Vocabulary vocabulary_;
  Bpe bpe_;
  std::vector<std::string> bytes_;  // by id: what decoding yields
  std::optional<int32_t> bos_;
  std::vector<int32_t> end_ids_;
  std::vector<int32_t> suppress_ids_;
};

}  // namespace alphecca::text

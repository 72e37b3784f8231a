// Byte-pair merging: which neighbouring pieces join, in which order. Pairs are looked up by ids, never by strings.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "text/vocabulary.h"

namespace alphecca::text {

// Immutable after creation.
class Bpe {
 public:
  // Ranks are the merges' places. A merge of pieces that the vocabulary lacks, or whose result is no normal piece, is
  // left out.
  static Bpe FromMerges(const Vocabulary& vocabulary, std::span<const TokenizerData::Merge> merges);
  // For files without merges: any two normal pieces that make a third may join, the highest score of the result first.
  // `scores` [size of the vocabulary].
  static Bpe FromScores(const Vocabulary& vocabulary, std::span<const float> scores);

  // Appends the ids of `text`, which is valid UTF-8 of less than 2 GiB with U+2581 for spaces. O(n log n).
  void Encode(const Vocabulary& vocabulary, std::string_view text, std::vector<int32_t>& ids) const;

  size_t pairs() const { return pairs_.size(); }

 private:
  struct Join {
    uint32_t rank;
    int32_t id;  // of the joined piece
  };
  struct Symbol;
  struct Candidate;
  class Merger;

  void Add(int32_t left, int32_t right, Join join);
  const Join* Find(int32_t left, int32_t right) const;
  std::vector<Symbol> Cut(const Vocabulary& vocabulary, std::string_view text) const;

  absl::flat_hash_map<uint64_t, Join> pairs_;  // left << 32 | right
  bool whole_newline_runs_ = false;
};

}  // namespace alphecca::text

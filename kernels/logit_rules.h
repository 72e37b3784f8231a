// What changes the logits of a sequence before a token is chosen: penalties on tokens that it has already, biases,
// tokens that it must not choose.
//
//   l = l > 0 ? l / repetition : l * repetition     of a token of the prompt or of the answer so far
//   l -= presence + frequency * count               of a token that occurs `count` > 0 times in the answer so far
//   l += bias
//   l = -inf                                        of a token that is suppressed, or absent from a row's mask
//
// All in F32 and in this order. A token that nothing names keeps its logit, so rules are sparse: their memory and time
// grow with the tokens named (at most those of the context, the biases and the ranges), not with the vocabulary.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"

namespace alphecca::kernels {

inline constexpr float kMinRepetitionPenalty = 0.1F;
inline constexpr float kMaxRepetitionPenalty = 10.0F;
inline constexpr float kMaxCountPenalty = 2.0F;  // of presence and frequency, either sign
inline constexpr float kMaxBias = 100.0F;        // either sign
inline constexpr size_t kMaxBiases = 1024;

struct TokenBias {
  int32_t token = 0;
  float bias = 0.0F;
};

// Tokens begin <= token < end.
struct TokenRange {
  int32_t begin = 0;
  int32_t end = 0;
};

// How often a sequence has a token.
struct TokenCount {
  int32_t token = 0;
  int32_t answer = 0;   // times in the answer
  bool prompt = false;  // whether it is in the prompt
};

// What a slot is opened with.
struct LogitRules {
  float repetition_penalty = 1.0F;     // 1: off
  float presence_penalty = 0.0F;       // 0: off
  float frequency_penalty = 0.0F;      // 0: off
  std::vector<TokenBias> bias;         // by token, each once
  std::vector<TokenRange> suppressed;  // rising; no two touch
  std::vector<TokenCount> history;     // by token, each once: what the sequence has; only where something is penalised

  bool Penalises() const { return repetition_penalty != 1.0F || presence_penalty != 0.0F || frequency_penalty != 0.0F; }
  bool Empty() const { return !Penalises() && bias.empty() && suppressed.empty(); }
};

// The history of a sequence whose last `answer` tokens were generated, the others given.
std::vector<TokenCount> CountTokens(std::span<const int32_t> tokens, int64_t answer);
// The ranges that hold exactly these ids, which are sorted.
std::vector<TokenRange> RangesOf(std::span<const int32_t> sorted);

// InvalidArgument names the value that is out of its range or out of order, and what would be right. No rules may
// suppress the whole vocabulary.
absl::Status CheckLogitRules(const LogitRules& rules, int64_t vocab);

// Words of a mask: bit t % 32 of word t / 32 is set if token t may be chosen.
constexpr int64_t MaskWords(int64_t vocab) {
  return (vocab + 31) / 32;
}

// The rules of one slot at work in host memory; what a device keeps in a layout of its own.
class SlotRules {
 public:
  // A token that has something of its own.
  struct Entry {
    int32_t token = 0;
    float bias = 0.0F;
    int32_t answer = 0;
    bool prompt = false;
  };

  SlotRules() = default;  // nothing changes
  // `rules` passed CheckLogitRules.
  explicit SlotRules(const LogitRules& rules);

  // The answer has grown by this token.
  void Count(int32_t token);

  // Penalties and bias; suppression apart.
  float Adjusted(const Entry& entry, float logit) const;
  // All of it: -inf if the token is suppressed.
  float Adjusted(int32_t token, float logit) const;

  // Those in [begin, end), by token.
  std::span<const Entry> Entries(int64_t begin, int64_t end) const;
  std::span<const TokenRange> suppressed() const { return suppressed_; }
  bool empty() const { return !penalises_ && entries_.empty() && suppressed_.empty(); }

 private:
  std::vector<Entry>::iterator Find(int32_t token);

  float repetition_ = 1.0F;
  float presence_ = 0.0F;
  float frequency_ = 0.0F;
  bool penalises_ = false;
  std::vector<Entry> entries_;  // by token
  std::vector<TokenRange> suppressed_;
};

// What changes the logits of one row.
struct Adjustment {
  const SlotRules* rules = nullptr;     // null: none
  std::span<const uint32_t> mask = {};  // of the whole vocabulary; empty: none

  bool Any() const { return rules != nullptr || !mask.empty(); }
  // -inf: must not be chosen.
  float Adjusted(int32_t token, float logit) const;
};

}  // namespace alphecca::kernels

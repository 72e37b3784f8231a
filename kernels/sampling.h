// Sampling by Gumbel-max with a counter-based generator, split so that only candidates travel between ranks.
//
// For one row: l are the logits over the vocabulary after penalties, biases and masks (kernels/logit_rules.h); the kept
// set is what top-k, then top-p, then min-p leave of softmax(l / T); token = argmax over the kept set of l / T + g,
// g = -ln(-ln u), u from Philox4x32-10 with key = seed, counter = (position, sample, token / 4, 0), lane = token mod 4.
// T = 0: argmax of l, lowest id on a tie.
//
// Log-probabilities that are reported, of chosen, likeliest and wanted tokens, are the model's own: of the raw logits,
// before all of this.
//
// Filters act within the kMaxCandidates most likely tokens; the probabilities that top-p sums are normalised over
// the whole vocabulary. Without filters the choice is exact over the whole vocabulary. So the result is the same
// for every number of ranks.
//
// A NaN logit counts as -inf, a token of -inf is never chosen; where no token is left the choice is -1.
//
// One rank reduces its slice of the vocabulary to a record: the `count` largest logits (falling, lowest id first on a
// tie), the log-sum-exp of the raw logits and of l / T, the best perturbed token of the slice, and the logit of a
// wanted token. Records hold raw logits; since every rank knows the rules of every slot, who merges records adjusts
// them again. Where a row is adjusted and reports its likeliest tokens, the last `top_logprobs` of the `count` are
// those, by raw logit.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/logit_rules.h"

namespace alphecca::kernels {

inline constexpr int kMaxCandidates = 1024;
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr int kMaxRecordCandidates = kMaxCandidates + kMaxTopLogprobs;  // `count` of a record at most

// How one row is sampled. A value of a step: parameters that last a sequence are repeated in each.
struct SamplingRow {
  uint64_t seed = 0;
  int32_t slot = 0;
  int32_t position = 0;      // of the token to be sampled
  int32_t sample = 0;        // index among the n samples of a request
  float temperature = 0.0F;  // >= 0; 0: greedy
  int32_t top_k = 0;         // 0: off; at most kMaxCandidates
  float top_p = 1.0F;        // (0, 1]
  float min_p = 0.0F;        // [0, 1]
  int32_t top_logprobs = 0;  // how many alternatives to report, at most kMaxTopLogprobs
  int32_t wanted = -1;       // token whose log-probability is asked (prompt log-probabilities), or -1
  int32_t keep = 1;          // 0: report only, what the slot sampled last stays as it is
  int32_t rules = 0;         // 1: the slot's LogitRules act, and count the token that is kept
  int32_t mask = -1;         // row of StepInput.masks with the tokens that may be chosen, or -1: all
};

struct Candidate {
  int32_t token = -1;
  float logit = 0.0F;
};

// The head of a rank's record of one row; `count` Candidates follow (token -1 where the slice is smaller).
struct CandidateHead {
  float max = 0.0F;         // largest raw logit of the slice
  float sum = 0.0F;         // sum of exp(raw - max)
  float max_scaled = 0.0F;  // largest l of the slice; max where the row is not adjusted
  float sum_scaled = 0.0F;  // sum of exp((l - max_scaled) / T); unused at T = 0
  float best_score = 0.0F;  // largest l / T + g of the slice, and its token and raw logit: the unfiltered choice; of l
                            // where the row is greedy or filtered. -inf and -1: the slice offers no token
  int32_t best_token = -1;
  float best_logit = 0.0F;
  float wanted_logit = 0.0F;  // raw, if the wanted token lies in the slice, else -inf
};

// What is chosen for one row; `count` Candidates follow: the most likely tokens, `logit` holding log-probability.
struct Choice {
  int32_t token = -1;
  float logprob = 0.0F;  // natural log, of softmax(raw logits)
  float wanted_logprob = 0.0F;
  int32_t listed = 0;  // how many Candidates follow that are valid
};

constexpr int64_t CandidateRecordBytes(int count) {
  return static_cast<int64_t>(sizeof(CandidateHead)) + static_cast<int64_t>(count) * sizeof(Candidate);
}
constexpr int64_t ChoiceBytes(int count) {
  return static_cast<int64_t>(sizeof(Choice)) + static_cast<int64_t>(count) * sizeof(Candidate);
}

// Below it, 1 / T would lift logits out of the range of F32: such rows are greedy.
inline constexpr float kMinTemperature = 1e-6F;
inline bool IsGreedy(const SamplingRow& row) {
  return row.temperature < kMinTemperature;
}
// Whether top-k, top-p or min-p act on the row; they cannot change a greedy one.
inline bool IsFiltered(const SamplingRow& row) {
  return !IsGreedy(row) && (row.top_k > 0 || row.top_p < 1.0F || row.min_p > 0.0F);
}

// Whether the slot's rules or a mask act on the row.
inline bool IsAdjusted(const SamplingRow& row) {
  return row.rules != 0 || row.mask >= 0;
}
// How many candidates at the end of a record are what the row reports; 0: those it chooses from serve.
inline int ReportedApart(const SamplingRow& row) {
  return IsAdjusted(row) ? row.top_logprobs : 0;
}

// Candidates a row needs to choose from: 1 if greedy or unfiltered, top_k, or kMaxCandidates for top-p or min-p alone;
// at least top_logprobs, unless they are reported apart.
int CandidateCount(const SamplingRow& row);
// The count of a step: the largest of its rows, rounded up to a power of two, and what rows report apart. At most
// kMaxRecordCandidates.
int CandidateCount(std::span<const SamplingRow> rows);

// The Gumbel noise g of one token. Never above kMaxGumbelNoise, so a token whose l / T plus that falls short of the
// best score needs none.
inline constexpr float kMaxGumbelNoise = 16.7F;
float GumbelNoise(uint64_t seed, uint32_t position, uint32_t sample, uint32_t token);

// The obvious forms, used by ref/ and by tests; other backends must agree with them. `adjustment` has something to say
// if and only if IsAdjusted(row).
// record: CandidateRecordBytes(count) bytes.
void ReduceCandidates(const SamplingRow& row, const Adjustment& adjustment, std::span<const float> logits,
                      int64_t first_token, int count, void* record);
// records: `ranks` pointers, in rank order. choice: ChoiceBytes(count) bytes.
void ChooseToken(const SamplingRow& row, const Adjustment& adjustment, std::span<const void* const> records, int count,
                 void* choice);

}  // namespace alphecca::kernels

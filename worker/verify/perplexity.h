// How well a model predicts a text: the average negative log-likelihood of its tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "worker/verify/rank_group.h"

namespace alphecca::verify {

struct PerplexityResult {
  int64_t tokens = 0;  // that were predicted
  int64_t windows = 0;
  double nll = 0.0;               // sum of -ln p over them
  model::ExpertRows expert_rows;  // rows that chose each expert; empty without experts
  double mean() const { return tokens == 0 ? 0.0 : nll / static_cast<double>(tokens); }
  double perplexity() const;  // exp(mean)
};

// The text's tokens (without BOS) in windows that do not overlap: each is `bos` and the next options.context - 1
// tokens, of which every one is predicted from those before it in its window. The last window may be shorter.
// `progress` (may be null): tokens so far. InvalidArgument: no tokens, one beyond the vocabulary, a context below 2 or
// beyond the model's.
absl::StatusOr<PerplexityResult> MeasurePerplexity(const model::Checkpoint& checkpoint, std::span<const int32_t> tokens,
                                                   int32_t bos, const GroupOptions& options,
                                                   const std::function<void(int64_t tokens)>& progress);

}  // namespace alphecca::verify

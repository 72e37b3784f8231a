#include "worker/verify/perplexity.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/status_macros.h"

namespace alphecca::verify {
namespace {

// -ln of the softmax of a row at `token`.
double NegativeLogLikelihood(std::span<const float> logits, int32_t token) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) {
    sum += std::exp(static_cast<double>(logit) - max);
  }
  return max + std::log(sum) - static_cast<double>(logits[static_cast<size_t>(token)]);
}

// One window: `row` t is read at position t and predicts row t + 1.
absl::Status AddWindow(RankGroup& group, std::span<const int32_t> window, int64_t step_rows, PerplexityResult& result) {
  const auto predicting = static_cast<int64_t>(window.size()) - 1;
  for (int64_t begin = 0; begin < predicting; begin += step_rows) {
    const int64_t end = std::min(begin + step_rows, predicting);
    GroupStep step;
    for (int64_t t = begin; t < end; ++t) {
      step.Add(window[static_cast<size_t>(t)], static_cast<int32_t>(t), true);
    }
    ASSIGN_OR_RETURN(const GroupResult rows, group.Run(step));
    for (int64_t t = begin; t < end; ++t) {
      result.nll += NegativeLogLikelihood(rows.logit_row(t - begin), window[static_cast<size_t>(t + 1)]);
      ++result.tokens;
    }
  }
  ++result.windows;
  return absl::OkStatus();
}

absl::Status Check(const model::ModelConfig& config, std::span<const int32_t> tokens, int32_t bos,
                   const GroupOptions& options) {
  if (options.context < 2 || options.context > config.context) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a context of %d tokens: 2 to the model's %d", options.context, config.context));
  }
  if (tokens.empty()) {
    return absl::InvalidArgumentError("the text has no tokens");
  }
  const auto outside = [&](int32_t id) { return id < 0 || id >= config.vocab; };
  if (outside(bos) || std::any_of(tokens.begin(), tokens.end(), outside)) {
    return absl::InvalidArgumentError(absl::StrFormat("a token beyond the model's vocabulary of %d", config.vocab));
  }
  return absl::OkStatus();
}

}  // namespace

double PerplexityResult::perplexity() const {
  return std::exp(mean());
}

absl::StatusOr<PerplexityResult> MeasurePerplexity(const model::Checkpoint& checkpoint, std::span<const int32_t> tokens,
                                                   int32_t bos, const GroupOptions& options,
                                                   const std::function<void(int64_t)>& progress) {
  RETURN_IF_ERROR(Check(checkpoint.config(), tokens, bos, options));
  ASSIGN_OR_RETURN(const std::unique_ptr<RankGroup> group, RankGroup::Create(checkpoint, options));
  const int64_t step_rows = std::min(options.max_rows, options.max_logit_rows);
  PerplexityResult result;
  while (!tokens.empty()) {
    const size_t taken = std::min(tokens.size(), static_cast<size_t>(options.context - 1));
    std::vector<int32_t> window = {bos};
    window.insert(window.end(), tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(taken));
    tokens = tokens.subspan(taken);
    RETURN_IF_ERROR(AddWindow(*group, window, step_rows, result));
    if (progress) {
      progress(result.tokens);
    }
  }
  ASSIGN_OR_RETURN(result.expert_rows, group->ReadExpertRows());
  return result;
}

}  // namespace alphecca::verify

#include "worker/verify/prompt_runner.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/status_macros.h"

namespace alphecca::verify {
namespace {

// Keeps what the probe sees, rows of successive steps one under another.
class Recorder {
 public:
  Recorder() {
    probe_.on_rows = [this](const char* name, int layer, std::span<const float> values, int64_t, int64_t cols) {
      RowLog& log = log_[{name, layer}];
      log.cols = cols;
      log.values.insert(log.values.end(), values.begin(), values.end());
    };
  }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  const forward::Probe* probe() const { return &probe_; }
  ProbeLog Take() { return std::exchange(log_, {}); }

 private:
  forward::Probe probe_;
  ProbeLog log_;
};

// The relative gap between the k-th and the next probability of a softmax over the logits.
double RouterGap(std::span<const float> logits, int k) {
  std::vector<float> sorted(logits.begin(), logits.end());
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  if (k >= static_cast<int>(sorted.size())) {
    return HUGE_VAL;
  }
  // (p_k - p_next) / p_k: the normaliser cancels.
  return 1.0 - std::exp(static_cast<double>(sorted[static_cast<size_t>(k)]) -
                        static_cast<double>(sorted[static_cast<size_t>(k) - 1]));
}

double SmallestRouterGap(const ProbeLog& log, int k) {
  double smallest = HUGE_VAL;
  for (const auto& [key, rows] : log) {
    for (int64_t r = 0; key.first == "router_logits" && r < rows.rows(); ++r) {
      const auto row =
          std::span(rows.values).subspan(static_cast<size_t>(r * rows.cols), static_cast<size_t>(rows.cols));
      smallest = std::min(smallest, RouterGap(row, k));
    }
  }
  return smallest;
}

// Runs one prompt and its continuation, one token a step.
class PromptRunner {
 public:
  PromptRunner(RankGroup& group, const model::ModelConfig& config, int64_t step_rows, Continue mode)
      : group_(group), config_(config), step_rows_(step_rows), mode_(mode) {}

  absl::StatusOr<PromptRun> Run(const GoldenPrompt& prompt) {
    PromptRun run;
    run.vocab = config_.vocab;
    Recorder recorder;
    group_.set_probe(recorder.probe());
    absl::Status status = Prefill(prompt, run);
    if (status.ok()) {
      run.probe = recorder.Take();
      run.router_gaps.push_back(SmallestRouterGap(run.probe, config_.experts_per_token));
      // Hidden rows are wanted of the prompt alone; routers are watched to the end.
      group_.set_probe(config_.experts > 0 ? recorder.probe() : nullptr);
      status = Decode(prompt, recorder, run);
    }
    group_.set_probe(nullptr);
    RETURN_IF_ERROR(status);
    return run;
  }

 private:
  absl::Status Prefill(const GoldenPrompt& prompt, PromptRun& run) {
    const auto length = static_cast<int64_t>(prompt.input_ids.size());
    const bool all_rows = prompt.Find("logits") != nullptr;
    for (int64_t begin = 0; begin < length; begin += step_rows_) {
      GroupStep step;
      for (int64_t p = begin; p < std::min(begin + step_rows_, length); ++p) {
        step.Add(prompt.input_ids[static_cast<size_t>(p)], static_cast<int32_t>(p), all_rows || p + 1 == length);
      }
      ASSIGN_OR_RETURN(const GroupResult result, group_.Run(step));
      run.prompt_logits.insert(run.prompt_logits.end(), result.logits.begin(), result.logits.end());
      if (begin + step_rows_ >= length) {
        RETURN_IF_ERROR(Take(result, run));
        run.final_norm.assign(result.hidden.end() - config_.hidden, result.hidden.end());
      }
    }
    return absl::OkStatus();
  }

  absl::Status Decode(const GoldenPrompt& prompt, Recorder& recorder, PromptRun& run) {
    auto position = static_cast<int32_t>(prompt.input_ids.size());
    for (size_t s = 0; s + 1 < prompt.greedy_ids.size(); ++s, ++position) {
      GroupStep step;
      step.Add(mode_ == Continue::kFreely ? run.ids.back() : prompt.greedy_ids[s], position, true);
      ASSIGN_OR_RETURN(const GroupResult result, group_.Run(step));
      RETURN_IF_ERROR(Take(result, run));
      run.router_gaps.push_back(SmallestRouterGap(recorder.Take(), config_.experts_per_token));
    }
    return absl::OkStatus();
  }

  // The last row of a step: its logits and the token that the sampler chose from them.
  absl::Status Take(const GroupResult& result, PromptRun& run) {
    const std::span<const float> row = result.logit_row(static_cast<int64_t>(result.choices.size()) - 1);
    const int32_t token = result.choices.back().token;
    const auto best = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
    if (token != best) {
      return absl::InternalError(
          absl::StrFormat("the sampler chose token %d, the largest logit is that of %d", token, best));
    }
    run.step_logits.insert(run.step_logits.end(), row.begin(), row.end());
    run.ids.push_back(token);
    return absl::OkStatus();
  }

  RankGroup& group_;
  const model::ModelConfig& config_;
  const int64_t step_rows_;
  const Continue mode_;
};

}  // namespace

int64_t LongestSequence(const GoldenCase& golden) {
  size_t longest = 1;
  for (const GoldenPrompt& prompt : golden.prompts) {
    longest = std::max(longest, prompt.input_ids.size() + prompt.greedy_ids.size());
  }
  return static_cast<int64_t>(longest);
}

absl::StatusOr<std::vector<PromptRun>> RunPrompts(const model::Checkpoint& checkpoint, const GoldenCase& golden,
                                                  const GroupOptions& options, Continue mode) {
  ASSIGN_OR_RETURN(const std::unique_ptr<RankGroup> group, RankGroup::Create(checkpoint, options));
  std::vector<PromptRun> runs;
  for (const GoldenPrompt& prompt : golden.prompts) {
    PromptRunner runner(*group, checkpoint.config(), options.max_rows, mode);
    ASSIGN_OR_RETURN(PromptRun run, runner.Run(prompt));
    runs.push_back(std::move(run));
  }
  return runs;
}

}  // namespace alphecca::verify

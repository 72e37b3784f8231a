#include "worker/verify/prompt_runner.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
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

// Runs one prompt and its continuation, one token a step, on every owner of sequences, which has it in slot `owner`.
class PromptRunner {
 public:
  PromptRunner(RankGroup& group, const model::ModelConfig& config, int64_t step_rows, Continue mode)
      : group_(group),
        config_(config),
        step_rows_(step_rows),
        mode_(mode),
        runs_(static_cast<size_t>(group.plan().owners())),
        recorders_(runs_.size()) {}

  absl::StatusOr<std::vector<PromptRun>> Run(const GoldenPrompt& prompt) {
    Watch(true);
    absl::Status status = Prefill(prompt);
    if (status.ok()) {
      for (size_t owner = 0; owner < runs_.size(); ++owner) {
        PromptRun& run = runs_[owner];
        run.probe = recorders_[owner].Take();
        run.router_gaps.push_back(SmallestRouterGap(run.probe, config_.experts_per_token));
      }
      // Hidden rows are wanted of the prompt alone; routers are watched to the end.
      Watch(config_.experts > 0);
      status = Decode(prompt);
    }
    Watch(false);
    RETURN_IF_ERROR(status);
    return std::move(runs_);
  }

 private:
  void Watch(bool on) {
    for (size_t owner = 0; owner < recorders_.size(); ++owner) {
      group_.set_probe(static_cast<int>(owner), on ? recorders_[owner].probe() : nullptr);
    }
  }

  absl::Status Prefill(const GoldenPrompt& prompt) {
    const auto length = static_cast<int64_t>(prompt.input_ids.size());
    const bool all_rows = prompt.Find("logits") != nullptr;
    for (int64_t begin = 0; begin < length; begin += step_rows_) {
      const int64_t end = std::min(begin + step_rows_, length);
      GroupStep step;
      for (size_t owner = 0; owner < runs_.size(); ++owner) {
        for (int64_t p = begin; p < end; ++p) {
          step.Add(prompt.input_ids[static_cast<size_t>(p)], static_cast<int32_t>(p), all_rows || p + 1 == length,
                   static_cast<int32_t>(owner));
        }
      }
      ASSIGN_OR_RETURN(const GroupResult result, group_.Run(step));
      for (size_t owner = 0; owner < runs_.size(); ++owner) {
        const GroupResult own = OwnersPart(result, owner);
        PromptRun& run = runs_[owner];
        run.prompt_logits.insert(run.prompt_logits.end(), own.logits.begin(), own.logits.end());
        if (end == length) {
          RETURN_IF_ERROR(Take(own, run));
          run.final_norm.assign(own.hidden.end() - config_.hidden, own.hidden.end());
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Decode(const GoldenPrompt& prompt) {
    auto position = static_cast<int32_t>(prompt.input_ids.size());
    for (size_t s = 0; s + 1 < prompt.greedy_ids.size(); ++s, ++position) {
      GroupStep step;
      for (size_t owner = 0; owner < runs_.size(); ++owner) {
        step.Add(mode_ == Continue::kFreely ? runs_[owner].ids.back() : prompt.greedy_ids[s], position, true,
                 static_cast<int32_t>(owner));
      }
      ASSIGN_OR_RETURN(const GroupResult result, group_.Run(step));
      for (size_t owner = 0; owner < runs_.size(); ++owner) {
        RETURN_IF_ERROR(Take(OwnersPart(result, owner), runs_[owner]));
        runs_[owner].router_gaps.push_back(SmallestRouterGap(recorders_[owner].Take(), config_.experts_per_token));
      }
    }
    return absl::OkStatus();
  }

  // Of a step with as many logit rows of each owner, one owner after another.
  GroupResult OwnersPart(const GroupResult& all, size_t owner) const {
    const size_t rows = all.choices.size() / runs_.size();
    const auto part = [&](const auto& values, size_t cols) {
      const auto first = values.begin() + static_cast<std::ptrdiff_t>(owner * rows * cols);
      return std::vector(first, first + static_cast<std::ptrdiff_t>(rows * cols));
    };
    return {.vocab = all.vocab,
            .logits = part(all.logits, static_cast<size_t>(all.vocab)),
            .hidden = part(all.hidden, static_cast<size_t>(config_.hidden)),
            .choices = part(all.choices, 1)};
  }

  // The last row of a step: its logits and the token that the sampler chose from them.
  static absl::Status Take(const GroupResult& result, PromptRun& run) {
    run.vocab = result.vocab;
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
  std::vector<PromptRun> runs_;      // by owner
  std::vector<Recorder> recorders_;  // likewise
};

}  // namespace

int64_t LongestSequence(const GoldenCase& golden) {
  size_t longest = 1;
  for (const GoldenPrompt& prompt : golden.prompts) {
    longest = std::max(longest, prompt.input_ids.size() + prompt.greedy_ids.size());
  }
  return static_cast<int64_t>(longest);
}

absl::StatusOr<std::vector<std::vector<PromptRun>>> RunPrompts(const model::Checkpoint& checkpoint,
                                                               const GoldenCase& golden, const GroupOptions& options,
                                                               Continue mode) {
  GroupOptions of_all = options;
  if (options.sharding.mode == model::ExpertMode::kWide) {
    of_all.slots = options.sharding.ep;
    of_all.max_rows *= of_all.slots;
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<RankGroup> group, RankGroup::Create(checkpoint, of_all));
  std::vector<std::vector<PromptRun>> runs(static_cast<size_t>(group->plan().owners()));
  for (const GoldenPrompt& prompt : golden.prompts) {
    PromptRunner runner(*group, checkpoint.config(), options.max_rows, mode);
    ASSIGN_OR_RETURN(std::vector<PromptRun> of_owners, runner.Run(prompt));
    for (size_t owner = 0; owner < runs.size(); ++owner) {
      runs[owner].push_back(std::move(of_owners[owner]));
    }
  }
  return runs;
}

}  // namespace alphecca::verify

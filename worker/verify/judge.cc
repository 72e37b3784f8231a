#include "worker/verify/judge.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace alphecca::verify {
namespace {

using Values = std::span<const float>;

// The reference's own noise is up to 4.4e-5 in logits and 1.5e-6 relative; on long prompts the rounding of the rotary
// angles shows.
constexpr double kF32MaxAbs = 5e-4;
constexpr double kF32Relative = 1e-5;
constexpr double kF32RelativeLong = 2e-5;
// A branch's output is judged as a part of the residual that it is added to: its own relative error may be larger.
constexpr double kBranchFactor = 4.0;
// Over the measured error of a known implementation.
constexpr double kRelativeFactor = 1.5;
constexpr double kMaxAbsFactor = 2.0;
// Below this relative gap a rounding error may flip an expert.
constexpr double kRouterGap = 1e-2;
// The peer's error on GGUF was measured over this many steps of each prompt.
constexpr int64_t kPeerSteps = 8;

// Sums that relative RMS errors are made of; they pool.
struct Difference {
  double error2 = 0.0;
  double norm2 = 0.0;
  double max_abs = 0.0;

  double relative() const { return std::sqrt(error2) / std::max(std::sqrt(norm2), 1e-30); }
  void operator+=(const Difference& other) {
    error2 += other.error2;
    norm2 += other.norm2;
    max_abs = std::max(max_abs, other.max_abs);
  }
};

// A NaN anywhere makes every figure NaN, which no limit admits: see Within.
Difference Compare(Values got, Values want) {
  Difference d;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    d.error2 += error * error;
    d.norm2 += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    d.max_abs = std::isnan(error) ? error : std::max(d.max_abs, std::abs(error));
  }
  return d;
}

bool Within(double value, double limit) {
  return value <= limit;
}

std::vector<float> LogProbabilities(Values logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) {
    sum += std::exp(static_cast<double>(logit) - max);
  }
  const double log_sum = max + std::log(sum);
  std::vector<float> out;
  for (const float logit : logits) {
    out.push_back(static_cast<float>(static_cast<double>(logit) - log_sum));
  }
  return out;
}

double Median(std::vector<double> values) {
  if (values.empty()) {
    return 0.0;
  }
  if (std::any_of(values.begin(), values.end(), [](double v) { return std::isnan(v); })) {
    return NAN;
  }
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Values Row(const std::vector<float>& values, int64_t row, int64_t cols) {
  return Values(values).subspan(static_cast<size_t>(row * cols), static_cast<size_t>(cols));
}

void Raise(std::optional<double>& to, double value) {
  to = to.has_value() && !std::isnan(value) ? std::max(*to, value) : value;
}

class Judging {
 public:
  Judging(const GoldenCase& golden, Rule rule, bool moe) : golden_(golden), rule_(rule), moe_(moe) {}

  Verdict Run(const std::vector<PromptRun>& runs) {
    for (size_t i = 0; i < runs.size(); ++i) {
      const GoldenPrompt& prompt = golden_.prompts[i];
      if (!HasShape(prompt, runs[i])) {
        continue;
      }
      Logits(prompt, runs[i]);
      if (rule_ == Rule::kF32) {
        HiddenRows(prompt, runs[i]);
      }
      Greedy(prompt, runs[i]);
    }
    if (golden_.gguf) {
      LogProbabilityError(runs);
    }
    const bool complete = matched_ == compared_;
    verdict_.greedy_match =
        complete ? absl::StrCat(matched_, "/", compared_) : absl::StrCat(absl::StrJoin(matches_, "+"), "/", compared_);
    return std::move(verdict_);
  }

 private:
  double F32Relative() const { return absl::StartsWith(golden_.name, "long-") ? kF32RelativeLong : kF32Relative; }

  void Fail(std::string what) { verdict_.failures.push_back(std::move(what)); }

  void Limit(const std::string& what, double value, double limit) {
    if (!Within(value, limit)) {
      Fail(absl::StrFormat("%s is %.3g, at most %.3g is allowed", what, value, limit));
    }
  }

  // What was computed has the sizes of what is wanted; anything else would compare noise.
  bool HasShape(const GoldenPrompt& prompt, const PromptRun& run) {
    bool ok = run.ids.size() == prompt.greedy_ids.size();
    for (const char* name : {"logits", "logits_last", "greedy_logits"}) {
      const GoldenTensor* want = prompt.Find(name);
      const size_t size = absl::StartsWith(name, "greedy") ? run.step_logits.size() : run.prompt_logits.size();
      ok = ok && (want == nullptr || (want->shape.back() == run.vocab && want->values.size() <= size));
    }
    if (!ok) {
      Fail(absl::StrFormat("%s: the run has %d ids and %d logits a row, the golden %d ids and other logits",
                           prompt.name, run.ids.size(), run.vocab, prompt.greedy_ids.size()));
    }
    return ok;
  }

  // The stored rows of the continuation against ours.
  static int64_t StoredSteps(const GoldenPrompt& prompt) {
    const GoldenTensor* stored = prompt.Find("greedy_logits");
    return stored == nullptr ? 0 : stored->shape.front();
  }

  void Logits(const GoldenPrompt& prompt, const PromptRun& run) {
    const auto all = static_cast<int64_t>(run.prompt_logits.size()) / std::max<int64_t>(run.vocab, 1);
    Difference prompt_rows;
    if (const GoldenTensor* want = prompt.Find("logits")) {
      prompt_rows += Compare(run.prompt_logits, want->values);
    }
    if (const GoldenTensor* want = prompt.Find("logits_last")) {
      prompt_rows += Compare(Row(run.prompt_logits, all - 1, run.vocab), want->values);
    }
    Difference steps;
    std::vector<double> relative;
    std::vector<double> max_abs;
    for (int64_t s = 0; s < StoredSteps(prompt); ++s) {
      const Difference row =
          Compare(Row(run.step_logits, s, run.vocab), Row(prompt.Find("greedy_logits")->values, s, run.vocab));
      steps += row;
      relative.push_back(row.relative());
      max_abs.push_back(row.max_abs);
    }
    if (prompt_rows.norm2 == 0.0 && relative.empty()) {
      return;
    }
    if (rule_ == Rule::kF32) {
      Difference both = prompt_rows;
      both += steps;
      Raise(verdict_.max_abs_logit_error, both.max_abs);
      Limit(prompt.name + ": the largest logit error", both.max_abs, kF32MaxAbs);
      Raise(golden_.gguf ? unused_ : verdict_.logit_rel_rms, both.relative());
      Limit(prompt.name + ": the relative RMS error of the prompt's logits", prompt_rows.relative(), F32Relative());
      Limit(prompt.name + ": the relative RMS error of the continuation's logits", steps.relative(), F32Relative());
      return;
    }
    Raise(verdict_.max_abs_logit_error, steps.max_abs);
    if (golden_.gguf) {
      return;  // judged on log-probabilities over all prompts
    }
    const double error = moe_ ? Median(relative) : steps.relative();
    Raise(verdict_.logit_rel_rms, error);
    if (!prompt.bf16.has_value()) {
      Fail(prompt.name + ": the case has no measured BF16 error to judge by");
      return;
    }
    Limit(prompt.name + ": the relative RMS error of the continuation's logits", error,
          kRelativeFactor * prompt.bf16->rel_rms);
    Limit(prompt.name + ": the largest logit error", moe_ ? Median(max_abs) : steps.max_abs,
          kMaxAbsFactor * prompt.bf16->max_abs);
  }

  void LogProbabilityError(const std::vector<PromptRun>& runs) {
    Difference pooled;
    std::vector<double> relative;
    for (size_t i = 0; i < runs.size(); ++i) {
      const GoldenPrompt& prompt = golden_.prompts[i];
      const int64_t stored = StoredSteps(prompt);
      const int64_t steps = rule_ == Rule::kF32 ? stored : std::min(kPeerSteps, stored);
      for (int64_t s = 0; s < steps && runs[i].vocab > 0; ++s) {
        const Difference row = Compare(LogProbabilities(Row(runs[i].step_logits, s, runs[i].vocab)),
                                       LogProbabilities(Row(prompt.Find("greedy_logits")->values, s, runs[i].vocab)));
        pooled += row;
        relative.push_back(row.relative());
      }
    }
    const double error = moe_ && rule_ != Rule::kF32 ? Median(relative) : pooled.relative();
    verdict_.logit_rel_rms = error;
    if (rule_ == Rule::kF32) {
      Limit("the relative RMS error of log-probabilities", error, F32Relative());
    } else if (!golden_.peer.has_value()) {
      Fail("the case has no peer's error to judge by");
    } else {
      Limit("the relative RMS error of log-probabilities", error, kRelativeFactor * golden_.peer->rel_rms);
    }
  }

  // In the order of the pass, so that the first failure names where it went wrong; what follows it says nothing new.
  void HiddenRows(const GoldenPrompt& prompt, const PromptRun& run) {
    const size_t before = verdict_.failures.size();
    const auto sound = [&] { return verdict_.failures.size() == before; };
    const GoldenTensor* hidden = prompt.Find("hidden");
    const GoldenTensor* hidden_last = prompt.Find("hidden_last");
    const GoldenTensor* stacked = hidden != nullptr ? hidden : hidden_last;
    const int layers = stacked == nullptr ? 0 : static_cast<int>(stacked->shape.front()) - 1;
    for (int l = -1; l < layers && sound(); ++l) {
      if (l >= 0) {
        for (const auto& [tensor, probe] :
             {std::pair("attn_out", "attn_out"), std::pair("mlp_out", "mlp_out"),
              std::pair("router_topk_weight", "router_weights"), std::pair("moe_out", "moe_out")}) {
          CheckRows(prompt, run, tensor, probe, l, l);
        }
      } else {
        CheckRows(prompt, run, "per_layer_inputs", "per_layer_inputs", -1, 0);
      }
      CheckRows(prompt, run, hidden != nullptr ? "hidden" : "hidden_last", "hidden", l, l + 1);
    }
    if (const GoldenTensor* want = prompt.Find("final_norm_last"); want != nullptr && sound()) {
      CheckRow(prompt.name + ": final norm", run.final_norm, want->values, true);
    }
  }

  // Rows of one layer: item `index` of the golden tensor [items, rows, cols] (or [items, cols]: the last row), or the
  // whole of it where it has no such axis (per_layer_inputs).
  void CheckRows(const GoldenPrompt& prompt, const PromptRun& run, const char* tensor, const char* probe, int layer,
                 int index) {
    const GoldenTensor* want = prompt.Find(tensor);
    if (want == nullptr) {
      return;
    }
    const std::string where = absl::StrFormat("%s: %s of layer %d", prompt.name, tensor, layer);
    const auto found = run.probe.find({probe, layer});
    if (found == run.probe.end()) {
      Fail(where + " was not seen");
      return;
    }
    const RowLog& got = found->second;
    const bool whole = absl::StartsWith(tensor, "per_layer");
    if (!whole && index >= want->shape.front()) {
      Fail(absl::StrFormat("%s: the golden tensor has %d layers", where, want->shape.front()));
      return;
    }
    const auto size = static_cast<int64_t>(want->values.size());
    const int64_t item = whole ? size : size / want->shape.front();
    const Values values =
        Values(want->values).subspan(static_cast<size_t>(whole ? 0 : index * item), static_cast<size_t>(item));
    const int64_t rows = got.cols == 0 ? 0 : item / got.cols;
    if (rows == 0 || rows > got.rows() || item % got.cols != 0) {
      Fail(absl::StrFormat("%s: %d rows of %d were seen, %d values are wanted", where, got.rows(), got.cols, item));
      return;
    }
    const size_t failures = verdict_.failures.size();
    for (int64_t r = 0; r < rows && verdict_.failures.size() == failures; ++r) {
      CheckRow(absl::StrFormat("%s, row %d", where, r), Row(got.values, got.rows() - rows + r, got.cols),
               values.subspan(static_cast<size_t>(r * got.cols), static_cast<size_t>(got.cols)),
               absl::StartsWith(tensor, "hidden"));
    }
  }

  void CheckRow(const std::string& where, Values got, Values want, bool residual) {
    if (got.size() != want.size()) {
      Fail(absl::StrFormat("%s: %d values were seen, %d are wanted", where, got.size(), want.size()));
      return;
    }
    const double error = Compare(got, want).relative();
    if (residual) {
      Raise(verdict_.hidden_rel_rms, error);
    }
    Limit(where + ": the relative RMS error", error, (residual ? 1.0 : kBranchFactor) * F32Relative());
  }

  // The margin below which a greedy id may differ.
  double AllowedMargin(const GoldenPrompt& prompt) const {
    if (rule_ == Rule::kInt8) {
      return golden_.peer.has_value() ? kMaxAbsFactor * golden_.peer->max_abs : 0.0;
    }
    return rule_ == Rule::kBf16 && prompt.bf16.has_value() ? kMaxAbsFactor * prompt.bf16->max_abs : golden_.tie;
  }

  void Greedy(const GoldenPrompt& prompt, const PromptRun& run) {
    const size_t steps = prompt.greedy_ids.size();
    compared_ += static_cast<int64_t>(steps);
    const auto differs = std::mismatch(run.ids.begin(), run.ids.end(), prompt.greedy_ids.begin()).first;
    const auto first = static_cast<size_t>(differs - run.ids.begin());
    matched_ += static_cast<int64_t>(first);
    matches_.push_back(static_cast<int64_t>(first));
    if (first == steps) {
      return;
    }
    // A near-tie in a router at or before this step may have flipped an expert.
    const auto near_tie =
        std::find_if(run.router_gaps.begin(), run.router_gaps.end(), [](double gap) { return gap < kRouterGap; });
    const bool flipped = rule_ != Rule::kF32 && near_tie != run.router_gaps.end() &&
                         static_cast<size_t>(near_tie - run.router_gaps.begin()) <= first;
    const double margin = first < prompt.margins.size() ? prompt.margins[first] : HUGE_VAL;
    if (!flipped && !(margin < AllowedMargin(prompt))) {
      Fail(absl::StrFormat("%s: step %d chose %d, the golden %d by a margin of %.3g (a margin below %.3g may differ)",
                           prompt.name, first, run.ids[first], prompt.greedy_ids[first], margin,
                           AllowedMargin(prompt)));
    }
  }

  const GoldenCase& golden_;
  const Rule rule_;
  const bool moe_;
  Verdict verdict_;
  std::vector<int64_t> matches_;
  int64_t matched_ = 0;
  int64_t compared_ = 0;
  std::optional<double> unused_;
};

}  // namespace

std::string_view RuleName(Rule rule) {
  switch (rule) {
    case Rule::kF32:
      return "f32";
    case Rule::kBf16:
      return "bf16";
    case Rule::kInt8:
      return "int8";
  }
  return "?";
}

Verdict Judge(const GoldenCase& golden, const std::vector<PromptRun>& runs, Rule rule, bool moe) {
  return Judging(golden, rule, moe).Run(runs);
}

Verdict Together(const std::vector<Verdict>& owners) {
  Verdict all = owners.front();
  for (size_t owner = 1; owner < owners.size(); ++owner) {
    const Verdict& verdict = owners[owner];
    for (const auto error : {&Verdict::max_abs_logit_error, &Verdict::logit_rel_rms, &Verdict::hidden_rel_rms}) {
      if ((verdict.*error).has_value()) {
        Raise(all.*error, *(verdict.*error));
      }
    }
    if (verdict.greedy_match != owners.front().greedy_match) {
      absl::StrAppend(&all.greedy_match, ", owner ", owner, ": ", verdict.greedy_match);
    }
    for (const std::string& failure : verdict.failures) {
      all.failures.push_back(absl::StrCat("owner ", owner, ": ", failure));
    }
  }
  return all;
}

}  // namespace alphecca::verify

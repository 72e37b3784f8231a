// Judges what a run computed on a golden case by the tolerances of the goldens' README.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/verify/golden_case.h"

namespace alphecca::verify {

// Which arithmetic is judged. F32: everything must agree to rounding. BF16 and int8: errors up to a factor of those of
// a known implementation, and greedy ids may differ where the reference's margin is small.
enum class Rule { kF32, kBf16, kInt8 };
std::string_view RuleName(Rule rule);  // "f32", "bf16", "int8"

// Values of the pass by layer (-1: of the whole model), rows one under another.
struct RowLog {
  int64_t cols = 0;
  std::vector<float> values;
  int64_t rows() const { return cols == 0 ? 0 : static_cast<int64_t>(values.size()) / cols; }
};
using ProbeLog = std::map<std::pair<std::string, int>, RowLog>;

// One prompt as a run computed it, teacher-forced along the golden continuation.
struct PromptRun {
  int64_t vocab = 0;
  std::vector<float> prompt_logits;  // [T, V] if the case has them for all rows, else the last row
  std::vector<float> step_logits;    // [steps, V], row s chose id s
  std::vector<int32_t> ids;          // chosen at each step
  std::vector<float> final_norm;     // [D], of the last prompt row
  ProbeLog probe;                    // of the prompt's rows
  // MoE outside F32: the smallest relative gap between the last chosen expert and the first left out, in F32, over the
  // rows of each step (of the whole prompt for step 0). Empty: not measured.
  std::vector<double> router_gaps;
};

struct Verdict {
  std::optional<double> max_abs_logit_error;
  std::optional<double> logit_rel_rms;   // of log-probabilities for GGUF
  std::optional<double> hidden_rel_rms;  // of the worst hidden row
  std::string greedy_match;              // "64/64", "12+20/64": up to each prompt's first allowed difference
  std::vector<std::string> failures;     // empty: passed
  bool pass() const { return failures.empty(); }
};

// `runs` one a prompt of the case, in its order.
Verdict Judge(const GoldenCase& golden, const std::vector<PromptRun>& runs, Rule rule, bool moe);

// Verdicts on what each owner of sequences computed (at least one) as one: errors of the worst, failures of all. What
// is not the first owner's says whose it is.
Verdict Together(const std::vector<Verdict>& owners);

}  // namespace alphecca::verify

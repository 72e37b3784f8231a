#include "cli/verify_processes.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/local_cluster.h"
#include "common/status_macros.h"
#include "model/checkpoint.h"
#include "worker/verify/golden_case.h"
#include "worker/verify/reference.h"

namespace alphecca::cli {
namespace {

constexpr double kF32LogitTolerance = 5e-4;
constexpr int kAlternatives = 20;

double LogSumExp(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) {
    sum += std::exp(static_cast<double>(l) - max);
  }
  return max + std::log(sum);
}

// Errors of the log-probabilities that came back, over the steps whose golden logits are known.
struct Errors {
  double max_abs = 0;
  std::vector<double> row_rms;  // relative to the golden row's, over the tokens reported
  double squares = 0;
  double golden_squares = 0;

  void AddRow(const v1::PositionLogprobs& row, std::span<const float> golden) {
    const double normaliser = LogSumExp(golden);
    double squares_here = 0;
    double golden_here = 0;
    const auto add = [&](const v1::TokenLogprob& token) {
      if (token.id() < 0 || static_cast<size_t>(token.id()) >= golden.size()) {
        max_abs = INFINITY;
        return;
      }
      const double want = static_cast<double>(golden[static_cast<size_t>(token.id())]) - normaliser;
      const double error = static_cast<double>(token.logprob()) - want;
      max_abs = std::isfinite(error) ? std::max(max_abs, std::abs(error)) : INFINITY;
      squares_here += error * error;
      golden_here += want * want;
    };
    add(row.token());
    for (const v1::TokenLogprob& token : row.top()) {
      add(token);
    }
    squares += squares_here;
    golden_squares += golden_here;
    row_rms.push_back(std::sqrt(squares_here / std::max(golden_here, 1e-30)));
  }
  double RelativeRms() const { return std::sqrt(squares / std::max(golden_squares, 1e-30)); }
  double MedianRow() {
    if (row_rms.empty()) {
      return 0;
    }
    std::nth_element(row_rms.begin(), row_rms.begin() + static_cast<std::ptrdiff_t>(row_rms.size() / 2), row_rms.end());
    return row_rms[row_rms.size() / 2];
  }
};

struct Continuation {
  std::vector<int32_t> ids;
  std::vector<v1::PositionLogprobs> logprobs;
};

absl::StatusOr<Continuation> Ask(LocalCluster& cluster, const std::string& model, const verify::GoldenPrompt& prompt) {
  v1::GenerateRequest request;
  request.set_model(model);
  request.mutable_ids()->mutable_ids()->Add(prompt.input_ids.begin(), prompt.input_ids.end());
  v1::GenerationOptions& options = *request.mutable_options();
  options.mutable_sampling()->set_temperature(0);
  options.set_max_tokens(static_cast<int32_t>(prompt.greedy_ids.size()));
  options.set_ignore_eos(true);
  options.set_logprobs(kAlternatives);
  Continuation continuation;
  RETURN_IF_ERROR(cluster.client().Generate(request, [&continuation](const v1::GenerateEvent& event) {
    continuation.ids.insert(continuation.ids.end(), event.ids().begin(), event.ids().end());
    continuation.logprobs.insert(continuation.logprobs.end(), event.logprobs().begin(), event.logprobs().end());
    return true;
  }));
  return continuation;
}

// Compares one prompt; returns how many ids were compared and equal before the first difference.
size_t Compare(const verify::GoldenPrompt& prompt, const Continuation& got, double margin_allowed, Errors& errors,
               std::vector<std::string>& failures) {
  const size_t steps = prompt.greedy_ids.size();
  if (got.ids.size() != steps || got.logprobs.size() != steps) {
    failures.push_back(absl::StrFormat("%s: %d ids and %d log-probabilities came, %d steps were asked", prompt.name,
                                       got.ids.size(), got.logprobs.size(), steps));
    return 0;
  }
  const auto first = std::mismatch(got.ids.begin(), got.ids.end(), prompt.greedy_ids.begin()).first;
  const auto equal = static_cast<size_t>(first - got.ids.begin());
  if (equal < steps && !(prompt.margins[equal] < margin_allowed)) {
    failures.push_back(absl::StrFormat("%s: step %d chose %d, golden %d at margin %g (allowed below %g)", prompt.name,
                                       equal, got.ids[equal], prompt.greedy_ids[equal], prompt.margins[equal],
                                       margin_allowed));
  }
  const verify::GoldenTensor* logits = prompt.Find("greedy_logits");
  if (logits != nullptr && logits->shape.size() == 2) {
    const auto vocab = static_cast<size_t>(logits->shape[1]);
    // The step of the first difference still had the golden context.
    const size_t rows = std::min({static_cast<size_t>(logits->shape[0]), equal + 1, steps});
    for (size_t s = 0; s < rows; ++s) {
      errors.AddRow(got.logprobs[s], std::span(logits->values).subspan(s * vocab, vocab));
    }
  }
  return equal;
}

LocalClusterOptions ClusterOptions(const verify::GoldenCase& golden, const verify::VerifyReport& report,
                                   const verify::VerifyOptions& options) {
  LocalClusterOptions cluster;
  cluster.model = {.name = golden.name, .path = golden.checkpoint};
  cluster.tp = report.tp;
  cluster.expert_mode = model::ExpertModeName(report.expert_mode);
  cluster.ep = report.ep;
  cluster.threads = options.threads == 0 ? 0 : std::max(1, options.threads / std::max(report.tp, report.ep));
  cluster.weights = std::string(model::WeightTypeName(options.weights));
  cluster.activations = options.f32_activations ? "f32" : "default";
  cluster.kv_type = report.kv;
  cluster.kernels = report.kernels;
  cluster.max_sequences = 2;
  cluster.quiet = true;
  return cluster;
}

}  // namespace

absl::StatusOr<verify::VerifyReport> VerifyInProcesses(const std::string& directory,
                                                       const verify::VerifyOptions& options) {
  ASSIGN_OR_RETURN(verify::GoldenCase golden, verify::ReadGoldenCase(directory));
  ASSIGN_OR_RETURN(const std::unique_ptr<model::Checkpoint> checkpoint, model::Checkpoint::Open(golden.checkpoint));
  ASSIGN_OR_RETURN(verify::VerifyReport report, verify::StartReport(golden, *checkpoint, options));
  if (verify::NeedsOwnReference(options.weights)) {
    ASSIGN_OR_RETURN(golden, verify::OwnReference(golden, *checkpoint, options.weights, options.step_rows));
  }
  const bool moe = checkpoint->config().experts > 0;
  const bool int8 = report.rule == verify::Rule::kInt8;
  if (int8 && !golden.peer.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(golden.name, ": golden.json has no peer error to judge int8 by"));
  }
  if (report.rule == verify::Rule::kBf16) {
    return absl::InvalidArgumentError(absl::StrCat(golden.name,
                                                   ": the BF16 rule judges logits, which do not leave a "
                                                   "worker; use --activations f32, or no --processes"));
  }

  ASSIGN_OR_RETURN(const std::unique_ptr<LocalCluster> cluster,
                   LocalCluster::Start(ClusterOptions(golden, report, options), absl::Minutes(5)));
  Errors errors;
  std::vector<size_t> equal;
  size_t steps = 0;
  const double margin_allowed = int8 ? 2 * golden.peer->max_abs : golden.tie;
  for (const verify::GoldenPrompt& prompt : golden.prompts) {
    ASSIGN_OR_RETURN(const Continuation got, Ask(*cluster, golden.name, prompt));
    equal.push_back(Compare(prompt, got, margin_allowed, errors, report.verdict.failures));
    steps += prompt.greedy_ids.size();
  }
  size_t all_equal = 0;
  std::string parts;
  for (const size_t n : equal) {
    all_equal += n;
    absl::StrAppend(&parts, parts.empty() ? "" : "+", n);
  }
  report.verdict.greedy_match = absl::StrCat(all_equal == steps ? absl::StrCat(all_equal) : parts, "/", steps);
  report.verdict.max_abs_logit_error = errors.max_abs;
  report.verdict.logit_rel_rms = moe && int8 ? errors.MedianRow() : errors.RelativeRms();
  if (!int8 && errors.max_abs > kF32LogitTolerance) {
    report.verdict.failures.push_back(
        absl::StrFormat("log-probabilities differ by %g, allowed %g", errors.max_abs, kF32LogitTolerance));
  }
  if (int8 && *report.verdict.logit_rel_rms > 1.5 * golden.peer->rel_rms) {
    report.verdict.failures.push_back(absl::StrFormat("log-probabilities: relative RMS %g, allowed %g",
                                                      *report.verdict.logit_rel_rms, 1.5 * golden.peer->rel_rms));
  }
  return report;
}

}  // namespace alphecca::cli

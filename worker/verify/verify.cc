#include "worker/verify/verify.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "model/catalogue.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"
#include "worker/verify/golden_case.h"
#include "worker/verify/prompt_runner.h"
#include "worker/verify/reference.h"

namespace alphecca::verify {
namespace {

using kernels::DType;

// Whether some matrix is held in a type that default activations meet with int8.
absl::StatusOr<bool> IsQuantised(const model::Checkpoint& checkpoint, model::WeightType weights) {
  for (const model::TensorSpec& spec : model::TensorsOf(checkpoint)) {
    if (model::IsVector(spec.kind) || spec.kind == model::TensorKind::kPerLayerEmbedding) {
      continue;
    }
    ASSIGN_OR_RETURN(const DType in_file, checkpoint.TypeOf(spec.kind, spec.layer));
    ASSIGN_OR_RETURN(const DType type, model::HeldType(spec.kind, in_file, weights));
    if (kernels::IsQuantised(type)) {
      return true;
    }
  }
  return false;
}

// Near-ties of routers are a property of the F32 computation: runs it and hands its gaps to the runs that are judged.
absl::Status MeasureRouterGaps(const model::Checkpoint& checkpoint, const GoldenCase& golden, GroupOptions options,
                               std::vector<std::vector<PromptRun>>& by_owner) {
  options.sharding = {};
  options.backend.activations = kernels::Activations::kF32;
  options.kv_type = DType::kF32;
  ASSIGN_OR_RETURN(const auto exact, RunPrompts(checkpoint, golden, options));
  for (std::vector<PromptRun>& runs : by_owner) {
    for (size_t i = 0; i < runs.size(); ++i) {
      runs[i].router_gaps = exact.front()[i].router_gaps;
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const GoldenCase& golden, const model::ModelConfig& config) {
  for (const GoldenPrompt& prompt : golden.prompts) {
    for (const std::vector<int32_t>* ids : {&prompt.input_ids, &prompt.greedy_ids}) {
      for (const int32_t id : *ids) {
        if (id < 0 || id >= config.vocab) {
          return absl::InvalidArgumentError(absl::StrFormat("%s: prompt %s has token %d, the vocabulary %d",
                                                            golden.name, prompt.name, id, config.vocab));
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

nlohmann::ordered_json ToJson(const VerifyReport& report) {
  const auto number = [](const std::optional<double>& value) {
    return value.has_value() ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  const Verdict& verdict = report.verdict;
  nlohmann::ordered_json json = {{"case", report.case_name},
                                 {"tp", report.tp},
                                 {"ep", report.ep},
                                 {"expert_mode", model::ExpertModeName(report.expert_mode)},
                                 {"weights", report.weights},
                                 {"kernels", report.kernels},
                                 {"activations", report.activations},
                                 {"kv", report.kv},
                                 {"max_abs_logit_error", number(verdict.max_abs_logit_error)},
                                 {"logit_rel_rms", number(verdict.logit_rel_rms)},
                                 {"hidden_rel_rms", number(verdict.hidden_rel_rms)},
                                 {"greedy_match", verdict.greedy_match},
                                 {"rule", RuleName(report.rule)},
                                 {"pass", verdict.pass()}};
  if (!verdict.pass()) {
    json["failures"] = verdict.failures;
  }
  return json;
}

absl::StatusOr<VerifyReport> StartReport(const GoldenCase& golden, const model::Checkpoint& checkpoint,
                                         const VerifyOptions& options) {
  RETURN_IF_ERROR(CheckTokens(golden, checkpoint.config()));
  if (golden.gguf && options.weights != model::WeightType::kAsFile) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: a GGUF file keeps its own weight types; leave out --weights", golden.name));
  }
  ASSIGN_OR_RETURN(const bool quantised, IsQuantised(checkpoint, options.weights));
  const bool int8 = quantised && !options.f32_activations && options.kernels != Kernels::kRef;
  const bool bf16_kv = !options.f32_activations && options.bf16_kv.value_or(int8);

  VerifyReport report;
  report.case_name = golden.name;
  report.tp = options.tp;
  report.ep = options.ep.value_or(model::DefaultEp(checkpoint.config(), options.tp));
  report.expert_mode = options.expert_mode;
  report.weights = golden.gguf ? "gguf"
                   : options.weights == model::WeightType::kAsFile
                       ? "bf16"
                       : std::string(model::WeightTypeName(options.weights));
  report.kernels = KernelsName(options.kernels);
  report.activations = int8 ? "int8" : "f32";
  report.kv = bf16_kv ? "bf16" : "f32";
  // The int8 rule wants a peer's error, which GGUF cases alone have.
  report.rule = int8 && golden.gguf ? Rule::kInt8 : int8 || bf16_kv ? Rule::kBf16 : Rule::kF32;
  return report;
}

absl::StatusOr<VerifyReport> VerifyCase(const std::string& directory, const VerifyOptions& options) {
  if (options.step_rows < 1) {
    return absl::InvalidArgumentError(absl::StrFormat("step_rows is %d: 1 or more", options.step_rows));
  }
  ASSIGN_OR_RETURN(GoldenCase golden, ReadGoldenCase(directory));
  ASSIGN_OR_RETURN(const std::unique_ptr<model::Checkpoint> checkpoint, model::Checkpoint::Open(golden.checkpoint));
  ASSIGN_OR_RETURN(VerifyReport report, StartReport(golden, *checkpoint, options));
  if (NeedsOwnReference(options.weights)) {
    ASSIGN_OR_RETURN(golden, OwnReference(golden, *checkpoint, options.weights, options.step_rows));
  }

  GroupOptions group;
  group.sharding = {.tp = report.tp, .ep = report.ep, .mode = report.expert_mode};
  group.kernels = options.kernels;
  group.backend.activations = options.f32_activations ? kernels::Activations::kF32 : kernels::Activations::kDefault;
  group.backend.threads = options.threads == 0 ? 0 : std::max(1, options.threads / std::max(report.tp, report.ep));
  group.weights = options.weights;
  group.kv_type = report.kv == "bf16" ? DType::kBF16 : DType::kF32;
  group.context = LongestSequence(golden);
  group.max_rows = std::min(options.step_rows, group.context);
  ASSIGN_OR_RETURN(std::vector<std::vector<PromptRun>> by_owner, RunPrompts(*checkpoint, golden, group));
  const bool moe = checkpoint->config().experts > 0;
  if (moe && report.rule != Rule::kF32) {
    RETURN_IF_ERROR(MeasureRouterGaps(*checkpoint, golden, group, by_owner));
  }
  std::vector<Verdict> verdicts;
  verdicts.reserve(by_owner.size());
  for (const std::vector<PromptRun>& runs : by_owner) {
    verdicts.push_back(Judge(golden, runs, report.rule, moe));
  }
  report.verdict = Together(verdicts);
  return report;
}

}  // namespace alphecca::verify

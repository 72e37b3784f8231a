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

namespace alphecca::verify {
namespace {

using kernels::DType;

// Whether some matrix is held in a type that default activations meet with int8.
absl::StatusOr<bool> IsQuantised(const model::Checkpoint& checkpoint) {
  for (const model::TensorSpec& spec : model::Catalogue(checkpoint.config())) {
    const absl::StatusOr<kernels::HostTensor> tensor = checkpoint.Find(spec.kind, spec.layer);
    if (!tensor.ok()) {
      continue;  // fused experts that the file holds split: their type shows in the down projection
    }
    const DType type = model::RuntimeType(tensor->type);
    if (type == DType::kQ4_0 || type == DType::kQ8_0 || type == DType::kQ6_K) {
      return true;
    }
  }
  return false;
}

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

// Runs one prompt and its continuation, one token a step, along the golden ids.
class PromptRunner {
 public:
  PromptRunner(RankGroup& group, const model::ModelConfig& config, int64_t step_rows)
      : group_(group), config_(config), step_rows_(step_rows) {}

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
      step.Add(prompt.greedy_ids[s], position, true);
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
};

int64_t LongestSequence(const GoldenCase& golden) {
  size_t longest = 1;
  for (const GoldenPrompt& prompt : golden.prompts) {
    longest = std::max(longest, prompt.input_ids.size() + prompt.greedy_ids.size());
  }
  return static_cast<int64_t>(longest);
}

absl::StatusOr<std::vector<PromptRun>> RunPrompts(const model::Checkpoint& checkpoint, const GoldenCase& golden,
                                                  const GroupOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<RankGroup> group, RankGroup::Create(checkpoint, options));
  std::vector<PromptRun> runs;
  for (const GoldenPrompt& prompt : golden.prompts) {
    PromptRunner runner(*group, checkpoint.config(), options.max_rows);
    ASSIGN_OR_RETURN(PromptRun run, runner.Run(prompt));
    runs.push_back(std::move(run));
  }
  return runs;
}

// Near-ties of routers are a property of the F32 computation: runs it and hands its gaps to the runs that are judged.
absl::Status MeasureRouterGaps(const model::Checkpoint& checkpoint, const GoldenCase& golden, GroupOptions options,
                               std::vector<PromptRun>& runs) {
  options.tp = 1;
  options.ep = 1;
  options.backend.activations = kernels::Activations::kF32;
  options.kv_type = DType::kF32;
  ASSIGN_OR_RETURN(const std::vector<PromptRun> exact, RunPrompts(checkpoint, golden, options));
  for (size_t i = 0; i < runs.size(); ++i) {
    runs[i].router_gaps = exact[i].router_gaps;
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
  if (golden.gguf && options.widen_weights) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: a GGUF file keeps its own weight types; leave out --weights", golden.name));
  }
  ASSIGN_OR_RETURN(const bool quantised, IsQuantised(checkpoint));
  const bool moe = checkpoint.config().experts > 0;
  const bool int8 = quantised && !options.f32_activations && !options.widen_weights && options.kernels != Kernels::kRef;
  const bool bf16_kv = !options.f32_activations && options.bf16_kv.value_or(int8);

  VerifyReport report;
  report.case_name = golden.name;
  report.tp = options.tp;
  report.ep = options.ep.value_or(moe ? options.tp : 1);
  report.weights = golden.gguf ? "gguf" : options.widen_weights ? "f32" : "bf16";
  report.kernels = KernelsName(options.kernels);
  report.activations = int8 ? "int8" : "f32";
  report.kv = bf16_kv ? "bf16" : "f32";
  report.rule = int8 ? Rule::kInt8 : bf16_kv ? Rule::kBf16 : Rule::kF32;
  return report;
}

absl::StatusOr<VerifyReport> VerifyCase(const std::string& directory, const VerifyOptions& options) {
  if (options.step_rows < 1) {
    return absl::InvalidArgumentError(absl::StrFormat("step_rows is %d: 1 or more", options.step_rows));
  }
  ASSIGN_OR_RETURN(const GoldenCase golden, ReadGoldenCase(directory));
  ASSIGN_OR_RETURN(const std::unique_ptr<model::Checkpoint> checkpoint, model::Checkpoint::Open(golden.checkpoint));
  ASSIGN_OR_RETURN(VerifyReport report, StartReport(golden, *checkpoint, options));

  GroupOptions group;
  group.tp = report.tp;
  group.ep = report.ep;
  group.kernels = options.kernels;
  group.backend.activations = options.f32_activations ? kernels::Activations::kF32 : kernels::Activations::kDefault;
  group.backend.threads = options.threads == 0 ? 0 : std::max(1, options.threads / std::max(report.tp, report.ep));
  group.weights =
      options.widen_weights ? forward::GemmaOptions::Weights::kF32 : forward::GemmaOptions::Weights::kAsFile;
  group.kv_type = report.kv == "bf16" ? DType::kBF16 : DType::kF32;
  group.context = LongestSequence(golden);
  group.max_rows = std::min(options.step_rows, group.context);
  ASSIGN_OR_RETURN(std::vector<PromptRun> runs, RunPrompts(*checkpoint, golden, group));
  const bool moe = checkpoint->config().experts > 0;
  if (moe && report.rule != Rule::kF32) {
    RETURN_IF_ERROR(MeasureRouterGaps(*checkpoint, golden, group, runs));
  }
  report.verdict = Judge(golden, runs, report.rule, moe);
  return report;
}

}  // namespace alphecca::verify

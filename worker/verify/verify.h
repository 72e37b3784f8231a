// Runs a golden case through the forward pass and judges it: what `alphecca verify` does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/verify/judge.h"
#include "worker/verify/rank_group.h"

namespace alphecca::verify {

struct VerifyOptions {
  int tp = 1;
  std::optional<int> ep = std::nullopt;  // unset: model::DefaultEp
  model::ExpertMode expert_mode = model::ExpertMode::kFused;
  // InvalidArgument for another on GGUF, which keeps its own types.
  model::WeightType weights = model::WeightType::kAsFile;
  bool f32_activations = false;                // also where the weights are quantised; forces an F32 KV cache
  std::optional<bool> bf16_kv = std::nullopt;  // unset: F32 if activations are, else BF16
  Kernels kernels = Kernels::kCpu;
  int threads = 0;          // of all ranks together; 0: the machine's
  int64_t step_rows = 256;  // prompts go in chunks of at most this many rows
};

struct VerifyReport {
  std::string case_name;
  int tp = 1;
  int ep = 1;
  model::ExpertMode expert_mode = model::ExpertMode::kFused;
  std::string weights;      // "f32", "bf16", "sfp8", "q4_0", "gguf"
  std::string kernels;      // "cpu", "ref"
  std::string activations;  // "f32", "int8"
  std::string kv;           // "f32", "bf16"
  Rule rule = Rule::kF32;
  Verdict verdict;
};

// One object as `alphecca verify --json` prints it; "failures" only if there are.
nlohmann::ordered_json ToJson(const VerifyReport& report);

// What a run of the case is and which rule judges it; the verdict is still to come. InvalidArgument: tokens that the
// model lacks, options that the file does not allow.
absl::StatusOr<VerifyReport> StartReport(const GoldenCase& golden, const model::Checkpoint& checkpoint,
                                         const VerifyOptions& options);

// A case that fails is a report; an error is a case that could not run (no such file, a plan that the shape rules out).
absl::StatusOr<VerifyReport> VerifyCase(const std::string& directory, const VerifyOptions& options);

}  // namespace alphecca::verify

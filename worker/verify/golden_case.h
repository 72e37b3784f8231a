// A golden case on disk: a tiny checkpoint, prompts, and what the reference implementation computes for them.
//
// A directory with golden.json, golden.safetensors (absent for trained models, whose golden.json lists continuations
// alone) and either config.json (or config.hf5.json) and model.safetensors, or model.gguf.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace alphecca::verify {

struct GoldenTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// Errors of the reference itself in another arithmetic.
struct MeasuredError {
  double max_abs = 0.0;
  double rel_rms = 0.0;
};

struct GoldenPrompt {
  std::string name;  // "short", "long"
  std::vector<int32_t> input_ids;
  std::vector<int32_t> greedy_ids;  // the reference's continuation; EOS ignored
  std::vector<double> margins;      // of each step: logit of the best token minus that of the second
  std::optional<MeasuredError> bf16;
  // By name without the prompt's: "logits" [T, V], "logits_last" [V], "greedy_logits" [steps, V], "hidden" [L + 1, T,
  // D], "hidden_last" [L + 1, D], "final_norm_last" [D], "attn_out", "mlp_out", "moe_out" [L, T, D], "per_layer_inputs"
  // [T, L, d], "router_topk_weight" [L, T, k]. Those that the case has.
  std::map<std::string, GoldenTensor> tensors;

  const GoldenTensor* Find(const std::string& tensor) const;
};

struct GoldenCase {
  std::string name;
  std::string checkpoint;  // what model::Checkpoint::Open takes
  bool gguf = false;
  std::vector<GoldenPrompt> prompts;  // shortest first
  double tie = 0.0;                   // F32 ids may differ below this margin
  std::optional<MeasuredError> peer;  // GGUF: how far another engine's int8 kernels are, on log-probabilities
};

// NotFound, InvalidArgument, DataLoss; messages name the file and the key.
absl::StatusOr<GoldenCase> ReadGoldenCase(const std::string& directory);

}  // namespace alphecca::verify

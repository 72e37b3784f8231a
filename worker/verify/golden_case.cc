#include "worker/verify/golden_case.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "kernels/quant/quant.h"
#include "model/safetensors.h"
#include "nlohmann/json.hpp"

namespace alphecca::verify {
namespace {

using Json = nlohmann::json;

// What a prompt may name in golden.safetensors and is judged by.
constexpr const char* kTensors[] = {"logits",   "logits_last", "greedy_logits", "hidden",           "hidden_last",
                                    "attn_out", "mlp_out",     "moe_out",       "per_layer_inputs", "final_norm_last",
                                    "router_topk_weight"};

absl::StatusOr<Json> ReadJson(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return absl::NotFoundError(absl::StrFormat("%s: cannot be read", path));
  }
  std::stringstream text;
  text << file.rdbuf();
  Json json = Json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: not a JSON object", path));
  }
  return json;
}

// The member, or null where there is none.
const Json& Member(const Json& json, const char* key) {
  static const Json none;
  const auto found = json.is_object() ? json.find(key) : json.end();
  return json.is_object() && found != json.end() ? *found : none;
}

std::optional<MeasuredError> ReadError(const Json& json, const char* max_abs, const char* rel_rms) {
  const Json& max = Member(json, max_abs);
  const Json& rel = Member(json, rel_rms);
  if (!max.is_number() || !rel.is_number()) {
    return std::nullopt;
  }
  return MeasuredError{.max_abs = max.get<double>(), .rel_rms = rel.get<double>()};
}

absl::StatusOr<std::vector<int32_t>> ReadIds(const Json& json, const std::string& what) {
  std::vector<int32_t> ids;
  if (!json.is_array()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: not a list of token ids", what));
  }
  for (const Json& id : json) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: %s is not a token id", what, id.dump()));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

absl::StatusOr<std::vector<double>> ReadMargins(const Json& json, const std::string& what) {
  std::vector<double> margins;
  for (const Json& margin : json.is_array() ? json : Json::array()) {
    if (!margin.is_number()) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: %s is not a number", what, margin.dump()));
    }
    margins.push_back(margin.get<double>());
  }
  return margins;
}

// Trained models: {"greedy": [{"input_ids", "greedy_ids", "margins"}, ...]}.
absl::Status ReadContinuations(const Json& json, const std::string& path, GoldenCase& golden) {
  for (const Json& entry : Member(json, "greedy")) {
    GoldenPrompt prompt;
    prompt.name = absl::StrFormat("greedy %d", golden.prompts.size());
    const std::string what = absl::StrFormat("%s: %s", path, prompt.name);
    ASSIGN_OR_RETURN(prompt.input_ids, ReadIds(Member(entry, "input_ids"), what + ": input_ids"));
    ASSIGN_OR_RETURN(prompt.greedy_ids, ReadIds(Member(entry, "greedy_ids"), what + ": greedy_ids"));
    ASSIGN_OR_RETURN(prompt.margins, ReadMargins(Member(entry, "margins"), what + ": margins"));
    golden.prompts.push_back(std::move(prompt));
  }
  return absl::OkStatus();
}

absl::StatusOr<GoldenTensor> ReadTensor(const model::SafetensorsTensor& stored, const std::string& what) {
  GoldenTensor tensor;
  int64_t count = 1;
  for (const int64_t size : stored.shape) {
    tensor.shape.push_back(size);
    count *= size;
  }
  if (stored.dtype != kernels::DType::kF32 || tensor.shape.empty() || count == 0) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: F32 values of one dimension or more are wanted", what));
  }
  tensor.values.resize(static_cast<size_t>(count));
  kernels::DecodeRow(stored.dtype, stored.data, {0, count}, 1.0F, tensor.values.data());
  return tensor;
}

}  // namespace

const GoldenTensor* GoldenPrompt::Find(const std::string& tensor) const {
  const auto found = tensors.find(tensor);
  return found == tensors.end() ? nullptr : &found->second;
}

}  // namespace alphecca::verify

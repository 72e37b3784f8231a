#include "worker/verify/golden_case.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "kernels/dtype.h"
#include "model/safetensors.h"
#include "nlohmann/json.hpp"

namespace alphecca::verify {
namespace {

using Json = nlohmann::json;

// What a prompt may name in golden.safetensors and is judged by, with the dimensions that it must have.
struct KnownTensor {
  const char* name;
  size_t dimensions;
};
constexpr KnownTensor kTensors[] = {{"logits", 2},          {"logits_last", 1},       {"greedy_logits", 2},
                                    {"hidden", 3},          {"hidden_last", 2},       {"attn_out", 3},
                                    {"mlp_out", 3},         {"moe_out", 3},           {"per_layer_inputs", 3},
                                    {"final_norm_last", 1}, {"router_topk_weight", 3}};

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

absl::StatusOr<GoldenTensor> ReadTensor(const model::SafetensorsTensor& stored, size_t dimensions,
                                        const std::string& path) {
  GoldenTensor tensor;
  tensor.shape = stored.shape;
  const auto count = static_cast<int64_t>(stored.data.size() / sizeof(float));
  if (stored.type != kernels::DType::kF32 || stored.shape.size() != dimensions || count == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %s is %s of %d dimensions; F32 values of at least one wanted", path, stored.name,
                        stored.dtype, stored.shape.size()));
  }
  tensor.values.resize(static_cast<size_t>(count));
  std::memcpy(tensor.values.data(), stored.data.data(), stored.data.size());
  return tensor;
}

absl::StatusOr<std::vector<int32_t>> ReadIdTensor(const model::SafetensorsFile& file, const std::string& name) {
  const model::SafetensorsTensor* stored = file.Find(name);
  if (stored == nullptr || stored->type != kernels::DType::kI64) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s is missing or not I64", file.path(), name));
  }
  std::vector<int64_t> wide(stored->data.size() / sizeof(int64_t));
  std::memcpy(wide.data(), stored->data.data(), wide.size() * sizeof(int64_t));
  std::vector<int32_t> ids;
  for (const int64_t id : wide) {
    if (id < 0 || id > INT32_MAX) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: %s holds %d, not a token id", file.path(), name, id));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

// golden.json names the prompts and their margins; the file of tensors holds ids and values.
absl::StatusOr<GoldenPrompt> ReadPrompt(const Json& json, const std::string& name, const model::SafetensorsFile& file) {
  GoldenPrompt prompt;
  prompt.name = name;
  ASSIGN_OR_RETURN(prompt.input_ids, ReadIdTensor(file, name + ".input_ids"));
  ASSIGN_OR_RETURN(prompt.greedy_ids, ReadIdTensor(file, name + ".greedy_ids"));
  ASSIGN_OR_RETURN(prompt.margins, ReadMargins(Member(json, "greedy_margin"), file.path() + ": " + name));
  prompt.bf16 = ReadError(Member(json, "bf16"), "logit_maxabs", "logit_rel_rms");
  for (const KnownTensor& known : kTensors) {
    if (const model::SafetensorsTensor* stored = file.Find(absl::StrCat(name, ".", known.name))) {
      ASSIGN_OR_RETURN(prompt.tensors[known.name], ReadTensor(*stored, known.dimensions, file.path()));
    }
  }
  return prompt;
}

absl::Status CheckPrompts(const GoldenCase& golden, const std::string& path) {
  if (golden.prompts.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: neither \"prompts\" nor \"greedy\" names a prompt", path));
  }
  for (const GoldenPrompt& prompt : golden.prompts) {
    if (prompt.input_ids.empty() || prompt.greedy_ids.empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: %s has %d input ids and %d greedy ids; at least one of each is wanted", path,
                          prompt.name, prompt.input_ids.size(), prompt.greedy_ids.size()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

const GoldenTensor* GoldenPrompt::Find(const std::string& tensor) const {
  const auto found = tensors.find(tensor);
  return found == tensors.end() ? nullptr : &found->second;
}

absl::StatusOr<GoldenCase> ReadGoldenCase(const std::string& directory) {
  namespace fs = std::filesystem;
  const fs::path root = fs::path(directory).lexically_normal();
  const std::string json_path = root / "golden.json";
  ASSIGN_OR_RETURN(const Json json, ReadJson(json_path));
  GoldenCase golden;
  const Json& name = Member(json, "case");
  golden.name = name.is_string() ? name.get<std::string>()
                                 : (root.has_filename() ? root : root.parent_path()).filename().string();
  std::error_code error;
  golden.gguf = fs::exists(root / "model.gguf", error);
  golden.checkpoint = golden.gguf ? root / "model.gguf" : root;
  golden.peer = ReadError(Member(json, "peer"), "max_abs", "rel_rms");
  if (const Json& prompts = Member(json, "prompts"); prompts.is_object()) {
    ASSIGN_OR_RETURN(const auto file, model::SafetensorsFile::Open(root / "golden.safetensors"));
    for (const auto& [key, value] : prompts.items()) {
      ASSIGN_OR_RETURN(GoldenPrompt prompt, ReadPrompt(value, key, *file));
      golden.prompts.push_back(std::move(prompt));
    }
    std::stable_sort(golden.prompts.begin(), golden.prompts.end(), [](const GoldenPrompt& a, const GoldenPrompt& b) {
      return a.input_ids.size() < b.input_ids.size();
    });
  } else {
    RETURN_IF_ERROR(ReadContinuations(json, json_path, golden));
  }
  RETURN_IF_ERROR(CheckPrompts(golden, json_path));
  return golden;
}

}  // namespace alphecca::verify

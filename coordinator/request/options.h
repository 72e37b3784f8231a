// What a caller may ask of a generation, and its limits: inference.proto's GenerationOptions, checked and resolved.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/request/errors.h"
#include "coordinator/routing/group_client.h"

namespace alphecca::coordinator {

inline constexpr int64_t kMaxTextBytes = int64_t{8} << 20;
inline constexpr int kMaxSamples = 16;
inline constexpr int kMaxStops = 16;
inline constexpr size_t kMaxStopBytes = 256;
inline constexpr int kMaxLogprobs = 20;
inline constexpr int kMaxPriority = 100;
inline constexpr size_t kMaxNameBytes = 128;
inline constexpr int kMaxTopK = 1024;
inline constexpr float kMaxTemperature = 100.0F;

struct GenerationOptions {
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<uint64_t> seed;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::map<int32_t, float> logit_bias;  // by token id
  std::optional<int32_t> max_tokens;
  std::optional<int32_t> n;
  std::vector<std::string> stop;
  std::optional<int32_t> logprobs;
  std::optional<int32_t> prompt_logprobs;
  std::string tenant;
  int32_t priority = 0;
  std::string request_id;
  bool ignore_eos = false;
};

// At most kMaxNameBytes of [A-Za-z0-9._:-]; empty is one too.
bool IsTenantName(std::string_view name);

// Adds what is wrong, field by field, under "options.".
void CheckOptions(const GenerationOptions& options, Violations& violations);

// What a model brings: defaults and limits.
struct GenerationDefaults {
  float temperature = 1.0F;
  int32_t top_k = 64;
  float top_p = 0.95F;
};
struct ModelLimits {
  int64_t context = 0;
  int64_t vocabulary = 0;
};

// A request that can be opened on a group: everything set.
struct ResolvedOptions {
  SamplingParams sampling;
  int32_t max_tokens = 1;
  int32_t n = 1;
  std::vector<std::string> stop;
  int32_t logprobs = -1;
  int32_t prompt_logprobs = -1;
  std::string tenant;
  int32_t priority = 0;
  std::string request_id;
  bool ignore_eos = false;
};

// `options` passed CheckOptions. InvalidArgument: the prompt is empty or leaves no room in the context, max_tokens is
// more than what is left, or logit_bias names an id that is not in the vocabulary. `random` serves the seed and the
// request id where the caller gave none.
absl::StatusOr<ResolvedOptions> ResolveOptions(const GenerationOptions& options, const GenerationDefaults& defaults,
                                               const ModelLimits& limits, int64_t prompt_tokens, uint64_t random);

// Each id in [0, vocabulary): names the first that is not, under "ids".
void CheckIds(const std::vector<int32_t>& ids, int64_t vocabulary, std::string_view field, Violations& violations);
void CheckTextSize(size_t bytes, std::string_view field, Violations& violations);

}  // namespace alphecca::coordinator

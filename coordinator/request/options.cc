#include "coordinator/request/options.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace alphecca::coordinator {
namespace {

void CheckSampling(const GenerationOptions& o, Violations& violations) {
  // Written so that NaN fails.
  if (o.temperature && !(*o.temperature >= 0 && *o.temperature <= kMaxTemperature)) {
    violations.Add("options.sampling.temperature",
                   absl::StrCat(*o.temperature, " is not in [0, ", kMaxTemperature, "]; 0 is greedy"));
  }
  if (o.top_k && (*o.top_k < 0 || *o.top_k > kMaxTopK)) {
    violations.Add("options.sampling.top_k", absl::StrCat(*o.top_k, " is not in [0, ", kMaxTopK, "]; 0 is off"));
  }
  if (o.top_p && !(*o.top_p > 0 && *o.top_p <= 1)) {
    violations.Add("options.sampling.top_p", absl::StrCat(*o.top_p, " is not in (0, 1]; 1 is off"));
  }
  if (o.min_p && !(*o.min_p >= 0 && *o.min_p <= 1)) {
    violations.Add("options.sampling.min_p", absl::StrCat(*o.min_p, " is not in [0, 1]; 0 is off"));
  }
}

void CheckPenalties(const GenerationOptions& o, Violations& violations) {
  using kernels::kMaxBias;
  using kernels::kMaxBiases;
  using kernels::kMaxCountPenalty;
  const auto check = [&](const char* field, const std::optional<float>& value, float low, float high, int off) {
    if (value && !(*value >= low && *value <= high)) {
      violations.Add(field, absl::StrCat(*value, " is not in [", low, ", ", high, "]; ", off, " is off"));
    }
  };
  check("options.sampling.repetition_penalty", o.repetition_penalty, kernels::kMinRepetitionPenalty,
        kernels::kMaxRepetitionPenalty, 1);
  check("options.sampling.presence_penalty", o.presence_penalty, -kMaxCountPenalty, kMaxCountPenalty, 0);
  check("options.sampling.frequency_penalty", o.frequency_penalty, -kMaxCountPenalty, kMaxCountPenalty, 0);
  if (o.logit_bias.size() > kMaxBiases) {
    violations.Add("options.sampling.logit_bias",
                   absl::StrCat(o.logit_bias.size(), " entries; at most ", kMaxBiases, " are taken"));
    return;
  }
  for (const auto& [id, bias] : o.logit_bias) {
    if (!(bias >= -kMaxBias && bias <= kMaxBias)) {
      violations.Add(absl::StrCat("options.sampling.logit_bias[", id, "]"),
                     absl::StrCat(bias, " is not in [", -kMaxBias, ", ", kMaxBias, "]"));
    }
  }
}

void CheckRange(const char* field, const std::optional<int32_t>& value, int low, int high, Violations& violations) {
  if (value && (*value < low || *value > high)) {
    violations.Add(field, absl::StrCat(*value, " is not in [", low, ", ", high, "]"));
  }
}

bool TenantCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == ':' || c == '-';
}

}  // namespace

bool IsTenantName(std::string_view name) {
  return name.size() <= kMaxNameBytes && std::all_of(name.begin(), name.end(), TenantCharacter);
}

void CheckOptions(const GenerationOptions& o, Violations& violations) {
  CheckSampling(o, violations);
  CheckPenalties(o, violations);
  if (o.max_tokens && *o.max_tokens < 1) {
    violations.Add("options.max_tokens",
                   absl::StrCat(*o.max_tokens, " is below 1; leave it out for what the context has"));
  }
  CheckRange("options.n", o.n, 1, kMaxSamples, violations);
  CheckRange("options.logprobs", o.logprobs, 0, kMaxLogprobs, violations);
  CheckRange("options.prompt_logprobs", o.prompt_logprobs, 0, kMaxLogprobs, violations);
  CheckRange("options.priority", o.priority, -kMaxPriority, kMaxPriority, violations);
  if (o.stop.size() > kMaxStops) {
    violations.Add("options.stop", absl::StrCat(o.stop.size(), " strings; at most ", kMaxStops, " are taken"));
  }
  for (size_t i = 0; i < std::min<size_t>(o.stop.size(), kMaxStops); ++i) {
    if (o.stop[i].empty() || o.stop[i].size() > kMaxStopBytes) {
      violations.Add(absl::StrCat("options.stop[", i, "]"),
                     absl::StrCat(o.stop[i].size(), " bytes; want 1 to ", kMaxStopBytes));
    }
  }
  if (!IsTenantName(o.tenant)) {
    violations.Add("options.tenant",
                   absl::StrCat(o.tenant.size(), " bytes; want at most ", kMaxNameBytes, " of [A-Za-z0-9._:-]"));
  }
  if (o.request_id.size() > kMaxNameBytes || !std::all_of(o.request_id.begin(), o.request_id.end(), [](char c) {
        return absl::ascii_isprint(static_cast<unsigned char>(c));
      })) {
    violations.Add("options.request_id", absl::StrCat(o.request_id.size(), " bytes; want at most ", kMaxNameBytes,
                                                      " printable ASCII characters"));
  }
}

absl::StatusOr<ResolvedOptions> ResolveOptions(const GenerationOptions& o, const GenerationDefaults& defaults,
                                               const ModelLimits& limits, int64_t prompt_tokens, uint64_t random) {
  if (prompt_tokens < 1) {
    return InvalidField("prompt", "it has no tokens; give at least one");
  }
  const int64_t left = limits.context - prompt_tokens;
  if (left < 1) {
    return InvalidField("prompt", absl::StrCat(prompt_tokens, " tokens; the context holds ", limits.context,
                                               ", prompt and answer together"));
  }
  if (o.max_tokens && *o.max_tokens > left) {
    return InvalidField("options.max_tokens",
                        absl::StrCat(*o.max_tokens, " after a prompt of ", prompt_tokens, " tokens; the context holds ",
                                     limits.context, ", so at most ", left, " are left"));
  }
  for (const auto& [id, bias] : o.logit_bias) {
    if (id < 0 || id >= limits.vocabulary) {
      return InvalidField(absl::StrCat("options.sampling.logit_bias[", id, "]"),
                          absl::StrCat("id ", id, " is not in [0, ", limits.vocabulary, "), the model's vocabulary"));
    }
  }
  ResolvedOptions r;
  r.sampling.temperature = o.temperature.value_or(defaults.temperature);
  r.sampling.top_k = o.top_k.value_or(defaults.top_k);
  r.sampling.top_p = o.top_p.value_or(defaults.top_p);
  r.sampling.min_p = o.min_p.value_or(0.0F);
  r.sampling.seed = o.seed.value_or(random);
  r.sampling.repetition_penalty = o.repetition_penalty.value_or(1.0F);
  r.sampling.presence_penalty = o.presence_penalty.value_or(0.0F);
  r.sampling.frequency_penalty = o.frequency_penalty.value_or(0.0F);
  r.sampling.logit_bias = o.logit_bias;
  r.max_tokens = o.max_tokens.value_or(static_cast<int32_t>(std::min<int64_t>(left, INT32_MAX)));
  r.n = o.n.value_or(1);
  r.stop = o.stop;
  r.logprobs = o.logprobs.value_or(-1);
  r.prompt_logprobs = o.prompt_logprobs.value_or(-1);
  r.tenant = o.tenant.empty() ? "default" : o.tenant;
  r.priority = o.priority;
  // Another stream of bits than the seed's, which a drawn seed would otherwise show.
  r.request_id = o.request_id.empty() ? absl::StrFormat("req-%016x", random * 0x9E3779B97F4A7C15ULL + 1) : o.request_id;
  r.ignore_eos = o.ignore_eos;
  return r;
}

void CheckIds(const std::vector<int32_t>& ids, int64_t vocabulary, std::string_view field, Violations& violations) {
  const auto bad = std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id < 0 || id >= vocabulary; });
  if (bad != ids.end()) {
    violations.Add(absl::StrCat(std::string(field), "[", bad - ids.begin(), "]"),
                   absl::StrCat(*bad, " is not in [0, ", vocabulary, "), the model's vocabulary"));
  }
}

void CheckTextSize(size_t bytes, std::string_view field, Violations& violations) {
  if (bytes > static_cast<size_t>(kMaxTextBytes)) {
    violations.Add(std::string(field), absl::StrCat(bytes, " bytes; at most ", kMaxTextBytes, " are taken"));
  }
}

}  // namespace alphecca::coordinator

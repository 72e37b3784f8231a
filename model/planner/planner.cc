#include "model/planner/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "model/kv_layout.h"
#include "model/messages.h"
#include "model/planner/candidates.h"
#include "model/shard_slices.h"

namespace alphecca::model {
namespace {

constexpr int kMaxGroup = 64;

absl::Status CheckRange(std::string_view what, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    return absl::InvalidArgumentError(Text("plan: ", what, " is ", value, "; ", low, " to ", high, " is allowed"));
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const PlanRequest& request) {
  RETURN_IF_ERROR(request.config.Validate());
  if (request.devices.empty()) {
    return absl::InvalidArgumentError("plan: no devices; at least one is needed");
  }
  for (const DevicePool& pool : request.devices) {
    RETURN_IF_ERROR(CheckRange(Text("the count of ", pool.device.name), pool.count, 1, 1 << 20));
    const Device& d = pool.device;
    if (d.memory_bytes < 1 || !(d.memory_bandwidth > 0 && d.flops > 0 && d.link_bandwidth > 0 && d.link_latency >= 0)) {
      return absl::InvalidArgumentError(Text("plan: device ", d.name, " has a size or rate that is not above 0"));
    }
  }
  RETURN_IF_ERROR(CheckRange("context", request.context, 0, request.config.context));
  RETURN_IF_ERROR(CheckRange("concurrency", request.concurrency, 1, 65536));
  RETURN_IF_ERROR(CheckRange("the drafter's size", request.drafter_bytes, 0, int64_t{1} << 50));
  RETURN_IF_ERROR(CheckRange("the size of a KV block", request.block_tokens, 1, 4096));
  RETURN_IF_ERROR(CheckRange("the rows of a step", request.step_rows, 1, 65536));
  RETURN_IF_ERROR(CheckRange("the number of hot experts", request.hot_experts, 0, request.config.experts));
  if ((request.hot_experts > 0) == request.expert_load.empty()) {
    return absl::InvalidArgumentError(Text("plan: ", request.hot_experts, " hot experts ",
                                           request.expert_load.empty() ? "without" : "with",
                                           " a recorded load; both are needed, or neither"));
  }
  if (!(request.memory_share > 0 && request.memory_share <= 1)) {
    return absl::InvalidArgumentError(
        Text("plan: the share of memory is ", request.memory_share, "; a number above 0, at most 1, is allowed"));
  }
  using kernels::DType;
  if (request.weights != DType::kBF16 && request.weights != DType::kSFP8 && request.weights != DType::kQ4_0) {
    return absl::InvalidArgumentError(
        Text("plan: weights of type ", kernels::Info(request.weights).name, "; BF16, SFP8 or Q4_0 is allowed"));
  }
  return CheckKvType(request.config, request.kv_type);
}

// The fewest devices of the pool that hold the model; else the split that misses least. `count` of them at most.
std::optional<Plan> PlanPool(const PlanRequest& request, const Device& device, int count) {
  std::optional<Plan> nearest;
  for (int ranks = 1; ranks <= std::min(count, kMaxGroup); ++ranks) {
    std::optional<Plan> plan = BestCandidate(request, device, ranks);
    if (plan.has_value() && plan->fits) {
      plan->replicas = count / ranks;
      return plan;
    }
    if (plan.has_value() && (!nearest.has_value() || plan->missing_bytes < nearest->missing_bytes)) {
      nearest = std::move(plan);
    }
  }
  return nearest;
}

bool Preferred(const Plan& a, const Plan& b) {
  if (!a.fits || !b.fits) {
    return a.fits || (!b.fits && a.missing_bytes < b.missing_bytes);
  }
  if (a.ranks.size() != b.ranks.size()) {
    return a.ranks.size() < b.ranks.size();
  }
  return a.bound.decode_tokens_per_s > b.bound.decode_tokens_per_s;
}

std::optional<Plan> PlanPools(const PlanRequest& request) {
  std::optional<Plan> best;
  for (const DevicePool& pool : request.devices) {
    std::optional<Plan> plan = PlanPool(request, pool.device, pool.count);
    if (plan.has_value() && (!best.has_value() || Preferred(*plan, *best))) {
      best = std::move(plan);
    }
  }
  return best;
}

std::string Gib(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (1 << 30));
}

std::string Upper(std::string_view text) {
  return absl::AsciiStrToUpper(internal::Piece(text));
}

// 262144 as "262,144".
std::string Grouped(int64_t number) {
  const std::string plain = Text(number);
  std::string digits;
  for (size_t i = 0; i < plain.size(); ++i) {
    if (i > 0 && (plain.size() - i) % 3 == 0) {
      digits += ',';
    }
    digits += plain[i];
  }
  return digits;
}

// 217344 as "about 217,000".
std::string About(int64_t tokens) {
  return tokens < 10000 ? Grouped(tokens) : Text("about ", Grouped(tokens / 1000 * 1000));
}

// What would let the request through: a shorter context, smaller weights, more devices.
std::vector<std::string> Remedies(const PlanRequest& request, const Plan& nearest) {
  std::vector<std::string> remedies;
  PlanRequest other = request;
  for (other.context = request.context / 2; other.context >= 1024; other.context /= 2) {
    const absl::StatusOr<Plan> plan = MakeCandidate(other, nearest.device, nearest.shards.tp, nearest.shards.ep);
    if (plan.ok() && plan->fits) {
      remedies.push_back(Text("a context of ", About(std::min(plan->kv_tokens, request.context)), " tokens fits"));
      break;
    }
  }
  other = request;
  for (const kernels::DType type : {kernels::DType::kSFP8, kernels::DType::kQ4_0}) {
    other.weights = type;
    const bool smaller = request.weights == kernels::DType::kBF16 ||
                         (request.weights == kernels::DType::kSFP8 && type == kernels::DType::kQ4_0);
    const std::optional<Plan> plan = smaller ? PlanPools(other) : std::nullopt;
    if (plan.has_value() && plan->fits) {
      remedies.push_back(Text(kernels::Info(type).name, " fits with ", About(plan->kv_tokens), " tokens of KV"));
      break;
    }
  }
  const std::optional<Plan> larger = PlanPool(request, nearest.device, kMaxGroup);
  if (larger.has_value() && larger->fits) {
    remedies.push_back(Text(larger->ranks.size(), " x ", nearest.device.name, " would hold it"));
  }
  return remedies;
}

std::string Refusal(const PlanRequest& request, const Plan& plan) {
  const auto worst =
      std::max_element(plan.ranks.begin(), plan.ranks.end(),
                       [](const RankBudget& a, const RankBudget& b) { return a.missing_bytes < b.missing_bytes; });
  const bool each = plan.ranks.size() > 1;
  const int64_t windows = plan.shards.SequencesOfOwner(request.concurrency);
  const auto usable = static_cast<int64_t>(static_cast<double>(plan.device.memory_bytes) * request.memory_share);
  std::string text = Text(
      Upper(request.name), " in ", kernels::Info(request.weights).name, ": ", Gib(worst->footprint.weight_bytes),
      " of weights, ", Gib(worst->footprint.workspace_bytes), " of workspace and ", Gib(worst->needed_kv_bytes),
      " of KV (", windows, windows == 1 ? " sliding window" : " sliding windows", " and ", Grouped(request.context),
      " tokens of full attention) on ", each ? "each of " : "", plan.ranks.size(), " x ", plan.device.name, " with ",
      Gib(usable), " usable: ", Gib(plan.missing_bytes), " short", each ? " on each" : "");
  for (const std::string& remedy : Remedies(request, plan)) {
    text += Text("; ", remedy);
  }
  return text;
}

int64_t TotalWeightBytes(const PlanRequest& request) {
  int64_t total = request.drafter_bytes;
  for (const TensorSpec& spec : Catalogue(request.config)) {
    total += RuntimeBytes({.kind = spec.kind,
                           .layer = spec.layer,
                           .items = {0, spec.items},
                           .rows = {0, spec.rows},
                           .cols = {0, spec.cols}},
                          request.weights);
  }
  return total;
}

// Why there is no way at all to share the model.
absl::Status WhyNone(const PlanRequest& request) {
  int most = 1;
  for (const DevicePool& pool : request.devices) {
    most = std::max(most, std::min(pool.count, kMaxGroup));
  }
  const bool wide = request.expert_mode == ExpertMode::kWide;
  return MakeCandidate(request, request.devices.front().device, wide ? 1 : most, most).status();
}

}  // namespace

absl::StatusOr<Plan> MakePlan(const PlanRequest& asked) {
  RETURN_IF_ERROR(CheckRequest(asked));
  PlanRequest request = asked;
  request.context = asked.context == 0 ? asked.config.context : asked.context;
  if (request.expert_mode == ExpertMode::kFused) {
    // One rank splits nothing: where that is refused, so is the type.
    RETURN_IF_ERROR(MakeCandidate(request, request.devices.front().device, 1, 1).status());
  }
  std::optional<Plan> plan = PlanPools(request);
  if (!plan.has_value()) {
    return WhyNone(request);
  }
  plan->total_weight_bytes = TotalWeightBytes(request);
  plan->reason = plan->fits ? Text("the fewest ", plan->device.name, " that hold it: ", plan->ranks.size())
                            : Refusal(request, *plan);
  return *std::move(plan);
}

}  // namespace alphecca::model

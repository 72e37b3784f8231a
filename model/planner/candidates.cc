#include "model/planner/candidates.h"

#include <algorithm>
#include <limits>

#include "common/status_macros.h"
#include "model/kv_layout.h"
#include "model/messages.h"
#include "model/shard_slices.h"

namespace alphecca::model {
namespace {

constexpr int64_t kColumnUnit = 32;
constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();

int64_t UsableBytes(const PlanRequest& request, const Device& device) {
  return static_cast<int64_t>(static_cast<double>(device.memory_bytes) * request.memory_share);
}

// Column slices must end on blocks of the weight type.
absl::Status CheckBlocks(const PlanRequest& request, const ShardPlan& plan) {
  const int64_t block = kernels::Info(request.weights).block_elements;
  for (size_t rank = 0; block > 1 && rank < plan.ranks.size(); ++rank) {
    for (const TensorSlice& slice : ShardSlices(request.config, plan, static_cast<int>(rank))) {
      if (HoldingOf(slice.kind) != Holding::kVector && (slice.cols.begin % block != 0 || slice.cols.end % block != 0)) {
        return absl::InvalidArgumentError(Text("plan: columns [", slice.cols.begin, ", ", slice.cols.end, ") of ",
                                               CanonicalName(slice.kind, slice.layer), " cut a block of ", block,
                                               " of the type ", kernels::Info(request.weights).name,
                                               "; use another type or other degrees"));
      }
    }
  }
  return absl::OkStatus();
}

// Of a rank: for all sequences, or those that it owns.
int64_t SlidingBlocks(const PlanRequest& request, const ShardPlan& shards) {
  if (!HasPool(request.config, kernels::kSlidingPool)) {
    return 0;
  }
  return shards.SequencesOfOwner(request.concurrency) *
         SlidingBlocksFor(request.context, request.config.sliding_window, request.step_rows, request.block_tokens);
}

// Fills in the pools: sliding windows for every sequence, and all that is left for full attention.
void FillPools(const PlanRequest& request, int64_t usable, Plan& plan) {
  plan.sliding_blocks = SlidingBlocks(request, plan.shards);
  plan.full_blocks = HasPool(request.config, kernels::kFullPool) ? kMaxBlocks : 0;
  for (const RankBudget& rank : plan.ranks) {
    const Footprint& f = rank.footprint;
    const int64_t left = usable - f.weight_bytes - f.workspace_bytes -
                         plan.sliding_blocks * request.block_tokens * f.sliding_token_bytes;
    if (f.full_token_bytes > 0) {
      plan.full_blocks = std::min(plan.full_blocks, left / (request.block_tokens * f.full_token_bytes));
    }
  }
  for (RankBudget& rank : plan.ranks) {
    rank.kv_bytes = request.block_tokens * (plan.full_blocks * rank.footprint.full_token_bytes +
                                            plan.sliding_blocks * rank.footprint.sliding_token_bytes);
  }
  plan.kv_tokens = plan.full_blocks * request.block_tokens;
}

// The degrees of every split with `ranks` ranks, the highest expert parallelism first.
std::vector<std::pair<int, int>> Degrees(const PlanRequest& request, int ranks) {
  if (request.expert_mode == ExpertMode::kWide) {
    return {{1, ranks}};
  }
  if (request.config.experts == 0) {
    return {{ranks, 1}};
  }
  std::vector<std::pair<int, int>> degrees = {{ranks, ranks}};
  for (int smaller = ranks - 1; smaller >= 1; --smaller) {
    if (ranks % smaller == 0) {
      degrees.emplace_back(smaller, ranks);
      degrees.emplace_back(ranks, smaller);
    }
  }
  return degrees;
}

bool Better(const Plan& a, const Plan& b) {
  if (a.fits != b.fits) {
    return a.fits;
  }
  return a.fits ? a.bound.decode_tokens_per_s > b.bound.decode_tokens_per_s * (1 + 1e-9)
                : a.missing_bytes < b.missing_bytes;
}

}  // namespace

absl::StatusOr<Plan> MakeCandidate(const PlanRequest& request, const Device& device, int tp, int ep) {
  const int64_t unit = std::max<int64_t>(kColumnUnit, kernels::Info(request.weights).block_elements);
  Plan plan;
  plan.device = device;
  Sharding sharding{.tp = tp, .ep = ep, .mode = request.expert_mode};
  if (request.hot_experts > 0 && std::max(tp, ep) > 1) {
    ASSIGN_OR_RETURN(sharding.replicas, PlaceReplicas(request.config, request.expert_load, ep, request.hot_experts));
  }
  ASSIGN_OR_RETURN(plan.shards, MakeShardPlan(request.config, sharding, unit));
  RETURN_IF_ERROR(CheckBlocks(request, plan.shards));
  const int64_t usable = UsableBytes(request, device);
  const StepSizes sizes = StepSizesFor(request.step_rows, request.concurrency);
  const int64_t full_tokens = HasPool(request.config, kernels::kFullPool)
                                  ? BlocksFor(request.context, request.block_tokens) * request.block_tokens
                                  : 0;
  for (size_t r = 0; r < plan.shards.ranks.size(); ++r) {
    RankBudget& rank = plan.ranks.emplace_back();
    Footprint& f = rank.footprint;
    f = RankFootprint(request.config, plan.shards, static_cast<int>(r), request.weights, request.kv_type, sizes);
    if (request.resident_tables) {
      f.HoldTables();
    }
    f.weight_bytes += r == 0 ? request.drafter_bytes : 0;
    rank.needed_kv_bytes = full_tokens * f.full_token_bytes +
                           SlidingBlocks(request, plan.shards) * request.block_tokens * f.sliding_token_bytes;
    rank.missing_bytes = std::max<int64_t>(0, f.weight_bytes + f.workspace_bytes + rank.needed_kv_bytes - usable);
    plan.missing_bytes = std::max(plan.missing_bytes, rank.missing_bytes);
  }
  plan.fits = plan.missing_bytes == 0;
  if (plan.fits) {
    FillPools(request, usable, plan);
    plan.bound = PredictBound(request.config, plan.shards, device, request.weights, request.kv_type,
                              {.sequences = request.concurrency,
                               .context = request.context,
                               .kv_tokens = plan.kv_tokens * plan.shards.owners(),
                               .prefill_rows = request.step_rows});
  }
  return plan;
}

std::optional<Plan> BestCandidate(const PlanRequest& request, const Device& device, int ranks) {
  std::optional<Plan> best;
  for (const auto& [tp, ep] : Degrees(request, ranks)) {
    absl::StatusOr<Plan> plan = MakeCandidate(request, device, tp, ep);
    if (plan.ok() && (!best.has_value() || Better(*plan, *best))) {
      best = *std::move(plan);
    }
  }
  return best;
}

}  // namespace alphecca::model

// alphecca plan: which devices hold a model, and what is left of them for KV. Needs no weights.
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "common/status_macros.h"
#include "kernels/kv_type.h"
#include "model/planner/drafter.h"
#include "model/planner/planner.h"
#include "model/published.h"
#include "nlohmann/json.hpp"

namespace alphecca::cli {
namespace {

constexpr int kDoesNotFit = 3;

struct PlanFlags {
  std::string model;
  std::string weights = "bf16";
  std::string kv_type = "bf16";
  std::string devices;
  int64_t context = 0;
  int64_t concurrency = 16;
  int64_t step_rows = 256;
  double memory_share = model::PlanRequest().memory_share;
  bool resident_tables = false;
  bool drafter = false;
  std::string expert_mode = "fused";
  std::string expert_load;
  int hot_experts = 0;
  bool json = false;
};

kernels::DType WeightType(const std::string& name) {
  return name == "sfp8" ? kernels::DType::kSFP8 : name == "q4_0" ? kernels::DType::kQ4_0 : kernels::DType::kBF16;
}

absl::StatusOr<model::PlanRequest> ToRequest(const PlanFlags& flags) {
  model::PlanRequest request;
  ASSIGN_OR_RETURN(const model::Published known, model::ParsePublished(flags.model));
  ASSIGN_OR_RETURN(request.config, model::PublishedConfig(known));
  ASSIGN_OR_RETURN(request.devices, model::ParseDevices(flags.devices));
  request.name = flags.model;
  request.weights = WeightType(flags.weights);
  request.resident_tables = flags.resident_tables;
  request.kv_type = *kernels::KvTypeByName(flags.kv_type);
  request.context = flags.context;
  request.concurrency = flags.concurrency;
  request.step_rows = flags.step_rows;
  request.memory_share = flags.memory_share;
  ASSIGN_OR_RETURN(request.expert_mode, model::ParseExpertMode(flags.expert_mode));
  request.hot_experts = flags.hot_experts;
  if (!flags.expert_load.empty()) {
    ASSIGN_OR_RETURN(request.expert_load, model::ReadExpertRows(flags.expert_load, request.config));
  }
  if (flags.drafter) {
    ASSIGN_OR_RETURN(request.drafter_bytes, model::DrafterBytes(known, request.weights));
  }
  return request;
}

nlohmann::ordered_json ToJson(const PlanFlags& flags, const model::Plan& plan) {
  nlohmann::ordered_json ranks = nlohmann::ordered_json::array();
  for (size_t r = 0; r < plan.ranks.size(); ++r) {
    const model::RankBudget& rank = plan.ranks[r];
    ranks.push_back({{"rank", r},
                     {"device", plan.device.name},
                     {"weight_bytes", rank.footprint.weight_bytes},
                     {"mapped_bytes", rank.footprint.mapped_bytes},
                     {"workspace_bytes", rank.footprint.workspace_bytes},
                     {"kv_bytes", rank.kv_bytes},
                     {"kv_tokens", plan.kv_tokens}});
  }
  return {{"model", flags.model},
          {"weights", flags.weights},
          {"fits", plan.fits},
          {"reason", plan.reason},
          {"missing_bytes", plan.missing_bytes},
          {"tp", plan.shards.tp},
          {"ep", plan.shards.ep},
          {"expert_mode", model::ExpertModeName(plan.shards.mode)},
          {"replicas", plan.replicas},
          {"total_weight_bytes", plan.total_weight_bytes},
          {"ranks", ranks},
          {"bound",
           {{"decode_tokens_per_s", plan.bound.decode_tokens_per_s},
            {"prefill_tokens_per_s", plan.bound.prefill_tokens_per_s}}}};
}

double Gib(int64_t bytes) {
  return static_cast<double>(bytes) / (1 << 30);
}

// "tp 2, ep 4", and "wide" where it is.
std::string Degrees(const model::ShardPlan& shards) {
  return absl::StrFormat("tp %d, ep %d%s", shards.tp, shards.ep, shards.wide() ? ", wide" : "");
}

// "0-7", "3", or "-" for nothing.
std::string Indices(const Range& range) {
  if (range.size() == 1) {
    return absl::StrFormat("%d", range.begin);
  }
  return range.empty() ? "-" : absl::StrFormat("%d-%d", range.begin, range.end - 1);
}

void PrintRank(const model::PlanRequest& request, const model::Plan& plan, size_t r) {
  const model::RankBudget& budget = plan.ranks[r];
  const model::RankShard& shard = plan.shards.ranks[r];
  // KV heads differ between the two kinds of layers.
  const auto kv_heads = [&request, &shard](bool full) {
    for (size_t l = 0; l < shard.layers.size(); ++l) {
      if (request.config.layers[l].full_attention == full) {
        return Indices(shard.layers[l].kv_heads);
      }
    }
    return Indices({});
  };
  const model::LayerShard& last = shard.layers.back();
  const int64_t used = budget.footprint.weight_bytes + budget.footprint.workspace_bytes +
                       (plan.fits ? budget.kv_bytes : budget.needed_kv_bytes);
  std::cout << absl::StrFormat(
      "%4d  %7.2f %7.2f %7.2f %7.2f %7.2f  %9s %9s %9s %12s %9s %9s %14s\n", r, Gib(budget.footprint.weight_bytes),
      Gib(budget.footprint.mapped_bytes), Gib(budget.footprint.workspace_bytes),
      Gib(plan.fits ? budget.kv_bytes : budget.needed_kv_bytes), Gib(used), Indices(last.heads), kv_heads(false),
      kv_heads(true), Indices(last.mlp),
      last.replicas.empty() ? Indices(last.experts)
                            : absl::StrFormat("%s+%d", Indices(last.experts), last.replicas.size()),
      request.config.experts > 0 ? Indices(last.expert_columns) : "-", Indices(shard.vocab));
}

void Print(const model::PlanRequest& request, const PlanFlags& flags, const model::Plan& plan) {
  const std::string type = absl::AsciiStrToUpper(flags.weights);
  const std::string group = absl::StrFormat("%d x %s", plan.ranks.size(), plan.device.name);
  std::cout << absl::StrFormat("%s in %s, %.2f GiB of weights%s: ", flags.model, type, Gib(plan.total_weight_bytes),
                               flags.drafter ? " with its drafter" : "");
  if (plan.fits) {
    std::cout << absl::StrFormat("%d group%s of %s, %s (%s)\n", plan.replicas, plan.replicas == 1 ? "" : "s", group,
                                 Degrees(plan.shards), plan.reason);
  } else {
    std::cout << absl::StrFormat("does not fit; nearest: %s, %s\n", group, Degrees(plan.shards));
  }
  std::cout << absl::StrFormat(
      "\nGiB on each rank, and its share of the last layer (KV heads: of the first sliding and the first full layer)\n"
      "%4s  %7s %7s %7s %7s %7s  %9s %9s %9s %12s %9s %9s %14s\n",
      "rank", "weights", "mapped", "work", plan.fits ? "KV" : "KV need", "sum", "heads", "KV slid", "KV full",
      "MLP columns", "experts", "columns", "vocabulary");
  for (size_t r = 0; r < plan.ranks.size(); ++r) {
    PrintRank(request, plan, r);
  }
  if (!plan.fits) {
    std::cout << "\n" << plan.reason << "\n";
    return;
  }
  std::cout << absl::StrFormat(
      "\nKV on each rank: %d blocks of %d tokens for full attention (%d tokens), %d for sliding windows of %d "
      "sequences\n"
      "At best, by bandwidth, arithmetic and links (a bound, not a promise), each group:\n"
      "  decode   %8.0f tokens/s, %d sequences of the whole context, as far as KV holds them\n"
      "  prefill  %8.0f tokens/s, one prompt of %d tokens\n",
      plan.full_blocks, request.block_tokens, plan.kv_tokens, plan.sliding_blocks,
      plan.shards.SequencesOfOwner(request.concurrency), plan.bound.decode_tokens_per_s, request.concurrency,
      plan.bound.prefill_tokens_per_s, request.context == 0 ? request.config.context : request.context);
  for (const model::DevicePool& pool : request.devices) {
    const int used = pool.device.name == plan.device.name ? plan.replicas * static_cast<int>(plan.ranks.size()) : 0;
    if (used < pool.count) {
      std::cout << absl::StrFormat("In none of these groups: %d x %s\n", pool.count - used, pool.device.name);
    }
  }
}

int Run(const PlanFlags& flags) {
  const absl::StatusOr<model::PlanRequest> request = ToRequest(flags);
  if (!request.ok()) {
    return Fail(request.status());
  }
  const absl::StatusOr<model::Plan> plan = model::MakePlan(*request);
  if (!plan.ok()) {
    return Fail(plan.status());
  }
  if (flags.json) {
    std::cout << ToJson(flags, *plan).dump() << std::endl;
  } else {
    Print(*request, flags, *plan);
  }
  return plan->fits ? 0 : kDoesNotFit;
}

}  // namespace

void AddPlan(CLI::App& app, int& result) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand("plan", "Which devices hold a model, and what they leave for KV");
  command->footer(
      "Devices: h100-80g h200 b200 a100-40g a100-80g l40s l4 rtx4090 rtx5090 rtxpro6000 cpu:<GiB>; groups are of one\n"
      "kind. A plan fits if each rank has room for its weights, its workspace, a sliding window for each of the\n"
      "sequences and one sequence of the whole context. Exit status 3: it does not fit, and the text says what would.\n"
      "  alphecca plan --model 31b --weights bf16 --devices 4xh100-80g --context 262144 --concurrency 16");
  command->add_option("-m,--model", flags->model, "e2b, e4b, 12b, 26b-a4b or 31b")->required();
  command->add_option("--devices", flags->devices, "<count>x<name>, several with commas between")->required();
  command->add_option("--weights", flags->weights, "Type of matrices and tables")
      ->check(CLI::IsMember({"bf16", "sfp8", "q4_0"}))
      ->capture_default_str();
  command->add_flag("--resident-tables", flags->resident_tables,
                    "Tables that are only looked up (per-layer embeddings) are held in memory, not mapped");
  command->add_option("--context", flags->context, "Tokens of one sequence at most; 0: the model's limit")
      ->capture_default_str();
  command->add_option("--concurrency", flags->concurrency, "Sequences at once")->capture_default_str();
  command
      ->add_option("--expert-mode", flags->expert_mode,
                   "fused, or wide: every rank holds attention whole and computes its own sequences")
      ->check(CLI::IsMember({"fused", "wide"}))
      ->capture_default_str();
  command->add_option("--expert-load", flags->expert_load,
                      "A recorded load (perplexity --record-experts), for --hot-experts");
  command->add_option("--hot-experts", flags->hot_experts, "Copies of other ranks' experts that each rank holds")
      ->check(CLI::Range(0, 1024));
  command->add_flag("--drafter", flags->drafter, "The model's own drafter beside rank 0's shard");
  command->add_option("--kv-type", flags->kv_type, "Type of the KV cache")
      ->check(CLI::IsMember(kernels::KvTypeNames()))
      ->capture_default_str();
  command->add_option("--step-rows", flags->step_rows, "Rows of a step at most")->capture_default_str();
  command
      ->add_option("--memory-share", flags->memory_share,
                   "Of each device's memory; the rest is for the driver, libraries and communication")
      ->capture_default_str();
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback([flags, &result] { result = Run(*flags); });
}

}  // namespace alphecca::cli

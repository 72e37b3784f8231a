#include "worker/engine/shard_runner.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/sampling.h"
#include "model/planner/footprint.h"
#include "worker/engine/block_manager.h"
#include "worker/engine/kv_sizing.h"
#include "worker/engine/plan_check.h"

namespace alphecca::engine {
namespace {

std::string Fingerprint(const model::Checkpoint& checkpoint, const model::ShardPlan& plan,
                        const kernels::Backend& backend, const comm::Communicator& comm, const ShardOptions& options) {
  const bool f32_activations = backend.activations() == kernels::Activations::kF32;
  return absl::StrCat(backend.Name(), "/", backend.IsaPath(), "/", f32_activations ? "act-f32" : "act-default", "/",
                      "w-", std::string(model::WeightTypeName(options.weights)), "/kv-",
                      std::string(kernels::Info(options.kv_type).name), "/", plan.Hash(), "/", comm.Kind(), "/",
                      checkpoint.Revision());
}

// The arrays that a StepInput points to.
struct StepArrays {
  std::vector<int32_t> tokens, positions, slots, logit_rows;
  std::vector<kernels::KeyRange> full, sliding;
  std::vector<kernels::SamplingRow> sampling;

  std::array<std::vector<kernels::BlockTableUpdate>, 2> tables;  // by PoolKind
  std::vector<kernels::SlotOpening> opens;
  std::vector<uint32_t> masks;
  int64_t mask_words = 0;

  kernels::StepInput Input() const {
    kernels::StepInput input;
    input.tokens = tokens;
    input.positions = positions;
    input.slots = slots;
    input.full = full;
    input.sliding = sliding;
    input.logit_rows = logit_rows;
    input.sampling = sampling;
    for (const int pool : {0, 1}) {
      input.tables[pool] = tables[pool];
    }
    input.opens = opens;
    input.masks = masks;
    input.mask_words = mask_words;
    return input;
  }
};

class Runner final : public ShardRunner {
 public:
  Runner(kernels::Backend& backend, const ShardLimits& limits, int rank, std::unique_ptr<forward::Gemma> gemma)
      : backend_(backend), limits_(limits), rank_(rank), gemma_(std::move(gemma)), check_(limits) {
    sampling_.resize(static_cast<size_t>(limits.max_sequences));
    has_rules_.resize(sampling_.size());
    owners_.resize(sampling_.size());
  }

  absl::Status Allocate(const ShardOptions& options) {
    for (const kernels::PoolKind kind : {kernels::kFullPool, kernels::kSlidingPool}) {
      kernels::KvPoolSpec spec = gemma_->PoolSpec(kind);
      if (spec.layers.empty()) {
        continue;
      }
      spec.block_tokens = limits_.block_tokens;
      spec.num_blocks = kind == kernels::kFullPool ? limits_.full_blocks : limits_.sliding_blocks;
      spec.num_slots = limits_.max_sequences;
      spec.max_blocks_per_slot = BlocksFor(limits_.context, limits_.block_tokens);
      spec.type = options.kv_type;
      ASSIGN_OR_RETURN(pools_[kind], backend_.CreateKvPool(spec));
    }
    RETURN_IF_ERROR(backend_.ReserveSlots(limits_.max_sequences));
    stream_ = backend_.CreateStream();
    return absl::OkStatus();
  }

  void set_fingerprint(std::string fingerprint) { fingerprint_ = std::move(fingerprint); }

  const ShardLimits& limits() const override { return limits_; }
  forward::Gemma& gemma() override { return *gemma_; }
  int64_t weight_bytes() const override { return gemma_->weight_bytes(); }
  int64_t kv_bytes() const override {
    int64_t bytes = 0;
    for (const auto& pool : pools_) {
      bytes += pool == nullptr ? 0 : pool->bytes;
    }
    return bytes;
  }
  std::string fingerprint() const override { return fingerprint_; }

  absl::StatusOr<StepResult> Run(const StepPlan& plan) override {
    RETURN_IF_ERROR(broken_);
    RETURN_IF_ERROR(check_.Check(plan));
    absl::StatusOr<StepResult> result = RunChecked(plan);
    if (!result.ok()) {
      // KV and collectives are somewhere inside the step: nothing after it can be trusted.
      broken_ = result.status();
    }
    return result;
  }

  absl::StatusOr<forward::ExpertLoad> ReadExpertLoad() override { return gemma_->ReadExpertLoad(*stream_); }

 private:
  absl::StatusOr<StepResult> RunChecked(const StepPlan& plan) {
    for (const OpenSlot& open : plan.opens) {
      const auto slot = static_cast<size_t>(open.slot);
      sampling_[slot] = open.sampling;
      has_rules_[slot] = !open.rules.Empty();
      owners_[slot] = -1;
    }
    const LogitRows logits = GatherLogits(plan);
    Gather(plan, logits);
    CopyBlocks(plan);
    const std::unique_ptr<kernels::Step> step =
        backend_.Upload(*stream_, arrays_.Input(), pools_[0].get(), pools_[1].get());
    const int count = logits.sampling.empty() ? 1 : kernels::CandidateCount(logits.sampling);
    RETURN_IF_ERROR(gemma_->Run(*stream_, *step, pools_[0].get(), pools_[1].get(), count,
                                {.rows = static_cast<int64_t>(plan.rows.size()), .most_logit_rows = logits.most}));
    StepResult result{.epoch = plan.epoch, .step = plan.step, .choices = {}};
    if (plan.logits.empty()) {
      RETURN_IF_ERROR(backend_.Synchronize(*stream_));
      return result;
    }
    const auto bytes = static_cast<size_t>(kernels::ChoiceBytes(count));
    choices_.resize(bytes * static_cast<size_t>(limits_.owners * logits.most));
    RETURN_IF_ERROR(backend_.Read(*stream_, gemma_->choices(), choices_));
    result.choices.reserve(plan.logits.size());
    for (size_t i = 0; i < plan.logits.size(); ++i) {
      result.choices.push_back(
          Unpack(choices_.data() + bytes * logits.places[i], count, logits.sampling[i].top_logprobs));
    }
    return result;
  }

  // The logit requests of a plan, of all owners.
  struct LogitRows {
    std::vector<kernels::SamplingRow> sampling;
    std::vector<size_t> places;  // where the choice of each will lie
    int64_t most = 0;            // requests of one owner
  };

  LogitRows GatherLogits(const StepPlan& plan) const {
    LogitRows logits;
    std::vector<int64_t> of_owner(static_cast<size_t>(limits_.owners), 0);
    for (const LogitRequest& request : plan.logits) {
      const PlanRow& row = plan.rows[static_cast<size_t>(request.row)];
      kernels::SamplingRow sampling = sampling_[static_cast<size_t>(row.slot)];
      sampling.slot = row.slot;
      sampling.position = row.position + 1;
      sampling.wanted = request.wanted;
      sampling.keep = request.keep ? 1 : 0;
      if (!request.keep && request.wanted >= 0) {
        // Only log-probabilities are asked, which come before rules, temperature and filters: spare what those take.
        sampling.temperature = 0.0F;
        sampling.top_k = 0;
        sampling.top_p = 1.0F;
        sampling.min_p = 0.0F;
        sampling.rules = 0;
        sampling.mask = -1;
      } else {
        sampling.rules = has_rules_[static_cast<size_t>(row.slot)] ? 1 : 0;
        sampling.mask = request.mask;
      }
      logits.sampling.push_back(sampling);
      logits.most = std::max(logits.most, ++of_owner[static_cast<size_t>(row.owner)]);
    }
    std::fill(of_owner.begin(), of_owner.end(), 0);
    for (const LogitRequest& request : plan.logits) {
      const auto owner = static_cast<size_t>(plan.rows[static_cast<size_t>(request.row)].owner);
      logits.places.push_back(owner * static_cast<size_t>(logits.most) + static_cast<size_t>(of_owner[owner]++));
    }
    return logits;
  }

  // The part of the plan that this rank computes: all of it, or in wide plans the rows that it owns.
  void Gather(const StepPlan& plan, const LogitRows& logits) {
    arrays_ = StepArrays{};
    const auto mine = [this](int32_t owner) { return limits_.owners == 1 || owner == rank_; };
    size_t request = 0;
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      const PlanRow& row = plan.rows[i];
      owners_[static_cast<size_t>(row.slot)] = row.owner;
      const bool wants = request < plan.logits.size() && static_cast<size_t>(plan.logits[request].row) == i;
      if (mine(row.owner)) {
        if (wants) {
          arrays_.logit_rows.push_back(static_cast<int32_t>(arrays_.tokens.size()));
          arrays_.sampling.push_back(logits.sampling[request]);
          GatherMask(plan, arrays_.sampling.back());
        }
        arrays_.tokens.push_back(row.token);
        arrays_.positions.push_back(row.position);
        arrays_.slots.push_back(row.slot);
        arrays_.full.push_back({0, row.position});
        arrays_.sliding.push_back({std::max(row.position - limits_.sliding_window + 1, 0), row.position});
      }
      request += wants ? 1 : 0;
    }
    for (const int pool : {0, 1}) {
      std::copy_if(plan.tables[pool].begin(), plan.tables[pool].end(), std::back_inserter(arrays_.tables[pool]),
                   [&](const kernels::BlockTableUpdate& u) { return mine(owners_[static_cast<size_t>(u.slot)]); });
    }
    for (const OpenSlot& open : plan.opens) {
      const int32_t owner = owners_[static_cast<size_t>(open.slot)];
      const bool follows = owner < 0 || mine(owner);  // of a slot without rows yet every rank keeps the rules
      arrays_.opens.push_back({.slot = open.slot, .rules = follows ? &open.rules : nullptr});
    }
  }

  // The row's mask, which is the plan's, becomes one of this rank's step.
  void GatherMask(const StepPlan& plan, kernels::SamplingRow& row) {
    if (row.mask < 0) {
      return;
    }
    const std::vector<uint32_t>& mask = plan.masks[static_cast<size_t>(row.mask)];
    arrays_.mask_words = static_cast<int64_t>(mask.size());
    row.mask = static_cast<int32_t>(arrays_.masks.size() / mask.size());
    arrays_.masks.insert(arrays_.masks.end(), mask.begin(), mask.end());
  }

  void CopyBlocks(const StepPlan& plan) {
    for (const int pool : {0, 1}) {
      for (const BlockCopy& copy : plan.copies[pool]) {
        if (limits_.owners == 1 || owners_[static_cast<size_t>(copy.slot)] == rank_) {
          backend_.KvCopy(*stream_, *pools_[pool], copy.from, copy.to);
        }
      }
    }
  }

  static StepChoice Unpack(const std::byte* record, int count, int32_t top_logprobs) {
    kernels::Choice head;
    std::memcpy(&head, record, sizeof(head));
    StepChoice choice{.token = head.token, .logprob = head.logprob, .wanted_logprob = head.wanted_logprob, .top = {}};
    const int listed = std::min({head.listed, top_logprobs, count});
    if (listed > 0) {
      choice.top.resize(static_cast<size_t>(listed));
      std::memcpy(choice.top.data(), record + sizeof(head), static_cast<size_t>(listed) * sizeof(kernels::Candidate));
    }
    return choice;
  }

  kernels::Backend& backend_;
  ShardLimits limits_;
  const int rank_;
  std::unique_ptr<forward::Gemma> gemma_;
  PlanCheck check_;
  std::string fingerprint_;
  std::unique_ptr<kernels::KvPool> pools_[2];  // by PoolKind; null: no such layers
  std::unique_ptr<kernels::Stream> stream_;
  std::vector<kernels::SamplingRow> sampling_;  // by slot
  std::vector<bool> has_rules_;                 // by slot
  std::vector<int32_t> owners_;                 // by slot; -1: opened, no rows yet
  StepArrays arrays_;
  std::vector<std::byte> choices_;
  absl::Status broken_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ShardRunner>> ShardRunner::Create(
    const model::Checkpoint& checkpoint, const model::ShardPlan& plan, int rank, kernels::Backend& backend,
    comm::Communicator& comm, const ShardOptions& options,
    const std::function<void(int64_t done, int64_t total)>& progress) {
  const model::ModelConfig& config = checkpoint.config();
  if (rank < 0 || rank >= static_cast<int>(plan.ranks.size()) || comm.rank() != rank ||
      comm.size() != static_cast<int>(plan.ranks.size())) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " of a plan for ", plan.ranks.size(),
                                                   ": the communicator is rank ", comm.rank(), " of ", comm.size()));
  }
  ASSIGN_OR_RETURN(const KvSizes sizes, SizeKv(config, plan, options));
  ShardLimits limits;
  limits.context = sizes.context;
  limits.vocab = config.vocab;
  limits.sliding_window = config.sliding_window;
  limits.max_sequences = options.max_sequences;
  limits.owners = plan.owners();
  limits.max_rows = options.max_rows;
  limits.max_logit_rows = model::StepSizesFor(options.max_rows, options.max_sequences).logit_rows;
  limits.block_tokens = options.block_tokens;
  limits.full_blocks = sizes.full_blocks;
  limits.sliding_blocks = sizes.sliding_blocks;

  const forward::GemmaOptions gemma_options{
      .max_rows = limits.max_rows, .max_logit_rows = limits.max_logit_rows, .weights = options.weights};
  ASSIGN_OR_RETURN(std::unique_ptr<forward::Gemma> gemma,
                   forward::Gemma::Create(checkpoint, plan, rank, backend, comm, gemma_options, progress));
  auto runner = std::make_unique<Runner>(backend, limits, rank, std::move(gemma));
  RETURN_IF_ERROR(runner->Allocate(options));
  runner->set_fingerprint(Fingerprint(checkpoint, plan, backend, comm, options));
  RETURN_IF_ERROR(comm.Barrier());
  return runner;
}

}  // namespace alphecca::engine

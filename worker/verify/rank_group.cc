#include "worker/verify/rank_group.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/cpus.h"
#include "common/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/ref/ref_backend.h"
#include "worker/comm/communicator.h"
#include "worker/comm/shm.h"
#include "worker/comm/solo.h"

namespace alphecca::verify {
namespace {

using kernels::KeyRange;

struct RankState {
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<comm::Communicator> comm;
  std::unique_ptr<forward::Gemma> gemma;
  std::unique_ptr<kernels::KvPool> pools[2];
  std::unique_ptr<kernels::Stream> stream;
};

// One rank's view of a step's results.
struct RankResult {
  std::vector<float> logits;  // [R, slice]
  std::vector<float> hidden;
  std::vector<kernels::Choice> choices;
};

bool SameBits(const kernels::Choice& a, const kernels::Choice& b) {
  const auto bits = [](float value) { return std::bit_cast<uint32_t>(value); };
  return a.token == b.token && a.listed == b.listed && bits(a.logprob) == bits(b.logprob) &&
         bits(a.wanted_logprob) == bits(b.wanted_logprob);
}

kernels::BackendOptions ThreadShare(const GroupOptions& options, size_t ranks) {
  kernels::BackendOptions backend = options.backend;
  if (backend.threads == 0 && ranks > 1) {
    backend.threads = std::max(1, UsableThreads() / static_cast<int>(ranks));
  }
  return backend;
}

class ThreadRankGroup : public RankGroup {
 public:
  ThreadRankGroup(const model::Checkpoint& checkpoint, const GroupOptions& options, model::ShardPlan plan)
      : checkpoint_(checkpoint), options_(options), plan_(std::move(plan)), ranks_(plan_.ranks.size()) {}

  absl::Status Load() {
    RETURN_IF_ERROR(CreateCommunicators());
    for (RankState& rank : ranks_) {
      const kernels::BackendOptions backend = ThreadShare(options_, ranks_.size());
      rank.backend =
          options_.kernels == Kernels::kRef ? kernels::CreateRefBackend(backend) : kernels::CreateCpuBackend(backend);
    }
    return OnEachRank([this](size_t r) { return LoadRank(static_cast<int>(r), ranks_[r]); });
  }

  absl::StatusOr<GroupResult> Run(const GroupStep& step) override {
    GroupStep full_step = step;
    RETURN_IF_ERROR(Complete(full_step));
    std::vector<RankResult> results(ranks_.size());
    const int count = kernels::CandidateCount(full_step.sampling);
    if (plan_.wide()) {
      return RunWide(full_step, count);
    }
    RETURN_IF_ERROR(OnEachRank([&](size_t r) { return RunRank(full_step, count, {}, ranks_[r], results[r]); }));
    opened_ = true;
    return Join(results, static_cast<int64_t>(step.logit_rows.size()));
  }

  absl::StatusOr<model::ExpertRows> ReadExpertRows() override {
    const model::ModelConfig& config = checkpoint_.config();
    model::ExpertRows rows;
    if (config.experts == 0) {
      return rows;
    }
    rows.assign(config.layers.size(), std::vector<uint64_t>(static_cast<size_t>(config.experts), 0));
    for (size_t r = 0; r < ranks_.size(); ++r) {
      if (plan_.ranks[r].layers[0].expert_columns.begin > 0) {
        continue;  // a rank that slices the same experts has counted the same rows
      }
      ASSIGN_OR_RETURN(const forward::ExpertLoad load, ranks_[r].gemma->ReadExpertLoad(*ranks_[r].stream));
      for (size_t l = 0; l < load.size(); ++l) {
        const model::LayerShard& part = plan_.ranks[r].layers[l];
        for (size_t i = 0; i < load[l].size(); ++i) {
          const auto own = static_cast<size_t>(part.experts.size());
          const int64_t expert = i < own ? part.experts.begin + static_cast<int64_t>(i) : part.replicas[i - own];
          rows[l][static_cast<size_t>(expert)] += load[l][i];
        }
      }
    }
    return rows;
  }

  void set_probe(int rank, const forward::Probe* probe) override {
    ranks_[static_cast<size_t>(rank)].gemma->set_probe(probe);
  }

  absl::Status ExportKv(kernels::PoolKind kind, int layer, int32_t slot, Range positions, std::span<float> key,
                        std::span<float> value) override {
    RankState& rank = ranks_[static_cast<size_t>(OwnerOf(slot))];
    return rank.backend->KvExport(*rank.stream, *rank.pools[kind], layer, slot, positions, key, value);
  }

  const model::ShardPlan& plan() const override { return plan_; }

 private:
  absl::Status CreateCommunicators() {
    if (ranks_.size() == 1) {
      ranks_[0].comm = comm::CreateSolo();
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(auto comms, comm::CreateShmGroup(static_cast<int>(ranks_.size())));
    for (size_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r].comm = std::move(comms[r]);
    }
    return absl::OkStatus();
  }

  // A rank that fails releases the others from their collectives.
  absl::Status OnEachRank(const std::function<absl::Status(size_t)>& work) {
    std::vector<absl::Status> statuses(ranks_.size());
    const auto run = [&](size_t r) {
      statuses[r] = work(r);
      if (!statuses[r].ok()) {
        ranks_[r].comm->Abort(absl::StrFormat("rank %d: %s", r, std::string(statuses[r].message())));
      }
    };
    std::vector<std::thread> threads;
    for (size_t r = 1; r < ranks_.size(); ++r) {
      threads.emplace_back(run, r);
    }
    run(0);
    for (std::thread& thread : threads) {
      thread.join();
    }
    // The cause, not the abort that it led to.
    for (const absl::Status& status : statuses) {
      if (!status.ok() && status.code() != absl::StatusCode::kUnavailable) {
        return status;
      }
    }
    const auto failed = std::find_if(statuses.begin(), statuses.end(), [](const absl::Status& s) { return !s.ok(); });
    return failed == statuses.end() ? absl::OkStatus() : *failed;
  }

  absl::Status LoadRank(int r, RankState& rank) {
    const forward::GemmaOptions gemma = {.max_rows = options_.max_rows,
                                         .max_logit_rows = std::min(options_.max_rows, options_.max_logit_rows),
                                         .weights = options_.weights};
    ASSIGN_OR_RETURN(rank.gemma,
                     forward::Gemma::Create(checkpoint_, plan_, r, *rank.backend, *rank.comm, gemma, nullptr));
    rank.stream = rank.backend->CreateStream();
    for (const kernels::PoolKind kind : {kernels::kFullPool, kernels::kSlidingPool}) {
      kernels::KvPoolSpec spec = rank.gemma->PoolSpec(kind);
      if (spec.layers.empty()) {
        continue;
      }
      spec.block_tokens = options_.block_tokens;
      spec.num_slots = options_.slots;
      spec.max_blocks_per_slot = BlocksPerSlot();
      spec.num_blocks = BlocksPerSlot() * options_.slots;
      spec.type = options_.kv_type;
      ASSIGN_OR_RETURN(rank.pools[kind], rank.backend->CreateKvPool(spec));
    }
    return rank.backend->ReserveSlots(options_.slots);
  }

  int64_t BlocksPerSlot() const { return (options_.context + options_.block_tokens - 1) / options_.block_tokens; }

  // Wide plans: the rank that owns a slot.
  int OwnerOf(int32_t slot) const { return slot % plan_.owners(); }

  // The rows of `step` that rank `r` owns, as a step of its own; `logits`: which of the logit rows those are.
  GroupStep PartOf(const GroupStep& step, int r, std::vector<size_t>& logits) const {
    GroupStep part;
    size_t next = 0;
    for (size_t t = 0; t < step.tokens.size(); ++t) {
      const bool wants = next < step.logit_rows.size() && static_cast<size_t>(step.logit_rows[next]) == t;
      if (OwnerOf(step.slots[t]) == r) {
        if (wants) {
          logits.push_back(next);
          part.sampling.push_back(step.sampling[next]);
        }
        part.Add(step.tokens[t], step.positions[t], wants, step.slots[t]);
        part.sliding.push_back(step.sliding[t]);
      }
      next += wants ? 1 : 0;
    }
    return part;
  }

  // Fills in what the caller left out and checks what it wrote.
  absl::Status Complete(GroupStep& step) const {
    const size_t rows = step.tokens.size();
    if (step.slots.empty()) {
      step.slots.assign(rows, 0);
    }
    if (rows == 0 || static_cast<int64_t>(rows) > options_.max_rows || step.positions.size() != rows ||
        step.slots.size() != rows || (!step.sliding.empty() && step.sliding.size() != rows)) {
      return absl::InvalidArgumentError(absl::StrFormat("a step of %d tokens, %d positions, %d slots; 1 to %d rows",
                                                        rows, step.positions.size(), step.slots.size(),
                                                        options_.max_rows));
    }
    for (size_t t = 0; t < rows; ++t) {
      if (step.positions[t] < 0 || step.positions[t] >= options_.context || step.slots[t] < 0 ||
          step.slots[t] >= options_.slots) {
        return absl::InvalidArgumentError(absl::StrFormat("row %d: position %d of %d, slot %d of %d", t,
                                                          step.positions[t], options_.context, step.slots[t],
                                                          options_.slots));
      }
    }
    if (step.sliding.empty()) {
      for (const int32_t p : step.positions) {
        step.sliding.push_back({std::max(0, p - checkpoint_.config().sliding_window + 1), p});
      }
    }
    for (size_t i = step.sampling.size(); i < step.logit_rows.size(); ++i) {
      const auto row = static_cast<size_t>(step.logit_rows[i]);
      if (row >= rows) {
        return absl::InvalidArgumentError(absl::StrFormat("logits of row %d of a step of %d", row, rows));
      }
      step.sampling.push_back({.slot = step.slots[row], .position = step.positions[row] + 1});
    }
    return absl::OkStatus();
  }

  // Every block of every slot, once. The slots' blocks alternate, so that no sequence lies in one piece.
  std::vector<kernels::BlockTableUpdate> BlockTables() const {
    std::vector<kernels::BlockTableUpdate> updates;
    if (opened_) {
      return updates;
    }
    for (int32_t index = 0; index < BlocksPerSlot(); ++index) {
      for (int32_t slot = 0; slot < options_.slots; ++slot) {
        updates.push_back({.slot = slot, .index = index, .block = index * options_.slots + slot});
      }
    }
    return updates;
  }

  // Each rank runs the rows that it owns.
  absl::StatusOr<GroupResult> RunWide(const GroupStep& step, int count) {
    std::vector<GroupStep> parts;
    std::vector<std::vector<size_t>> logits(ranks_.size());
    forward::WideStep all = {.rows = static_cast<int64_t>(step.tokens.size())};
    for (size_t r = 0; r < ranks_.size(); ++r) {
      parts.push_back(PartOf(step, static_cast<int>(r), logits[r]));
      all.most_logit_rows = std::max(all.most_logit_rows, static_cast<int64_t>(logits[r].size()));
    }
    const auto most = static_cast<size_t>(all.most_logit_rows);
    std::vector<RankResult> results(ranks_.size());
    RETURN_IF_ERROR(OnEachRank([&](size_t r) { return RunRank(parts[r], count, all, ranks_[r], results[r]); }));
    opened_ = true;
    GroupResult joined;
    joined.vocab = checkpoint_.config().vocab;
    const auto hidden = static_cast<size_t>(checkpoint_.config().hidden);
    const auto vocab = static_cast<size_t>(joined.vocab);
    joined.logits.resize(step.logit_rows.size() * vocab);
    joined.hidden.resize(step.logit_rows.size() * hidden);
    joined.choices.resize(step.logit_rows.size());
    for (size_t r = 0; r < ranks_.size(); ++r) {
      for (size_t i = 0; i < logits[r].size(); ++i) {
        const size_t to = logits[r][i];
        const RankResult& part = results[r];
        std::copy_n(part.logits.begin() + static_cast<int64_t>(i * vocab), vocab,
                    joined.logits.begin() + static_cast<int64_t>(to * vocab));
        std::copy_n(part.hidden.begin() + static_cast<int64_t>(i * hidden), hidden,
                    joined.hidden.begin() + static_cast<int64_t>(to * hidden));
        joined.choices[to] = part.choices[r * most + i];
        for (const RankResult& other : results) {
          if (!SameBits(other.choices[r * most + i], joined.choices[to])) {
            return absl::InternalError(absl::StrFormat("logit row %d: ranks disagree on rank %d's choice", to, r));
          }
        }
      }
    }
    return joined;
  }

  // `count`: candidates of a row.
  absl::Status RunRank(const GroupStep& step, int count, const forward::WideStep& all, RankState& rank,
                       RankResult& result) const {
    std::vector<KeyRange> full;
    for (const int32_t p : step.positions) {
      full.push_back({0, p});
    }
    const std::vector<kernels::BlockTableUpdate> tables = BlockTables();
    kernels::StepInput input{.tokens = step.tokens,
                             .positions = step.positions,
                             .slots = step.slots,
                             .full = full,
                             .sliding = step.sliding,
                             .soft = {},
                             .soft_rows = {},
                             .logit_rows = step.logit_rows,
                             .sampling = step.sampling,
                             .tables = {},
                             .opens = {},
                             .masks = {}};
    for (const kernels::PoolKind kind : {kernels::kFullPool, kernels::kSlidingPool}) {
      if (rank.pools[kind] != nullptr) {
        input.tables[kind] = tables;
      }
    }
    kernels::KvPool* full_pool = rank.pools[kernels::kFullPool].get();
    kernels::KvPool* sliding_pool = rank.pools[kernels::kSlidingPool].get();
    const std::unique_ptr<kernels::Step> uploaded = rank.backend->Upload(*rank.stream, input, full_pool, sliding_pool);
    RETURN_IF_ERROR(rank.gemma->Run(*rank.stream, *uploaded, full_pool, sliding_pool, count, all));
    const auto rows = static_cast<int64_t>(step.logit_rows.size());
    return ReadBack(rank, rows, plan_.wide() ? all.most_logit_rows * plan_.owners() : rows, count, result);
  }

  static absl::Status ReadBack(RankState& rank, int64_t rows, int64_t choices, int count, RankResult& result) {
    if (choices == 0) {
      return rank.backend->Synchronize(*rank.stream);
    }
    const kernels::Tensor logits = rank.gemma->logits();
    const kernels::Tensor hidden = rank.gemma->final_hidden();
    result.logits.resize(static_cast<size_t>(rows * logits.cols));
    result.hidden.resize(static_cast<size_t>(rows * hidden.cols));
    std::vector<std::byte> records(static_cast<size_t>(choices * kernels::ChoiceBytes(count)));
    RETURN_IF_ERROR(rank.backend->Read(*rank.stream, logits.data, std::as_writable_bytes(std::span(result.logits))));
    RETURN_IF_ERROR(rank.backend->Read(*rank.stream, hidden.data, std::as_writable_bytes(std::span(result.hidden))));
    RETURN_IF_ERROR(rank.backend->Read(*rank.stream, rank.gemma->choices(), std::span(records)));
    result.choices.resize(static_cast<size_t>(choices));
    for (int64_t r = 0; r < choices; ++r) {
      std::memcpy(&result.choices[static_cast<size_t>(r)], records.data() + r * kernels::ChoiceBytes(count),
                  sizeof(kernels::Choice));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<GroupResult> Join(std::vector<RankResult>& results, int64_t rows) const {
    GroupResult joined;
    joined.vocab = checkpoint_.config().vocab;
    joined.logits.resize(static_cast<size_t>(rows * joined.vocab));
    for (size_t rank = 0; rank < results.size(); ++rank) {
      const RankResult& part = results[rank];
      for (size_t r = 0; r < part.choices.size(); ++r) {
        if (!SameBits(part.choices[r], results[0].choices[r])) {
          return absl::InternalError(absl::StrFormat("logit row %d: rank %d chose token %d, rank 0 token %d", r, rank,
                                                     part.choices[r].token, results[0].choices[r].token));
        }
      }
      const int64_t slice = rows == 0 ? 0 : static_cast<int64_t>(part.logits.size()) / rows;
      for (int64_t r = 0; r < rows && slice > 0; ++r) {
        std::copy_n(part.logits.begin() + r * slice, slice,
                    joined.logits.begin() + r * joined.vocab + plan_.ranks[rank].vocab.begin);
      }
    }
    joined.hidden = std::move(results[0].hidden);
    joined.choices = std::move(results[0].choices);
    return joined;
  }

  const model::Checkpoint& checkpoint_;
  const GroupOptions options_;
  const model::ShardPlan plan_;
  std::vector<RankState> ranks_;
  bool opened_ = false;  // the block tables are uploaded
};

}  // namespace

std::string_view KernelsName(Kernels kernels) {
  return kernels == Kernels::kRef ? "ref" : "cpu";
}

void GroupStep::Add(int32_t token, int32_t position, bool logits, int32_t slot) {
  if (logits) {
    logit_rows.push_back(static_cast<int32_t>(tokens.size()));
  }
  tokens.push_back(token);
  positions.push_back(position);
  slots.push_back(slot);
}

absl::StatusOr<std::unique_ptr<RankGroup>> RankGroup::Create(const model::Checkpoint& checkpoint,
                                                             const GroupOptions& options) {
  ASSIGN_OR_RETURN(model::ShardPlan plan, model::MakeShardPlan(checkpoint, options.sharding, options.weights));
  auto group = std::make_unique<ThreadRankGroup>(checkpoint, options, std::move(plan));
  RETURN_IF_ERROR(group->Load());
  return group;
}

}  // namespace alphecca::verify

// The decoder of Gemma 4 (dense, mixture of experts, edge) and Gemma 3 as one rank computes it. The functions follow
// the sections of the specification in their order; equations stand above them. x is the residual stream, h what a
// branch reads, y what it returns, rms(v) = v * (mean(v^2) + eps)^-1/2.
//
// Tensor parallel: a rank holds some heads, MLP columns, experts and rows of the vocabulary. Its branch outputs are
// parts of sums that Sum() completes, twice a layer and once for the embedding; everything between is replicated.
// Wide expert parallel: a rank has its own rows and all weights but the experts', so nothing is summed; rows meet the
// experts of all ranks in WideExchange::Experts().
#include "worker/forward/gemma.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "kernels/check.h"
#include "model/shard_slices.h"
#include "worker/forward/scratch.h"
#include "worker/forward/weights.h"
#include "worker/forward/wide.h"

namespace alphecca::forward {
namespace {

using kernels::Buffer;
using kernels::PoolKind;
using kernels::Tensor;

// What a rank keeps from step to step.
struct Rank {
  const model::ModelConfig& config;
  const model::RankShard& shard;
  kernels::Backend& backend;
  comm::Communicator& comm;
  model::Duties duties;
  Weights weights = {};
  Scratch scratch = {};
  bool wide = false;
  ExpertHomes homes = {};
  std::vector<int> pool_layer = {};   // of a layer that owns KV: its index within its pool
  std::vector<std::byte> zeros = {};  // [max_rows, D]; empty if this rank has a part in all sums
  const Probe* probe = nullptr;

  const model::LayerConfig& layer(int l) const { return config.layers[static_cast<size_t>(l)]; }
  const model::LayerShard& part(int l) const { return shard.layers[static_cast<size_t>(l)]; }
  int layers() const { return static_cast<int>(config.layers.size()); }
  int64_t experts() const { return part(0).held_experts(); }  // of this rank; the same in every layer
};

// Whether some sum is one that this rank adds nothing to.
bool HasEmptyPart(const Rank& r) {
  const auto& layers = r.weights.layers;
  return !r.duties.vocabulary || std::any_of(layers.begin(), layers.end(), [&r](const LayerWeights& w) {
    return w.qkv == nullptr || w.gate_up == nullptr || (r.config.experts > 0 && w.expert_down == nullptr);
  });
}

// One step.
class Pass {
 public:
  Pass(Rank& rank, kernels::Stream& stream, const kernels::Step& step, kernels::KvPool* full, kernels::KvPool* sliding,
       const WideStep& all)
      : r_(rank),
        config_(rank.config),
        weights_(rank.weights),
        backend_(rank.backend),
        stream_(stream),
        step_(step),
        wide_(rank.backend, rank.comm, rank.scratch, stream, step, all),
        pools_{full, sliding},
        x_(rank.scratch.residual.View(step.rows, config_.hidden)),
        h_(rank.scratch.normed.View(step.rows, config_.hidden)),
        router_logits_(rank.scratch.router.View(step.rows, config_.experts)),
        ids_(rank.scratch.expert_ids.View(step.rows, config_.experts_per_token)),
        mix_(rank.scratch.expert_mix.View(step.rows, config_.experts_per_token)),
        branch_(rank.scratch.branch.View(config_.experts > 0 ? 2 * step.rows : step.rows, config_.hidden)),
        y_(Rows(branch_, 0, step.rows)),
        experts_(Rows(branch_, config_.experts > 0 ? step.rows : 0, step.rows)) {}

  absl::Status Run(int candidates) {
    if (step_.rows == 0) {  // wide: no sequence of this rank's, but its experts are asked
      for (int l = 0; l < r_.layers(); ++l) {
        RETURN_IF_ERROR(WideExperts(l, weights_.layers[static_cast<size_t>(l)]));
      }
      return wide_.Choose(candidates);
    }
    RETURN_IF_ERROR(Embed());
    RETURN_IF_ERROR(PerLayerInputs());
    RmsNorm(x_, weights_.layers[0].input_norm, h_);
    for (int l = 0; l < r_.layers(); ++l) {
      RETURN_IF_ERROR(Layer(l));
    }
    return Head(candidates);
  }

 private:
  // x = E[token] * sqrt(D); soft rows (images, audio) as they are.
  absl::Status Embed() {
    if (r_.duties.vocabulary) {
      backend_.Embed(stream_, step_,
                     {.matrix = weights_.embedding.get(),
                      .first_row = r_.shard.vocab.begin,
                      .scale = std::sqrt(static_cast<float>(config_.hidden)),
                      .takes_soft = r_.shard.vocab.begin == 0,
                      .out = x_});
    } else {
      Clear(r_.scratch.residual, 0, x_);
    }
    RETURN_IF_ERROR(Sum(x_));
    return Watch("hidden", -1, x_);
  }

  // ple[l] = (rms(Wpmp x * D^-1/2) * w_ppn + Eple[token][l] * sqrt(d)) * 2^-1/2, once for all layers.
  absl::Status PerLayerInputs() {
    const int64_t d = config_.per_layer_width;
    if (d == 0) {
      return absl::OkStatus();
    }
    ple_ = r_.scratch.per_layer.View(step_.rows, d * r_.layers());
    backend_.MatMul(stream_, {.in = x_,
                              .matrix = weights_.per_layer_projection.get(),
                              .scale = 1.0F / std::sqrt(static_cast<float>(config_.hidden)),
                              .out = ple_});
    backend_.PerLayerInput(stream_, step_,
                           {.table = weights_.per_layer_table,
                            .table_scale = std::sqrt(static_cast<float>(d)),
                            .ctx = ple_,
                            .norm = weights_.per_layer_norm.get(),
                            .width = d,
                            .eps = config_.rms_eps,
                            .out = ple_});
    return Watch("per_layer_inputs", -1, ple_);
  }

  // x += rms(attention(h)) * w_postattn;  y = mlp(rms(x) * w_preffn)  (MoE: dense and expert part each normed, added)
  // x += rms(y) * w_postffn;  then the per-layer block;  x *= layer_scalar.  h = rms(x) * w_in of the next layer.
  absl::Status Layer(int l) {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(l)];
    const bool last = l + 1 == r_.layers();
    const Buffer* next = last ? nullptr : weights_.layers[static_cast<size_t>(l) + 1].input_norm.get();

    Attention(l, w);
    RETURN_IF_ERROR(Sum(y_));
    RETURN_IF_ERROR(Watch("attn_out", l, y_));
    ResidualNorm(w.post_attention_norm, 1.0F, w.pre_ffn_norm.get());

    DenseMlp(w);
    if (config_.experts > 0) {
      RETURN_IF_ERROR(Moe(l, w));
    } else {
      RETURN_IF_ERROR(Sum(y_));
      RETURN_IF_ERROR(Watch("mlp_out", l, y_));
    }
    if (config_.per_layer_width > 0) {
      ResidualNorm(w.post_ffn_norm, 1.0F, nullptr);
      PerLayerBlock(l, w);
      ResidualNorm(w.post_per_layer_norm, w.layer_scalar, next);
    } else {
      ResidualNorm(w.post_ffn_norm, w.layer_scalar, next);
    }
    return Watch("hidden", l, x_);
  }

  // y = Wo concat(softmax(q k^T * scale + mask) v), q and k normed by head and rotated, v normed (not Gemma 3's).
  // Layers that share KV have queries only and read the pool entry of their source.
  void Attention(int l, const LayerWeights& w) {
    const model::LayerConfig& layer = r_.layer(l);
    const model::LayerShard& part = r_.part(l);
    if (w.qkv == nullptr) {
      Clear(r_.scratch.branch, 0, y_);
      return;
    }
    const PoolKind kind = layer.full_attention ? kernels::kFullPool : kernels::kSlidingPool;
    const int source = layer.kv_source;
    const Tensor qkv = r_.scratch.qkv.View(step_.rows, w.qkv->rows);
    const Tensor heads = r_.scratch.heads.View(step_.rows, w.o->cols);
    backend_.MatMul(stream_, {.in = h_, .matrix = w.qkv.get(), .out = qkv});
    backend_.Qkv(stream_, step_,
                 {.qkv = qkv,
                  .heads = static_cast<int>(part.heads.size()),
                  .kv_heads = config_.OwnsKv(l) ? static_cast<int>(part.kv_heads.size()) : 0,
                  .head_dim = layer.head_dim,
                  .v_from_k = layer.v_from_k,
                  .norm_v = config_.family == model::Family::kGemma4,
                  .q_norm = w.q_norm.get(),
                  .k_norm = w.k_norm.get(),
                  .eps = config_.rms_eps,
                  .rope = {.frequencies = weights_.rope(layer.full_attention)},
                  .pool_kind = kind,
                  .pool = pools_[kind],
                  .pool_layer = r_.pool_layer[static_cast<size_t>(source)]});
    backend_.Attend(stream_, step_,
                    {.q = Columns(qkv, 0, w.o->cols),
                     .heads = static_cast<int>(part.heads.size()),
                     .head_dim = layer.head_dim,
                     .first_head = static_cast<int>(part.heads.begin),
                     .first_kv_head = static_cast<int>(r_.part(source).kv_heads.begin),
                     .group = config_.heads / layer.kv_heads,
                     .scale = config_.attention_scale,
                     .pool_kind = kind,
                     .pool = pools_[kind],
                     .pool_layer = r_.pool_layer[static_cast<size_t>(source)],
                     .out = heads});
    backend_.MatMul(stream_, {.in = heads, .matrix = w.o.get(), .out = y_});
  }

  // y = Wdown (gelu(Wgate h) * (Wup h)).
  void DenseMlp(const LayerWeights& w) {
    if (w.gate_up == nullptr) {
      Clear(r_.scratch.branch, 0, y_);
      return;
    }
    const Tensor middle = r_.scratch.mlp.View(step_.rows, w.down->cols);
    backend_.GatedMatMul(stream_, {.in = h_, .gate_up = w.gate_up.get(), .out = middle});
    backend_.MatMul(stream_, {.in = middle, .matrix = w.down.get(), .out = y_});
  }

  // Beside the dense part in y: p = softmax(Wrouter (rms(x) * router.scale * D^-1/2)), the k largest renormalised and
  // scaled by expert; experts = sum of w_e * mlp_e(rms(x) * w_pre2); y = rms(y) * w_post1 + rms(experts) * w_post2.
  // Both parts are normed apart, so they meet only after the sum over ranks: one sum of both, one under the other.
  absl::Status Moe(int l, const LayerWeights& w) {
    const bool holds_experts = w.expert_down != nullptr;
    if (r_.wide || holds_experts || r_.probe != nullptr) {  // a probe sees the router of any rank
      RmsNorm(x_, w.router_norm, h_);
      backend_.MatMul(stream_, {.in = h_, .matrix = w.router.get(), .out = router_logits_});
      RETURN_IF_ERROR(Watch("router_logits", l, router_logits_));
      backend_.Route(stream_, {.logits = router_logits_,
                               .expert_scale = w.expert_scale.get(),
                               .k = config_.experts_per_token,
                               .ids = ids_,
                               .weights = mix_});
      RETURN_IF_ERROR(Watch("router_weights", l, mix_));
    }
    if (r_.wide || holds_experts) {
      RmsNorm(x_, w.pre_experts_norm, h_);
    }
    if (r_.wide) {
      RETURN_IF_ERROR(WideExperts(l, w));
    } else {
      if (holds_experts) {
        FusedExperts(l, w);
      } else {
        Clear(r_.scratch.branch, step_.rows, experts_);
      }
      RETURN_IF_ERROR(Sum(branch_));
    }
    RETURN_IF_ERROR(Watch("mlp_out", l, y_));
    RETURN_IF_ERROR(Watch("moe_out", l, experts_));
    backend_.AddNorms(stream_, {.a = y_,
                                .weight_a = w.post_dense_norm.get(),
                                .b = experts_,
                                .weight_b = w.post_experts_norm.get(),
                                .eps = config_.rms_eps,
                                .out = y_});
    return absl::OkStatus();
  }

  // This rank's experts on the rows of h, which all ranks have.
  void FusedExperts(int l, const LayerWeights& w) {
    if (!r_.homes.empty()) {
      backend_.PlaceExperts(stream_, step_, {.homes = r_.homes.Layer(l), .rank = r_.comm.rank(), .ids = ids_});
    }
    backend_.Experts(stream_, {.in = h_,
                               .gate_up = w.expert_gate_up.get(),
                               .down = w.expert_down.get(),
                               .ids = ids_,
                               .weights = mix_,
                               .out = experts_,
                               .load = Rows(ExpertRows(), l, 1)});
  }

  // All ranks' experts on the rows of h, which this rank alone has.
  absl::Status WideExperts(int l, const LayerWeights& w) {
    return wide_.Experts({.in = h_,
                          .ids = ids_,
                          .weights = mix_,
                          .homes = r_.homes.Layer(l),
                          .gate_up = w.expert_gate_up.get(),
                          .down = w.expert_down.get(),
                          .load = Rows(ExpertRows(), l, 1),
                          .out = experts_});
  }

  // y = Wproj (gelu(Wgate x) * ple[l]): reads x as it is, without a norm. Replicated: no sum.
  void PerLayerBlock(int l, const LayerWeights& w) {
    const int64_t d = config_.per_layer_width;
    const Tensor gate = r_.scratch.gate.View(step_.rows, d);
    backend_.MatMul(stream_, {.in = x_, .matrix = w.per_layer_gate.get(), .out = gate});
    backend_.GeluMul(stream_, {.a = gate, .b = Columns(ple_, l * d, d)});
    backend_.MatMul(stream_, {.in = gate, .matrix = w.per_layer_projection.get(), .out = y_});
  }

  // logits = cap(E (rms(x) * w_norm)) of the rows that want them; each rank reduces its slice of the vocabulary to
  // candidates, and all choose from all candidates. Wide: each rank has the whole vocabulary and chooses alone.
  absl::Status Head(int count) {
    auto* records = static_cast<std::byte*>(r_.scratch.candidates.buffer().data);
    const int64_t bytes = step_.logit_rows * kernels::CandidateRecordBytes(count);
    std::byte* mine = r_.wide ? records : records + r_.comm.rank() * bytes;
    if (step_.logit_rows > 0) {
      RETURN_IF_ERROR(CandidatesOf(count, mine));
    }
    if (r_.wide) {
      return wide_.Choose(count);
    }
    if (step_.logit_rows > 0) {
      RETURN_IF_ERROR(r_.comm.AllGather(stream_, mine, bytes, records));
      backend_.Choose(
          stream_, step_,
          {.records = records, .ranks = r_.comm.size(), .count = count, .out = r_.scratch.choices.buffer().data});
    }
    return absl::OkStatus();
  }

  absl::Status CandidatesOf(int count, void* out) {
    const int64_t rows = step_.logit_rows;
    const int64_t vocab = r_.duties.vocabulary ? r_.shard.vocab.size() : 0;
    const Tensor last = r_.scratch.last.View(rows, config_.hidden);
    const Tensor hidden = r_.scratch.hidden.View(rows, config_.hidden);
    const Tensor logits = r_.scratch.logits.View(rows, vocab);
    backend_.GatherRows(stream_, step_, {.in = x_, .out = last});
    RmsNorm(last, weights_.final_norm, hidden);
    RETURN_IF_ERROR(Watch("final_norm", -1, hidden));
    if (vocab > 0) {
      backend_.MatMul(stream_, {.in = hidden, .matrix = weights_.embedding.get(), .out = logits});
      backend_.Softcap(stream_, {.logits = logits, .cap = config_.softcap});
    }
    backend_.Candidates(stream_, step_,
                        {.logits = logits, .first_token = r_.shard.vocab.begin, .count = count, .out = out});
    return absl::OkStatus();
  }

  // ---- Small steps ------------------------------------------------------------------------------------------------

  void RmsNorm(const Tensor& in, const BufferPtr& weight, const Tensor& out) {
    backend_.RmsNorm(stream_, {.in = in, .weight = weight.get(), .eps = config_.rms_eps, .out = out});
  }

  // x = (x + rms(y) * post) * scale; h = rms(x) * next, if a branch follows that reads it so.
  void ResidualNorm(const BufferPtr& post, float scale, const Buffer* next) {
    backend_.ResidualNorm(stream_, {.x = x_,
                                    .y = y_,
                                    .post = post.get(),
                                    .scale = scale,
                                    .next = next,
                                    .eps = config_.rms_eps,
                                    .out = next != nullptr ? h_ : Tensor{}});
  }

  // Completes a sum whose parts the ranks hold.
  absl::Status Sum(const Tensor& parts) {
    return r_.comm.size() == 1 || r_.wide ? absl::OkStatus() : r_.comm.AllReduce(stream_, parts);
  }

  // This rank's part of a sum is nothing. `part`: dense rows of `in` from row `first` on.
  void Clear(const Activation& in, int64_t first, const Tensor& part) {
    const int64_t row_bytes = part.cols * static_cast<int64_t>(sizeof(float));
    backend_.Write(stream_, in.buffer(), first * row_bytes,
                   std::span(r_.zeros).first(static_cast<size_t>(part.rows * row_bytes)));
  }

  Tensor ExpertRows() const { return r_.scratch.load.View(r_.layers(), r_.experts()); }

  // Hands values to the probe, if there is one. Values the host sees this way decide nothing.
  absl::Status Watch(const char* name, int l, const Tensor& values) {
    if (r_.probe == nullptr) {
      return absl::OkStatus();
    }
    std::vector<float> host(static_cast<size_t>(values.rows * values.cols));
    RETURN_IF_ERROR(backend_.Read(stream_, values.data, std::as_writable_bytes(std::span(host))));
    r_.probe->on_rows(name, l, host, values.rows, values.cols);
    return absl::OkStatus();
  }

  Rank& r_;
  const model::ModelConfig& config_;
  const Weights& weights_;
  kernels::Backend& backend_;
  kernels::Stream& stream_;
  const kernels::Step& step_;
  WideExchange wide_;
  kernels::KvPool* pools_[2];
  Tensor x_;              // [T, D]
  Tensor h_;              // [T, D]
  Tensor router_logits_;  // [T, E]
  Tensor ids_;            // [T, k] i32: the experts that the router chose
  Tensor mix_;            // [T, k]: their weights
  Tensor branch_;         // [T, D]; MoE [2T, D]: the dense part, then the experts'
  Tensor y_;              // its first T rows
  Tensor experts_;        // MoE: its last T rows
  Tensor ple_;            // [T, L d]
};

class GemmaRank : public Gemma {
 public:
  GemmaRank(const model::Checkpoint& checkpoint, const model::ShardPlan& plan, int rank, kernels::Backend& backend,
            comm::Communicator& comm)
      : plan_(plan),
        rank_{.config = checkpoint.config(),
              .shard = plan_.ranks[static_cast<size_t>(rank)],
              .backend = backend,
              .comm = comm,
              .duties = model::DutiesOf(plan_, rank),
              .wide = plan_.wide()} {}

  absl::Status Load(const model::Checkpoint& checkpoint, const GemmaOptions& options,
                    const std::function<void(int64_t, int64_t)>& progress) {
    Rank& r = rank_;
    max_rows_ = options.max_rows;
    max_logit_rows_ = options.max_logit_rows;
    ASSIGN_OR_RETURN(r.weights, LoadWeights(checkpoint, plan_, r.shard.rank, r.backend, options.weights, progress));
    ASSIGN_OR_RETURN(r.scratch, AllocateScratch(r.backend, r.config, r.shard,
                                                {.rows = options.max_rows,
                                                 .logit_rows = options.max_logit_rows,
                                                 .vocab = r.duties.vocabulary ? r.shard.vocab.size() : 0,
                                                 .ranks = r.comm.size(),
                                                 .wide = r.wide}));
    ASSIGN_OR_RETURN(r.homes, ExpertHomes::Upload(r.config, plan_, r.shard.rank, r.backend));
    if (HasEmptyPart(r)) {
      r.zeros.assign(static_cast<size_t>(options.max_rows * r.config.hidden) * sizeof(float), std::byte{0});
    }
    RETURN_IF_ERROR(ClearLoad());
    int count[2] = {0, 0};
    for (int l = 0; l < r.layers(); ++l) {
      r.pool_layer.push_back(r.config.OwnsKv(l) ? count[r.layer(l).full_attention ? 0 : 1]++ : -1);
    }
    return absl::OkStatus();
  }

  kernels::KvPoolSpec PoolSpec(PoolKind kind) const override {
    kernels::KvPoolSpec spec;
    for (int l = 0; l < rank_.layers(); ++l) {
      if (rank_.config.OwnsKv(l) && rank_.layer(l).full_attention == (kind == kernels::kFullPool)) {
        spec.layers.push_back(
            {.kv_heads = static_cast<int>(rank_.part(l).kv_heads.size()), .head_dim = rank_.layer(l).head_dim});
      }
    }
    return spec;
  }

  int64_t weight_bytes() const override { return rank_.weights.bytes; }

  absl::Status Run(kernels::Stream& stream, const kernels::Step& step, kernels::KvPool* full, kernels::KvPool* sliding,
                   int candidates, const WideStep& all) override {
    kernels::Check(step.rows >= (rank_.wide ? 0 : 1) && step.rows <= max_rows_,
                   "a step has at least one row (wide: none), at most max_rows");
    kernels::Check(step.logit_rows <= max_logit_rows_, "at most max_logit_rows rows of a step want logits");
    kernels::Check(candidates >= 1 && candidates <= kernels::kMaxRecordCandidates,
                   "1 to kMaxRecordCandidates candidates a row");
    logit_rows_ = step.logit_rows;
    kernels::Check(!rank_.wide || (step.rows <= all.rows && all.rows <= max_rows_),
                   "the rows of all ranks are at least this one's, at most max_rows");
    kernels::Check(!rank_.wide || (step.logit_rows <= all.most_logit_rows && all.most_logit_rows <= max_logit_rows_),
                   "the most logit rows of any rank are at least this one's, at most max_logit_rows");
    return Pass(rank_, stream, step, full, sliding, all).Run(candidates);
  }

  const void* choices() const override { return rank_.scratch.choices.buffer().data; }
  Tensor logits() const override {
    return rank_.scratch.logits.View(logit_rows_, rank_.duties.vocabulary ? rank_.shard.vocab.size() : 0);
  }
  Tensor final_hidden() const override { return rank_.scratch.hidden.View(logit_rows_, rank_.config.hidden); }
  void set_probe(const Probe* probe) override { rank_.probe = probe; }

  absl::StatusOr<ExpertLoad> ReadExpertLoad(kernels::Stream& stream) override {
    RETURN_IF_ERROR(
        rank_.backend.Read(stream, rank_.scratch.load.buffer().data, std::as_writable_bytes(std::span(load_now_))));
    size_t i = 0;
    for (std::vector<uint64_t>& layer : load_) {
      for (uint64_t& rows : layer) {
        rows += load_now_[i] - load_seen_[i];  // right across the device's overflow
        ++i;
      }
    }
    load_seen_ = load_now_;
    return load_;
  }

 private:
  // The device counts from 0 on.
  absl::Status ClearLoad() {
    const auto experts = static_cast<size_t>(rank_.experts());
    if (experts == 0) {
      return absl::OkStatus();
    }
    load_.assign(static_cast<size_t>(rank_.layers()), std::vector<uint64_t>(experts));
    load_now_.assign(load_.size() * experts, 0);
    load_seen_ = load_now_;
    const std::unique_ptr<kernels::Stream> stream = rank_.backend.CreateStream();
    rank_.backend.Write(*stream, rank_.scratch.load.buffer(), 0, std::as_bytes(std::span(load_seen_)));
    return rank_.backend.Synchronize(*stream);
  }

  const model::ShardPlan plan_;
  Rank rank_;
  int64_t max_rows_ = 0;
  int64_t max_logit_rows_ = 0;
  int64_t logit_rows_ = 0;
  ExpertLoad load_;
  std::vector<uint32_t> load_now_;   // the device's counts [L, experts here], modulo 2^32
  std::vector<uint32_t> load_seen_;  // the same, as they were when last read
};

}  // namespace

absl::StatusOr<std::unique_ptr<Gemma>> Gemma::Create(const model::Checkpoint& checkpoint, const model::ShardPlan& plan,
                                                     int rank, kernels::Backend& backend, comm::Communicator& comm,
                                                     const GemmaOptions& options,
                                                     const std::function<void(int64_t, int64_t)>& progress) {
  const auto ranks = static_cast<int>(plan.ranks.size());
  if (rank < 0 || rank >= ranks || comm.rank() != rank || comm.size() != ranks) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "rank %d of a plan for %d ranks, on a communicator as rank %d of %d", rank, ranks, comm.rank(), comm.size()));
  }
  if (plan.ranks[static_cast<size_t>(rank)].layers.size() != checkpoint.config().layers.size()) {
    return absl::InvalidArgumentError(absl::StrFormat("the plan has %d layers, the checkpoint %d",
                                                      plan.ranks[static_cast<size_t>(rank)].layers.size(),
                                                      checkpoint.config().layers.size()));
  }
  if (options.max_rows < 1 || options.max_logit_rows < 0) {
    return absl::InvalidArgumentError(absl::StrFormat("max_rows is %d (1 or more), max_logit_rows %d (0 or more)",
                                                      options.max_rows, options.max_logit_rows));
  }
  auto gemma = std::make_unique<GemmaRank>(checkpoint, plan, rank, backend, comm);
  RETURN_IF_ERROR(gemma->Load(checkpoint, options, progress));
  return gemma;
}

}  // namespace alphecca::forward

#include "worker/forward/weights.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "kernels/dtype.h"
#include "kernels/quant/quant.h"
#include "model/catalogue.h"

namespace alphecca::forward {
namespace {

using kernels::DType;
using kernels::HostTensor;
using kernels::PackSource;
using model::TensorKind;

absl::StatusOr<std::vector<float>> ReadVector(const HostTensor& tensor, const std::string& name) {
  if (!kernels::IsDecodable(tensor.type)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is %s: a vector of weights holds floats", name, kernels::Info(tensor.type).name));
  }
  const int64_t count = tensor.items * tensor.rows * tensor.cols;
  std::vector<float> values(static_cast<size_t>(count));
  kernels::DecodeRow(tensor.type, tensor.data, {0, count}, tensor.scale, values.data());
  return values;
}

int64_t SourceBytes(const PackSource& source) {
  return source.items.size() * source.rows.size() * kernels::RowBytes(source.tensor.type, source.cols.size());
}

// Collects what to load, then loads it: the total is known before the first byte is touched.
class Loader {
 public:
  Loader(const model::Checkpoint& checkpoint, kernels::Backend& backend, bool widen)
      : checkpoint_(checkpoint), backend_(backend), widen_(widen), stream_(backend.CreateStream()) {}

  // A slice of one tensor of the checkpoint. Unset: all of it.
  struct Slice {
    TensorKind kind;
    std::optional<Range> items = std::nullopt;
    std::optional<Range> rows = std::nullopt;
    std::optional<Range> cols = std::nullopt;
  };

  // Plans one Matrix of the slices, one under another. None if it would be empty.
  absl::Status Matrix(MatrixPtr& to, int layer, const std::vector<Slice>& slices) {
    Job job{.to = &to, .sources = {}, .type = DType::kF32};
    for (const Slice& slice : slices) {
      ASSIGN_OR_RETURN(const PackSource source, Cut(slice, layer));
      if (source.items.empty() || source.rows.empty() || source.cols.empty()) {
        continue;
      }
      const DType type = model::RuntimeType(source.tensor.type);
      job.type = job.sources.empty() ? type : model::CommonType(job.type, type);
      total_ += SourceBytes(source);
      job.sources.push_back(source);
    }
    if (widen_) {
      job.type = DType::kF32;
    }
    if (!job.sources.empty()) {
      jobs_.push_back(std::move(job));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<float>> Vector(TensorKind kind, int layer) {
    ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_.Find(kind, layer));
    return ReadVector(tensor, model::CanonicalName(kind, layer));
  }

  absl::StatusOr<BufferPtr> Upload(std::span<const float> values) {
    ASSIGN_OR_RETURN(BufferPtr buffer, backend_.Allocate(static_cast<int64_t>(values.size_bytes())));
    backend_.Write(*stream_, *buffer, 0, std::as_bytes(values));
    bytes_ += buffer->bytes;
    return buffer;
  }

  absl::Status Norm(BufferPtr& to, TensorKind kind, int layer) {
    ASSIGN_OR_RETURN(std::vector<float> values, Vector(kind, layer));
    for (float& value : values) {
      value += checkpoint_.norm_offset();
    }
    ASSIGN_OR_RETURN(to, Upload(values));
    return absl::OkStatus();
  }

  absl::Status Run(const std::function<void(int64_t, int64_t)>& progress) {
    int64_t done = 0;
    for (const Job& job : jobs_) {
      ASSIGN_OR_RETURN(*job.to, backend_.Pack(job.sources, job.type));
      bytes_ += (*job.to)->bytes;
      for (const PackSource& source : job.sources) {
        done += SourceBytes(source);
        checkpoint_.Advise(source.tensor, model::Residency::kDrop);  // else the file's pages would count beside the copy
      }
      if (progress) {
        progress(done, total_);
      }
    }
    return backend_.Synchronize(*stream_);
  }

  int64_t bytes() const { return bytes_; }

 private:
  struct Job {
    MatrixPtr* to;
    std::vector<PackSource> sources;
    DType type;
  };

  absl::StatusOr<PackSource> Cut(const Slice& slice, int layer) const {
    ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_.Find(slice.kind, layer));
    PackSource source{.tensor = tensor,
                      .items = slice.items.value_or(Range{0, tensor.items}),
                      .rows = slice.rows.value_or(Range{0, tensor.rows}),
                      .cols = slice.cols.value_or(Range{0, tensor.cols})};
    const auto inside = [](Range range, int64_t size) { return range.begin >= 0 && range.end <= size; };
    if (!inside(source.items, tensor.items) || !inside(source.rows, tensor.rows) || !inside(source.cols, tensor.cols)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s [%d, %d, %d]: the plan asks for items up to %d, rows up to %d, columns up to %d",
                          model::CanonicalName(slice.kind, layer), tensor.items, tensor.rows, tensor.cols,
                          source.items.end, source.rows.end, source.cols.end));
    }
    const int block = kernels::Info(tensor.type).block_elements;
    if (source.cols.begin % block != 0 || source.cols.end % block != 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: columns [%d, %d) cut a block of %d weights of type %s; use a smaller --tp or --ep",
                          model::CanonicalName(slice.kind, layer), source.cols.begin, source.cols.end, block,
                          kernels::Info(tensor.type).name));
    }
    return source;
  }

  const model::Checkpoint& checkpoint_;
  kernels::Backend& backend_;
  const bool widen_;
  std::unique_ptr<kernels::Stream> stream_;
  std::vector<Job> jobs_;
  int64_t total_ = 0;
  int64_t bytes_ = 0;
};

Range Scaled(Range range, int64_t by) {
  return {range.begin * by, range.end * by};
}

absl::Status LoadAttention(Loader& load, const model::ModelConfig& config, int l, const model::LayerShard& shard,
                           bool dense, LayerWeights& w) {
  const model::LayerConfig& layer = config.layers[static_cast<size_t>(l)];
  const bool owns_kv = config.OwnsKv(l);
  RETURN_IF_ERROR(load.Norm(w.input_norm, TensorKind::kInputNorm, l));
  RETURN_IF_ERROR(load.Norm(w.q_norm, TensorKind::kQNorm, l));
  if (owns_kv) {
    RETURN_IF_ERROR(load.Norm(w.k_norm, TensorKind::kKNorm, l));
  }
  RETURN_IF_ERROR(load.Norm(w.post_attention_norm, TensorKind::kPostAttentionNorm, l));
  if (!dense || shard.heads.empty()) {
    return absl::OkStatus();
  }
  const Range query = Scaled(shard.heads, layer.head_dim);
  const Range kv = Scaled(shard.kv_heads, layer.head_dim);
  std::vector<Loader::Slice> slices = {{.kind = TensorKind::kQ, .rows = query}};
  if (owns_kv) {
    slices.push_back({.kind = TensorKind::kK, .rows = kv});
    if (!layer.v_from_k) {
      slices.push_back({.kind = TensorKind::kV, .rows = kv});
    }
  }
  RETURN_IF_ERROR(load.Matrix(w.qkv, l, slices));
  return load.Matrix(w.o, l, {{.kind = TensorKind::kO, .cols = query}});
}

absl::Status LoadMlp(Loader& load, int l, const model::LayerShard& shard, bool dense, LayerWeights& w) {
  RETURN_IF_ERROR(load.Norm(w.pre_ffn_norm, TensorKind::kPreFfnNorm, l));
  RETURN_IF_ERROR(load.Norm(w.post_ffn_norm, TensorKind::kPostFfnNorm, l));
  if (!dense) {
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(load.Matrix(
      w.gate_up, l, {{.kind = TensorKind::kGate, .rows = shard.mlp}, {.kind = TensorKind::kUp, .rows = shard.mlp}}));
  return load.Matrix(w.down, l, {{.kind = TensorKind::kDown, .cols = shard.mlp}});
}

absl::Status LoadExperts(Loader& load, const model::Checkpoint& checkpoint, int l, const model::LayerShard& shard,
                         LayerWeights& w) {
  const model::ModelConfig& config = checkpoint.config();
  ASSIGN_OR_RETURN(std::vector<float> norm, load.Vector(TensorKind::kRouterScale, l));
  const float root = 1.0F / std::sqrt(static_cast<float>(config.hidden));
  for (float& value : norm) {
    value *= root;
  }
  ASSIGN_OR_RETURN(w.router_norm, load.Upload(norm));
  ASSIGN_OR_RETURN(const std::vector<float> scale, load.Vector(TensorKind::kExpertScale, l));
  ASSIGN_OR_RETURN(w.expert_scale, load.Upload(scale));
  RETURN_IF_ERROR(load.Matrix(w.router, l, {{.kind = TensorKind::kRouter}}));
  RETURN_IF_ERROR(load.Norm(w.pre_experts_norm, TensorKind::kPreFfnNorm2, l));
  RETURN_IF_ERROR(load.Norm(w.post_dense_norm, TensorKind::kPostFfnNorm1, l));
  RETURN_IF_ERROR(load.Norm(w.post_experts_norm, TensorKind::kPostFfnNorm2, l));

  const Range items = shard.experts;
  const Range gate = shard.expert_columns;
  const Range up = {gate.begin + config.expert_width, gate.end + config.expert_width};
  if (gate.empty()) {
    return absl::OkStatus();
  }
  if (checkpoint.Has(TensorKind::kExpertGateUp, l)) {
    RETURN_IF_ERROR(load.Matrix(w.expert_gate_up, l,
                                {{.kind = TensorKind::kExpertGateUp, .items = items, .rows = gate},
                                 {.kind = TensorKind::kExpertGateUp, .items = items, .rows = up}}));
  } else {
    RETURN_IF_ERROR(load.Matrix(w.expert_gate_up, l,
                                {{.kind = TensorKind::kExpertGate, .items = items, .rows = gate},
                                 {.kind = TensorKind::kExpertUp, .items = items, .rows = gate}}));
  }
  return load.Matrix(w.expert_down, l, {{.kind = TensorKind::kExpertDown, .items = items, .cols = gate}});
}

absl::Status LoadLayer(Loader& load, const model::Checkpoint& checkpoint, int l, const model::LayerShard& shard,
                       bool dense, LayerWeights& w) {
  const model::ModelConfig& config = checkpoint.config();
  RETURN_IF_ERROR(LoadAttention(load, config, l, shard, dense, w));
  RETURN_IF_ERROR(LoadMlp(load, l, shard, dense, w));
  if (config.experts > 0) {
    RETURN_IF_ERROR(LoadExperts(load, checkpoint, l, shard, w));
  }
  if (config.per_layer_width > 0) {
    RETURN_IF_ERROR(load.Matrix(w.per_layer_gate, l, {{.kind = TensorKind::kPerLayerGate}}));
    RETURN_IF_ERROR(load.Matrix(w.per_layer_projection, l, {{.kind = TensorKind::kPerLayerProj}}));
    RETURN_IF_ERROR(load.Norm(w.post_per_layer_norm, TensorKind::kPostPerLayerNorm, l));
  }
  if (config.family == model::Family::kGemma4) {
    ASSIGN_OR_RETURN(const std::vector<float> scalar, load.Vector(TensorKind::kLayerScalar, l));
    if (scalar.size() != 1) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s has %d values: 1 is wanted", model::CanonicalName(TensorKind::kLayerScalar, l), scalar.size()));
    }
    w.layer_scalar = scalar[0];
  }
  return absl::OkStatus();
}

// f[i] = theta^(-2i / Hd) / factor for the pairs that turn, else 0 (spec gemma4-text, section 2). Rounded to f32 where
// transformers rounds: the exponent, the power, its inverse.
std::vector<float> RopeFrequencies(const model::RopeConfig& rope, int head_dim) {
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2), 0.0F);
  for (int i = 0; i < std::min(rope.rotating, head_dim / 2); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const auto power = static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
    frequencies[static_cast<size_t>(i)] = 1.0F / power / static_cast<float>(rope.factor);
  }
  return frequencies;
}

absl::Status LoadRope(Loader& load, const model::ModelConfig& config, Weights& w) {
  for (const model::LayerConfig& layer : config.layers) {
    BufferPtr& to = layer.full_attention ? w.rope_full : w.rope_sliding;
    if (to == nullptr) {
      ASSIGN_OR_RETURN(to, load.Upload(RopeFrequencies(layer.full_attention ? config.rope_full : config.rope_sliding,
                                                       layer.head_dim)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

Duties DutiesOf(const model::ShardPlan& plan, int rank) {
  const model::RankShard& mine = plan.ranks[static_cast<size_t>(rank)];
  const auto same_slice = [&mine](const model::RankShard& other) { return other.vocab == mine.vocab; };
  const auto first = std::find_if(plan.ranks.begin(), plan.ranks.end(), same_slice);
  return {.dense = mine.adds_dense, .vocabulary = first->rank == rank && !mine.vocab.empty()};
}

absl::StatusOr<Weights> LoadWeights(const model::Checkpoint& checkpoint, const model::ShardPlan& plan, int rank,
                                    kernels::Backend& backend, bool widen,
                                    const std::function<void(int64_t, int64_t)>& progress) {
  const model::ModelConfig& config = checkpoint.config();
  const model::RankShard& shard = plan.ranks[static_cast<size_t>(rank)];
  const Duties duties = DutiesOf(plan, rank);
  Loader load(checkpoint, backend, widen);
  Weights w;
  w.layers.resize(config.layers.size());
  if (duties.vocabulary) {
    RETURN_IF_ERROR(load.Matrix(w.embedding, -1, {{.kind = TensorKind::kEmbedding, .rows = shard.vocab}}));
  }
  RETURN_IF_ERROR(load.Norm(w.final_norm, TensorKind::kFinalNorm, -1));
  if (config.per_layer_width > 0) {
    ASSIGN_OR_RETURN(w.per_layer_table, checkpoint.Find(TensorKind::kPerLayerEmbedding, -1));
    checkpoint.Advise(w.per_layer_table, model::Residency::kRandom);
    RETURN_IF_ERROR(load.Matrix(w.per_layer_projection, -1, {{.kind = TensorKind::kPerLayerModelProj}}));
    RETURN_IF_ERROR(load.Norm(w.per_layer_norm, TensorKind::kPerLayerProjNorm, -1));
  }
  RETURN_IF_ERROR(LoadRope(load, config, w));
  for (size_t l = 0; l < w.layers.size(); ++l) {
    RETURN_IF_ERROR(LoadLayer(load, checkpoint, static_cast<int>(l), shard.layers[l], duties.dense, w.layers[l]));
  }
  RETURN_IF_ERROR(load.Run(progress));
  w.bytes = load.bytes();
  return w;
}

}  // namespace alphecca::forward

#include "worker/forward/weights.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "kernels/dtype.h"
#include "kernels/quant/quant.h"
#include "model/shard_slices.h"

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
  kernels::DecodeRow(tensor.type, tensor.data, {0, count}, 1.0F, values.data());
  return values;
}

int64_t SourceBytes(const PackSource& source) {
  return source.items.size() * source.rows.size() * kernels::RowBytes(source.tensor.type, source.cols.size());
}

// Collects what to load, then loads it: the total is known before the first byte is touched.
class Loader {
 public:
  Loader(const model::Checkpoint& checkpoint, const model::ShardPlan& plan, int rank, kernels::Backend& backend,
         model::WeightType held)
      : checkpoint_(checkpoint), backend_(backend), held_(held), stream_(backend.CreateStream()) {
    for (const model::TensorSlice& slice : model::ShardSlices(checkpoint.config(), plan, rank)) {
      slices_[{slice.kind, slice.layer}].push_back(slice);
    }
  }

  // Plans one Matrix of what the rank holds of these tensors, one under another. None if it holds nothing of them.
  absl::Status Matrix(MatrixPtr& to, int layer, std::initializer_list<TensorKind> kinds) {
    Job job{.to = &to, .sources = {}, .type = DType::kF32};
    Range items;  // of the source before
    for (const TensorKind kind : kinds) {
      for (const model::TensorSlice& slice : Held(kind, layer)) {
        ASSIGN_OR_RETURN(PackSource source, checkpoint_.Cut(slice));
        source.next_items = !job.sources.empty() && slice.items != items;
        items = slice.items;
        ASSIGN_OR_RETURN(const DType type, model::HeldType(kind, source.tensor.type, held_));
        RETURN_IF_ERROR(CheckBlocks(source, source.tensor.type, kind, layer));
        RETURN_IF_ERROR(CheckBlocks(source, type, kind, layer));
        job.type = job.sources.empty() ? type : model::CommonType(job.type, type);
        total_ += SourceBytes(source);
        job.sources.push_back(source);
      }
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

  // None if the model has no such norm.
  absl::Status Norm(BufferPtr& to, TensorKind kind, int layer) {
    if (Held(kind, layer).empty()) {
      return absl::OkStatus();
    }
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
        checkpoint_.Advise(source.tensor,
                           model::Residency::kDrop);  // else the file's pages would count beside the copy
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

  std::span<const model::TensorSlice> Held(TensorKind kind, int layer) const {
    const auto found = slices_.find({kind, layer});
    return found == slices_.end() ? std::span<const model::TensorSlice>() : found->second;
  }

  static absl::Status CheckBlocks(const PackSource& source, DType type, TensorKind kind, int layer) {
    const int block = kernels::Info(type).block_elements;
    if (source.cols.begin % block != 0 || source.cols.end % block != 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: columns [%d, %d) cut a block of %d weights of type %s; use a smaller --tp or --ep",
          model::CanonicalName(kind, layer), source.cols.begin, source.cols.end, block, kernels::Info(type).name));
    }
    return absl::OkStatus();
  }

  const model::Checkpoint& checkpoint_;
  kernels::Backend& backend_;
  const model::WeightType held_;
  std::unique_ptr<kernels::Stream> stream_;
  std::map<std::pair<TensorKind, int>, std::vector<model::TensorSlice>> slices_;
  std::vector<Job> jobs_;
  int64_t total_ = 0;
  int64_t bytes_ = 0;
};

absl::Status LoadAttention(Loader& load, int l, LayerWeights& w) {
  RETURN_IF_ERROR(load.Norm(w.input_norm, TensorKind::kInputNorm, l));
  RETURN_IF_ERROR(load.Norm(w.q_norm, TensorKind::kQNorm, l));
  RETURN_IF_ERROR(load.Norm(w.k_norm, TensorKind::kKNorm, l));
  RETURN_IF_ERROR(load.Norm(w.post_attention_norm, TensorKind::kPostAttentionNorm, l));
  RETURN_IF_ERROR(load.Matrix(w.qkv, l, {TensorKind::kQ, TensorKind::kK, TensorKind::kV}));
  return load.Matrix(w.o, l, {TensorKind::kO});
}

absl::Status LoadMlp(Loader& load, int l, LayerWeights& w) {
  RETURN_IF_ERROR(load.Norm(w.pre_ffn_norm, TensorKind::kPreFfnNorm, l));
  RETURN_IF_ERROR(load.Norm(w.post_ffn_norm, TensorKind::kPostFfnNorm, l));
  RETURN_IF_ERROR(load.Matrix(w.gate_up, l, {TensorKind::kGate, TensorKind::kUp}));
  return load.Matrix(w.down, l, {TensorKind::kDown});
}

absl::Status LoadExperts(Loader& load, int hidden, int l, LayerWeights& w) {
  ASSIGN_OR_RETURN(std::vector<float> norm, load.Vector(TensorKind::kRouterScale, l));
  const float root = 1.0F / std::sqrt(static_cast<float>(hidden));
  for (float& value : norm) {
    value *= root;
  }
  ASSIGN_OR_RETURN(w.router_norm, load.Upload(norm));
  ASSIGN_OR_RETURN(const std::vector<float> scale, load.Vector(TensorKind::kExpertScale, l));
  ASSIGN_OR_RETURN(w.expert_scale, load.Upload(scale));
  RETURN_IF_ERROR(load.Matrix(w.router, l, {TensorKind::kRouter}));
  RETURN_IF_ERROR(load.Norm(w.pre_experts_norm, TensorKind::kPreFfnNorm2, l));
  RETURN_IF_ERROR(load.Norm(w.post_dense_norm, TensorKind::kPostFfnNorm1, l));
  RETURN_IF_ERROR(load.Norm(w.post_experts_norm, TensorKind::kPostFfnNorm2, l));
  RETURN_IF_ERROR(load.Matrix(w.expert_gate_up, l, {TensorKind::kExpertGateUp}));
  return load.Matrix(w.expert_down, l, {TensorKind::kExpertDown});
}

absl::Status LoadLayer(Loader& load, const model::ModelConfig& config, int l, LayerWeights& w) {
  RETURN_IF_ERROR(LoadAttention(load, l, w));
  RETURN_IF_ERROR(LoadMlp(load, l, w));
  if (config.experts > 0) {
    RETURN_IF_ERROR(LoadExperts(load, config.hidden, l, w));
  }
  RETURN_IF_ERROR(load.Matrix(w.per_layer_gate, l, {TensorKind::kPerLayerGate}));
  RETURN_IF_ERROR(load.Matrix(w.per_layer_projection, l, {TensorKind::kPerLayerProj}));
  RETURN_IF_ERROR(load.Norm(w.post_per_layer_norm, TensorKind::kPostPerLayerNorm, l));
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

absl::StatusOr<Weights> LoadWeights(const model::Checkpoint& checkpoint, const model::ShardPlan& plan, int rank,
                                    kernels::Backend& backend, model::WeightType held,
                                    const std::function<void(int64_t, int64_t)>& progress) {
  const model::ModelConfig& config = checkpoint.config();
  Loader load(checkpoint, plan, rank, backend, held);
  Weights w;
  w.layers.resize(config.layers.size());
  RETURN_IF_ERROR(load.Matrix(w.embedding, -1, {TensorKind::kEmbedding}));
  RETURN_IF_ERROR(load.Norm(w.final_norm, TensorKind::kFinalNorm, -1));
  if (config.per_layer_width > 0) {
    ASSIGN_OR_RETURN(w.per_layer_table, checkpoint.Find(TensorKind::kPerLayerEmbedding, -1));
    checkpoint.Advise(w.per_layer_table, model::Residency::kRandom);
  }
  RETURN_IF_ERROR(load.Matrix(w.per_layer_projection, -1, {TensorKind::kPerLayerModelProj}));
  RETURN_IF_ERROR(load.Norm(w.per_layer_norm, TensorKind::kPerLayerProjNorm, -1));
  RETURN_IF_ERROR(LoadRope(load, config, w));
  for (size_t l = 0; l < w.layers.size(); ++l) {
    RETURN_IF_ERROR(LoadLayer(load, config, static_cast<int>(l), w.layers[l]));
  }
  RETURN_IF_ERROR(load.Run(progress));
  w.bytes = load.bytes();
  return w;
}

}  // namespace alphecca::forward

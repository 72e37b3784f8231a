// Checkpoints of random shapes and random bytes, and a backend that keeps what is packed, for tests of shard plans.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/quant/quant.h"
#include "kernels/ref/ref_internal.h"
#include "model/checkpoint.h"
#include "model/shard_slices.h"

namespace alphecca::model {

// A valid configuration of any form: dense, MoE or with per-layer embeddings, KV shared or not, of either family, KV
// heads from one to all, V from K or not. Columns are multiples of 32.
inline ModelConfig RandomConfig(std::mt19937& random) {
  const auto pick = [&random](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  ModelConfig config;
  config.family = pick(0, 4) == 0 ? Family::kGemma3 : Family::kGemma4;
  config.hidden = 32 * pick(1, 3);
  config.heads = pick(1, 9);
  config.vocab = pick(1, 300);
  config.sliding_window = 8;
  config.context = 256;
  const bool gemma4 = config.family == Family::kGemma4;
  if (gemma4 && pick(0, 2) == 0) {
    config.experts = pick(1, 9);
    config.experts_per_token = pick(1, config.experts);
    config.expert_width = 32 * pick(1, 5);
  }
  if (gemma4 && pick(0, 2) == 0) {
    config.per_layer_width = 32;
    config.per_layer_vocab = config.vocab + pick(0, 3);
  }
  const int layers = pick(1, 4);
  const int owners = gemma4 ? pick(1, layers) : layers;  // the layers after these share their KV
  const bool v_from_k = gemma4 && pick(0, 1) == 0;
  int kv_heads[2];
  for (int& count : kv_heads) {
    count = pick(1, config.heads);
    while (config.heads % count != 0) {
      --count;
    }
  }
  for (int i = 0; i < layers; ++i) {
    LayerConfig layer{.full_attention = pick(0, 1) == 1, .mlp_width = 32 * pick(1, 7), .kv_source = i};
    if (i >= owners) {
      layer.full_attention = config.layers[static_cast<size_t>(owners - 1)].full_attention;
      layer.kv_source = owners - 1;
    }
    layer.kv_heads = kv_heads[layer.full_attention ? 1 : 0];
    layer.head_dim = layer.full_attention ? 64 : 32;
    layer.v_from_k = v_from_k && layer.full_attention && layer.kv_source == i;
    config.layers.push_back(layer);
  }
  return config;
}

// Random bytes in every tensor: matrices and tables of one type, vectors F32. Experts fused or split.
class RandomCheckpoint : public Checkpoint {
 public:
  RandomCheckpoint(const ModelConfig& config, kernels::DType type, bool split_experts, std::mt19937& random) {
    config_ = config;
    for (TensorSpec spec : Catalogue(config)) {
      if (split_experts && spec.kind == TensorKind::kExpertGateUp) {
        spec.rows /= 2;
        spec.kind = TensorKind::kExpertGate;
        Add(spec, type, random);
        spec.kind = TensorKind::kExpertUp;
      }
      Add(spec, HoldingOf(spec.kind) == Holding::kVector ? kernels::DType::kF32 : type, random);
    }
  }

  absl::StatusOr<kernels::HostTensor> Find(TensorKind kind, int layer) const override {
    const auto found = tensors_.find({kind, layer});
    if (found == tensors_.end()) {
      return absl::NotFoundError(absl::StrCat("no tensor ", CanonicalName(kind, layer)));
    }
    const auto& [spec, type, bytes] = found->second;
    return kernels::HostTensor{
        .type = type, .data = bytes.data(), .items = spec.items, .rows = spec.rows, .cols = spec.cols};
  }
  std::string Revision() const override { return "random"; }

  struct Stored {
    TensorSpec spec;
    kernels::DType type = kernels::DType::kF32;
    std::vector<std::byte> bytes;
  };
  using Tensors = std::map<std::pair<TensorKind, int>, Stored>;
  const Tensors& tensors() const { return tensors_; }

 private:
  void Add(const TensorSpec& spec, kernels::DType type, std::mt19937& random) {
    std::vector<std::byte> bytes(static_cast<size_t>(spec.items * spec.rows * kernels::RowBytes(type, spec.cols)));
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(random());
    }
    tensors_[{spec.kind, spec.layer}] = {spec, type, std::move(bytes)};
  }

  Tensors tensors_;
};

// A worker's device that remembers the sources of each matrix with a copy of their bytes, and counts what it allocates.
class RecordingBackend : public kernels::RefBackend {
 public:
  struct Packed {
    kernels::PackSource source;
    std::vector<std::byte> bytes;  // the source's, [items, rows, cols]
  };

  absl::StatusOr<std::unique_ptr<kernels::Matrix>> Pack(std::span<const kernels::PackSource> sources,
                                                        kernels::DType type) override {
    for (const kernels::PackSource& source : sources) {
      packed.push_back({source, Copy(source)});
    }
    return kernels::RefBackend::Pack(sources, type);
  }
  absl::StatusOr<std::unique_ptr<kernels::Buffer>> Allocate(int64_t bytes) override {
    allocated += bytes;
    return kernels::RefBackend::Allocate(bytes);
  }

  std::vector<Packed> packed;
  int64_t allocated = 0;

 private:
  static std::vector<std::byte> Copy(const kernels::PackSource& source) {
    const kernels::HostTensor& tensor = source.tensor;
    const int64_t row_bytes = kernels::RowBytes(tensor.type, tensor.cols);
    const int64_t first = kernels::RowBytes(tensor.type, source.cols.begin);
    const int64_t size = kernels::RowBytes(tensor.type, source.cols.size());
    std::vector<std::byte> bytes;
    for (int64_t item = source.items.begin; item < source.items.end; ++item) {
      for (int64_t row = source.rows.begin; row < source.rows.end; ++row) {
        const std::byte* from = tensor.data + (item * tensor.rows + row) * row_bytes + first;
        bytes.insert(bytes.end(), from, from + size);
      }
    }
    return bytes;
  }
};

}  // namespace alphecca::model

#include "model/catalogue.h"

#include <utility>

#include "model/messages.h"

namespace alphecca::model {
namespace {

struct Names {
  std::string_view hugging_face;
  std::string_view gguf;
};

// Spec gemma4-models, sections 4.1 and 4.2; of a layer, what follows "layers.{i}." and "blk.{i}.".
Names NamesOf(TensorKind kind) {
  switch (kind) {
    case TensorKind::kEmbedding:
      return {"embed_tokens.weight", "token_embd.weight"};
    case TensorKind::kFinalNorm:
      return {"norm.weight", "output_norm.weight"};
    case TensorKind::kPerLayerEmbedding:
      return {"embed_tokens_per_layer.weight", "per_layer_token_embd.weight"};
    case TensorKind::kPerLayerModelProj:
      return {"per_layer_model_projection.weight", "per_layer_model_proj.weight"};
    case TensorKind::kPerLayerProjNorm:
      return {"per_layer_projection_norm.weight", "per_layer_proj_norm.weight"};
    case TensorKind::kInputNorm:
      return {"input_layernorm.weight", "attn_norm.weight"};
    case TensorKind::kQ:
      return {"self_attn.q_proj.weight", "attn_q.weight"};
    case TensorKind::kK:
      return {"self_attn.k_proj.weight", "attn_k.weight"};
    case TensorKind::kV:
      return {"self_attn.v_proj.weight", "attn_v.weight"};
    case TensorKind::kQNorm:
      return {"self_attn.q_norm.weight", "attn_q_norm.weight"};
    case TensorKind::kKNorm:
      return {"self_attn.k_norm.weight", "attn_k_norm.weight"};
    case TensorKind::kO:
      return {"self_attn.o_proj.weight", "attn_output.weight"};
    case TensorKind::kPostAttentionNorm:
      return {"post_attention_layernorm.weight", "post_attention_norm.weight"};
    case TensorKind::kPreFfnNorm:
      return {"pre_feedforward_layernorm.weight", "ffn_norm.weight"};
    case TensorKind::kGate:
      return {"mlp.gate_proj.weight", "ffn_gate.weight"};
    case TensorKind::kUp:
      return {"mlp.up_proj.weight", "ffn_up.weight"};
    case TensorKind::kDown:
      return {"mlp.down_proj.weight", "ffn_down.weight"};
    case TensorKind::kPostFfnNorm:
      return {"post_feedforward_layernorm.weight", "post_ffw_norm.weight"};
    case TensorKind::kLayerScalar:
      return {"layer_scalar", "layer_output_scale.weight"};
    case TensorKind::kPerLayerGate:
      return {"per_layer_input_gate.weight", "inp_gate.weight"};
    case TensorKind::kPerLayerProj:
      return {"per_layer_projection.weight", "proj.weight"};
    case TensorKind::kPostPerLayerNorm:
      return {"post_per_layer_input_norm.weight", "post_norm.weight"};
    case TensorKind::kRouter:
      return {"router.proj.weight", "ffn_gate_inp.weight"};
    case TensorKind::kRouterScale:
      return {"router.scale", "ffn_gate_inp.scale"};
    case TensorKind::kExpertScale:
      return {"router.per_expert_scale", "ffn_down_exps.scale"};
    case TensorKind::kExpertGateUp:
      return {"experts.gate_up_proj", "ffn_gate_up_exps.weight"};
    case TensorKind::kExpertGate:
      return {"experts.gate_proj", "ffn_gate_exps.weight"};
    case TensorKind::kExpertUp:
      return {"experts.up_proj", "ffn_up_exps.weight"};
    case TensorKind::kExpertDown:
      return {"experts.down_proj", "ffn_down_exps.weight"};
    case TensorKind::kPreFfnNorm2:
      return {"pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight"};
    case TensorKind::kPostFfnNorm1:
      return {"post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight"};
    case TensorKind::kPostFfnNorm2:
      return {"post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight"};
  }
  return {"?", "?"};
}

class Builder {
 public:
  explicit Builder(const ModelConfig& config) : config_(config) {}

  std::vector<TensorSpec> Build() {
    const int64_t ple = int64_t{config_.per_layer_width} * static_cast<int64_t>(config_.layers.size());
    Matrix(TensorKind::kEmbedding, config_.vocab, config_.hidden);
    if (ple > 0) {
      Matrix(TensorKind::kPerLayerEmbedding, config_.per_layer_vocab, ple);
      Matrix(TensorKind::kPerLayerModelProj, ple, config_.hidden);
      Vector(TensorKind::kPerLayerProjNorm, config_.per_layer_width);
    }
    for (layer_ = 0; layer_ < static_cast<int>(config_.layers.size()); ++layer_) {
      Layer(config_.layers[static_cast<size_t>(layer_)]);
    }
    layer_ = -1;
    Vector(TensorKind::kFinalNorm, config_.hidden);
    return std::move(specs_);
  }

 private:
  void Layer(const LayerConfig& layer) {
    const int64_t hidden = config_.hidden;
    Vector(TensorKind::kInputNorm, hidden);
    Attention(layer);
    Vector(TensorKind::kPostAttentionNorm, hidden);
    Vector(TensorKind::kPreFfnNorm, hidden);
    Matrix(TensorKind::kGate, layer.mlp_width, hidden);
    Matrix(TensorKind::kUp, layer.mlp_width, hidden);
    Matrix(TensorKind::kDown, hidden, layer.mlp_width);
    if (config_.experts > 0) {
      Experts();
    }
    Vector(TensorKind::kPostFfnNorm, hidden);
    if (config_.per_layer_width > 0) {
      Matrix(TensorKind::kPerLayerGate, config_.per_layer_width, hidden);
      Matrix(TensorKind::kPerLayerProj, hidden, config_.per_layer_width);
      Vector(TensorKind::kPostPerLayerNorm, hidden);
    }
    if (config_.family == Family::kGemma4) {
      Vector(TensorKind::kLayerScalar, 1);
    }
  }

  void Attention(const LayerConfig& layer) {
    const int64_t q_rows = int64_t{config_.heads} * layer.head_dim;
    const int64_t kv_rows = int64_t{layer.kv_heads} * layer.head_dim;
    Matrix(TensorKind::kQ, q_rows, config_.hidden);
    Vector(TensorKind::kQNorm, layer.head_dim);
    if (config_.OwnsKv(layer_)) {
      Matrix(TensorKind::kK, kv_rows, config_.hidden);
      Vector(TensorKind::kKNorm, layer.head_dim);
      if (!layer.v_from_k) {
        Matrix(TensorKind::kV, kv_rows, config_.hidden);
      }
    }
    Matrix(TensorKind::kO, config_.hidden, q_rows);
  }

  void Experts() {
    const int64_t hidden = config_.hidden;
    const int64_t width = config_.expert_width;
    Matrix(TensorKind::kRouter, config_.experts, hidden);
    Vector(TensorKind::kRouterScale, hidden);
    Vector(TensorKind::kExpertScale, config_.experts);
    Add(TensorKind::kExpertGateUp, config_.experts, 2 * width, hidden);
    Add(TensorKind::kExpertDown, config_.experts, hidden, width);
    Vector(TensorKind::kPreFfnNorm2, hidden);
    Vector(TensorKind::kPostFfnNorm1, hidden);
    Vector(TensorKind::kPostFfnNorm2, hidden);
  }

  void Vector(TensorKind kind, int64_t size) { Add(kind, 1, 1, size); }
  void Matrix(TensorKind kind, int64_t rows, int64_t cols) { Add(kind, 1, rows, cols); }
  void Add(TensorKind kind, int64_t items, int64_t rows, int64_t cols) {
    specs_.push_back({.kind = kind, .layer = layer_, .items = items, .rows = rows, .cols = cols});
  }

  const ModelConfig& config_;
  int layer_ = -1;
  std::vector<TensorSpec> specs_;
};

}  // namespace

bool IsVector(TensorKind kind) {
  switch (kind) {
    case TensorKind::kRouter:
    case TensorKind::kEmbedding:
    case TensorKind::kPerLayerEmbedding:
    case TensorKind::kPerLayerModelProj:
    case TensorKind::kPerLayerGate:
    case TensorKind::kPerLayerProj:
    case TensorKind::kQ:
    case TensorKind::kK:
    case TensorKind::kV:
    case TensorKind::kO:
    case TensorKind::kGate:
    case TensorKind::kUp:
    case TensorKind::kDown:
    case TensorKind::kExpertGateUp:
    case TensorKind::kExpertGate:
    case TensorKind::kExpertUp:
    case TensorKind::kExpertDown:
      return false;
    default:
      return true;
  }
}

std::vector<TensorSpec> Catalogue(const ModelConfig& config) {
  return Builder(config).Build();
}

std::string CanonicalName(TensorKind kind, int layer) {
  const std::string_view name = NamesOf(kind).hugging_face;
  return layer < 0 ? std::string(name) : Text("layers.", layer, ".", name);
}

std::string GgufName(TensorKind kind, int layer) {
  const std::string_view name = NamesOf(kind).gguf;
  return layer < 0 ? std::string(name) : Text("blk.", layer, ".", name);
}

}  // namespace alphecca::model

#include "worker/forward/scratch.h"

#include <algorithm>

#include "common/status_macros.h"
#include "kernels/check.h"
#include "kernels/sampling.h"

namespace alphecca::forward {

absl::Status Activation::Allocate(kernels::Backend& backend, int64_t rows, int64_t cols, kernels::DType type) {
  type_ = type;
  capacity_ = rows * cols;
  // At least one value, so that a view of no columns still has an address.
  ASSIGN_OR_RETURN(buffer_, backend.Allocate(std::max<int64_t>(capacity_, 1) * kernels::Info(type).block_bytes));
  return absl::OkStatus();
}

kernels::Tensor Activation::View(int64_t rows, int64_t cols) const {
  kernels::Check(rows * cols <= capacity_, "a step fits the scratch that was sized for the largest");
  return {.data = buffer_->data, .type = type_, .rows = rows, .cols = cols, .stride = cols};
}

kernels::Tensor Columns(const kernels::Tensor& in, int64_t first, int64_t cols) {
  kernels::Tensor out = in;
  out.data = static_cast<std::byte*>(in.data) + first * kernels::Info(in.type).block_bytes;
  out.cols = cols;
  return out;
}

kernels::Tensor Rows(const kernels::Tensor& in, int64_t first, int64_t rows) {
  kernels::Tensor out = in;
  out.data = static_cast<std::byte*>(in.data) + first * in.stride * kernels::Info(in.type).block_bytes;
  out.rows = rows;
  return out;
}

absl::StatusOr<Scratch> AllocateScratch(kernels::Backend& backend, const model::ModelConfig& config,
                                        const model::RankShard& shard, const ScratchSizes& sizes) {
  int64_t qkv = 0;
  int64_t heads = 0;
  int64_t mlp = 0;
  int64_t experts = 0;
  for (size_t l = 0; l < config.layers.size(); ++l) {
    const model::LayerShard& part = shard.layers[l];
    const int64_t head_dim = config.layers[l].head_dim;
    qkv = std::max(qkv, (part.heads.size() + 2 * part.kv_heads.size()) * head_dim);
    heads = std::max(heads, part.heads.size() * head_dim);
    mlp = std::max(mlp, part.mlp.size());
    experts = std::max(experts, part.held_experts());
  }
  const int64_t rows = sizes.rows;
  const int64_t d = config.hidden;
  const bool moe = config.experts > 0;
  const auto layers = static_cast<int64_t>(config.layers.size());
  const int64_t record = kernels::CandidateRecordBytes(kernels::kMaxRecordCandidates) / 4;
  const int64_t choice = kernels::ChoiceBytes(kernels::kMaxRecordCandidates) / 4;
  Scratch s;
  RETURN_IF_ERROR(s.residual.Allocate(backend, rows, d));
  RETURN_IF_ERROR(s.normed.Allocate(backend, rows, d));
  RETURN_IF_ERROR(s.branch.Allocate(backend, moe ? 2 * rows : rows, d));
  RETURN_IF_ERROR(s.qkv.Allocate(backend, rows, qkv));
  RETURN_IF_ERROR(s.heads.Allocate(backend, rows, heads));
  RETURN_IF_ERROR(s.mlp.Allocate(backend, rows, mlp));
  RETURN_IF_ERROR(s.per_layer.Allocate(backend, rows, layers * config.per_layer_width));
  RETURN_IF_ERROR(s.gate.Allocate(backend, rows, config.per_layer_width));
  RETURN_IF_ERROR(s.router.Allocate(backend, rows, config.experts));
  RETURN_IF_ERROR(s.expert_ids.Allocate(backend, rows, config.experts_per_token, kernels::DType::kI32));
  RETURN_IF_ERROR(s.expert_mix.Allocate(backend, rows, config.experts_per_token));
  if (sizes.wide) {
    const int64_t record_cols = d + 2 * config.experts_per_token;
    const int64_t most_ranks = std::min(sizes.ranks, config.experts_per_token);  // that a row goes to
    RETURN_IF_ERROR(s.dispatched.Allocate(backend, most_ranks * rows, record_cols));
    RETURN_IF_ERROR(s.arrived.Allocate(backend, rows, record_cols));
    RETURN_IF_ERROR(s.answers.Allocate(backend, rows, d));
    RETURN_IF_ERROR(s.sent_rows.Allocate(backend, rows, sizes.ranks, kernels::DType::kI32));
    RETURN_IF_ERROR(s.counts.Allocate(backend, 1, 2 * sizes.ranks + 1, kernels::DType::kI32));
    RETURN_IF_ERROR(s.returned.Allocate(backend, 1, sizes.ranks + 1, kernels::DType::kI32));
  }
  RETURN_IF_ERROR(s.load.Allocate(backend, layers, experts, kernels::DType::kI32));
  RETURN_IF_ERROR(s.last.Allocate(backend, sizes.logit_rows, d));
  RETURN_IF_ERROR(s.hidden.Allocate(backend, sizes.logit_rows, d));
  RETURN_IF_ERROR(s.logits.Allocate(backend, sizes.logit_rows, sizes.vocab));
  RETURN_IF_ERROR(s.candidates.Allocate(backend, sizes.logit_rows * (sizes.wide ? 1 : sizes.ranks), record));
  RETURN_IF_ERROR(s.choices.Allocate(backend, sizes.logit_rows * (sizes.wide ? sizes.ranks : 1), choice));
  return s;
}

}  // namespace alphecca::forward

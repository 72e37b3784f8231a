// The activations of a pass: one allocation a role, sized for the largest step, viewed by the rows of the present one.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/config.h"
#include "model/shard_plan.h"

namespace alphecca::forward {

// A reusable matrix of activations: at most `rows` rows of at most `cols` columns, dense.
class Activation {
 public:
  absl::Status Allocate(kernels::Backend& backend, int64_t rows, int64_t cols,
                        kernels::DType type = kernels::DType::kF32);
  // The first rows x cols values, dense.
  kernels::Tensor View(int64_t rows, int64_t cols) const;
  kernels::Buffer& buffer() const { return *buffer_; }

 private:
  std::unique_ptr<kernels::Buffer> buffer_;
  kernels::DType type_ = kernels::DType::kF32;
  int64_t capacity_ = 0;  // values
};

// `cols` columns of `in` from `first` on, sharing its rows.
kernels::Tensor Columns(const kernels::Tensor& in, int64_t first, int64_t cols);
// `rows` rows of `in` from `first` on.
kernels::Tensor Rows(const kernels::Tensor& in, int64_t first, int64_t rows);

struct ScratchSizes {
  int64_t rows = 0;        // T at most
  int64_t logit_rows = 0;  // R at most
  int64_t vocab = 0;       // this rank's share
  int ranks = 1;
  bool wide = false;  // rows travel to experts; each rank samples its own logit rows
};

struct Scratch {
  Activation residual;    // x [T, D]
  Activation normed;      // input of a branch [T, D]
  Activation branch;      // output of a branch [T, D], or of the dense and the expert part [2T, D]: summed over ranks
  Activation qkv;         // [T, (H + 2K) Hd]
  Activation heads;       // [T, H Hd]
  Activation mlp;         // [T, F]
  Activation per_layer;   // ple [T, L d]
  Activation gate;        // [T, d]
  Activation router;      // [T, E]
  Activation expert_ids;  // [T, k] i32
  Activation expert_mix;  // [T, k]
  Activation dispatched;  // wide: rows for other ranks' experts [min(ranks, k) T, D + 2k], later answers [.., D]
  Activation arrived;     // wide: rows of all ranks for this one's experts [T, D + 2k]
  Activation answers;     // wide: what the experts make of them [T, D]
  Activation sent_rows;   // wide: which dispatched row is whose [T, ranks] i32
  Activation counts;      // wide: rows sent to each rank [ranks], rows from each and in all [ranks + 1]; i32
  Activation returned;    // wide: answers from each rank and in all [ranks + 1] i32
  Activation load;        // rows that each expert of this rank got [L, experts here] i32; kept from step to step
  Activation last;        // x of the logit rows [R, D]
  Activation hidden;      // the same after the final norm [R, D]
  Activation logits;      // [R, vocabulary share]
  Activation candidates;  // [ranks][R] records of at most kMaxRecordCandidates; wide: [R]
  Activation choices;     // [R] records; wide: [ranks][R]
};

absl::StatusOr<Scratch> AllocateScratch(kernels::Backend& backend, const model::ModelConfig& config,
                                        const model::RankShard& shard, const ScratchSizes& sizes);

}  // namespace alphecca::forward

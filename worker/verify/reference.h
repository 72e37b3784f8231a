// A reference of our own, for weights that no stored golden was computed with.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "model/weight_type.h"
#include "worker/verify/golden_case.h"

namespace alphecca::verify {

// Whether runs that hold these weights compute something else than the stored goldens, whose weights are BF16.
inline bool NeedsOwnReference(model::WeightType weights) {
  return weights == model::WeightType::kSFP8 || weights == model::WeightType::kQ4_0;
}

// Greedy ids of a reference of our own may differ where its margin is below this: two logits, each within the F32
// tolerance. (The stored goldens were chosen without such near-ties.)
inline constexpr double kOwnReferenceTie = 1e-3;

// The checkpoint with each matrix converted to `weights` and decoded to F32 again, in memory: what a run that holds
// `weights` computes with. Vectors and the per-layer table are as the file has them. `checkpoint` must outlive it.
absl::StatusOr<std::unique_ptr<model::Checkpoint>> Dequantised(const model::Checkpoint& checkpoint,
                                                               model::WeightType weights);

// The case's prompts continued by the reference kernels in F32, unsharded, on the dequantised weights: ids, margins,
// logits, hidden rows and branches. The measured BF16 errors stay those of the case. `step_rows`: rows of a step.
absl::StatusOr<GoldenCase> OwnReference(const GoldenCase& golden, const model::Checkpoint& checkpoint,
                                        model::WeightType weights, int64_t step_rows);

}  // namespace alphecca::verify

// The size of a model's own drafter (gemma4_assistant): four layers that read the target's KV and keep none.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "model/published.h"

namespace alphecca::model {

// Bytes of its weights: matrices in `weights`, vectors in F32, the order of tokens (E2B, E4B) in I32. Its shapes: spec
// gemma4-models section 5. InvalidArgument for the 12B, of whose drafter the specification says nothing.
absl::StatusOr<int64_t> DrafterBytes(Published target, kernels::DType weights);

}  // namespace alphecca::model

// The bytes that a rank of a shard plan holds, tensor by tensor: the one list that the loader loads, the planner counts
// and the tests put together again.
#pragma once

#include <cstdint>
#include <vector>

#include "common/range.h"
#include "kernels/dtype.h"
#include "model/catalogue.h"
#include "model/shard_plan.h"

namespace alphecca::model {

// Which parts of the sums a rank of the plan stands for. Ranks that share an attention shard (ep > tp) leave the dense
// parts to the lowest of them, ranks that share a slice of the vocabulary likewise.
struct Duties {
  bool dense = true;
  bool vocabulary = true;
};
Duties DutiesOf(const ShardPlan& plan, int rank);

// How a tensor is held at run time.
enum class Holding : uint8_t {
  kMatrix,  // packed in a weight type
  kVector,  // norms, scales and scalars: F32 whatever the matrices are
  kMapped,  // a look-up table that stays in the file's mapping
};
Holding HoldingOf(TensorKind kind);

// A part [items, rows, cols] of one tensor of the catalogue; a vector is one row.
struct TensorSlice {
  TensorKind kind = TensorKind::kEmbedding;
  int layer = -1;
  Range items;
  Range rows;
  Range cols;
  // Another rank holds these bytes as its own: norms, the router, per-layer embeddings, KV heads on ranks beyond their
  // number, copies of hot experts; in wide mode all but the experts.
  bool replicated = false;

  int64_t elements() const { return items.size() * rows.size() * cols.size(); }
  friend bool operator==(const TensorSlice&, const TensorSlice&) = default;
};

// What `rank` holds, none of it empty, in the order of the catalogue. Slices of one tensor come in the order of its
// rows, so that one under another they make the rank's matrix; gate rows of fused experts come before up rows. Copies
// of hot experts follow the rank's own, one expert after another. `plan` is of `config`. A byte of the checkpoint is in
// exactly one slice of one rank that is not replicated.
std::vector<TensorSlice> ShardSlices(const ModelConfig& config, const ShardPlan& plan, int rank);

// A slice of kExpertGateUp as files have it that split the two: of kExpertGate or kExpertUp.
TensorSlice InSplitForm(const ModelConfig& config, TensorSlice fused);

// Bytes at run time with matrices and tables of type `weights`; SFP8 keeps an F32 scale a row. Layouts that pad rows to
// a vector's width are a backend's own and not counted (less than 16 rows a matrix).
int64_t RuntimeBytes(const TensorSlice& slice, kernels::DType weights);

}  // namespace alphecca::model

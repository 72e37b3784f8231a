#include "model/planner/drafter.h"

#include <optional>

#include "absl/status/status.h"
#include "common/status_macros.h"
#include "model/messages.h"
#include "model/shard_slices.h"

namespace alphecca::model {
namespace {

struct Shape {
  int64_t hidden, width, heads, centroids;
};

std::optional<Shape> ShapeOf(Published target) {
  switch (target) {
    case Published::kE2B:
    case Published::kE4B:
      return Shape{256, 2048, 4, 2048};
    case Published::k26B:
      return Shape{1024, 8192, 16, 0};
    case Published::k31B:
      return Shape{1024, 8192, 32, 0};
    case Published::k12B:
      break;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<int64_t> DrafterBytes(Published target, kernels::DType weights) {
  const std::optional<Shape> shape = ShapeOf(target);
  if (!shape.has_value()) {
    return absl::InvalidArgumentError(Text("no drafter is known for ", PublishedName(target),
                                           "; plan it without, or e2b, e4b, 26b-a4b or 31b with one"));
  }
  ASSIGN_OR_RETURN(const ModelConfig config, PublishedConfig(target));
  int64_t bytes = 0;
  const auto matrix = [&](int64_t rows, int64_t cols) {
    bytes += RuntimeBytes({.kind = TensorKind::kQ, .items = {0, 1}, .rows = {0, rows}, .cols = {0, cols}}, weights);
  };
  const auto values = [&](int64_t count) { bytes += 4 * count; };  // F32 or I32
  const int64_t hidden = shape->hidden;
  matrix(config.vocab, hidden);
  matrix(hidden, int64_t{2} * config.hidden);  // pre_projection
  matrix(config.hidden, hidden);               // post_projection
  if (shape->centroids > 0) {
    matrix(shape->centroids, hidden);
    values(config.vocab);  // token_ordering
  }
  for (const int64_t head_dim : {256, 256, 256, 512}) {  // three sliding layers, one full
    matrix(shape->heads * head_dim, hidden);
    matrix(hidden, shape->heads * head_dim);
    matrix(2 * shape->width, hidden);  // gate, up
    matrix(hidden, shape->width);
    values(4 * hidden + head_dim + 1);  // norms, q_norm, layer_scalar
  }
  values(hidden);  // final norm
  return bytes;
}

}  // namespace alphecca::model

// What fuzz targets do with what a parser accepted.
#pragma once

#include <cstddef>
#include <cstdlib>

#include "model/catalogue.h"
#include "model/checkpoint.h"
#include "model/plan_layout.h"
#include "model/shard_plan.h"

namespace alphecca::fuzz {

// Reads the ends and every 64th byte, so that a range outside its file is seen by a sanitizer or a fault.
inline void Touch(const void* data, size_t size) {
  const auto* bytes = static_cast<const volatile unsigned char*>(data);
  unsigned char sink = 0;
  for (size_t i = 0; i < size; i += 64) {
    sink = static_cast<unsigned char>(sink ^ bytes[i]);
  }
  if (size != 0) {
    sink = static_cast<unsigned char>(sink ^ bytes[size - 1]);
  }
  static_cast<void>(sink);
}

// An invariant of ours: breaking it is a finding in every build type.
inline void Check(bool holds) {
  if (!holds) {
    std::abort();
  }
}

inline void TouchCheckpoint(const model::Checkpoint& checkpoint) {
  Check(checkpoint.config().Validate().ok());
  if (const model::ShardPlan* layout = checkpoint.layout()) {
    for (const model::PlanPart& part : model::PartsOf(checkpoint.config(), *layout)) {
      const auto source = checkpoint.Cut(part.slice);
      Check(source.ok());
      const kernels::HostTensor& t = source->tensor;
      Touch(t.data, static_cast<size_t>(t.items * t.rows * kernels::RowBytes(t.type, t.cols)));
    }
    return;
  }
  for (const model::TensorSpec& spec : model::Catalogue(checkpoint.config())) {
    const auto tensor = checkpoint.Find(spec.kind, spec.layer);
    Check(tensor.ok() || spec.kind == model::TensorKind::kExpertGateUp);
    if (tensor.ok()) {
      Touch(tensor->data,
            static_cast<size_t>(tensor->items * tensor->rows * kernels::RowBytes(tensor->type, tensor->cols)));
    }
  }
  model::MakeShardPlan(checkpoint, {2, 1}).status().IgnoreError();
}

}  // namespace alphecca::fuzz

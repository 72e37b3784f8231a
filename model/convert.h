// Writes a checkpoint once more, its matrices in another type, so that later starts need not convert: each tensor is
// read, converted and written in pieces, and the result takes its name only when it is whole.
//
// Opened with weights as-file, the result packs into the same matrices, bit for bit, as the source converted at load.
// Per-layer tables, which cannot be converted at load, are converted too. With degrees given, the result is laid out
// for that plan (model/plan_layout.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "model/checkpoint.h"
#include "model/gguf_writer.h"
#include "model/weight_type.h"

namespace alphecca::model {

struct ConvertOptions {
  WeightType weights = WeightType::kBF16;
  int tp = 0;  // lay out for this plan; 0: tensors whole
  int ep = 0;
  std::string out;
  bool force = false;                                                   // replace what is there
  int threads = 1;                                                      // that convert
  std::function<void(int64_t done, int64_t total)> progress = nullptr;  // bytes written; may be null
};

// One .gguf file (bf16, q4_0). Metadata: that of the source where it is a GGUF file, else its configuration and
// `tokenizer`. AlreadyExists; InvalidArgument for weights that the format or the tensors do not allow, naming the
// tensor, and for a plan that the shapes do not; ResourceExhausted where the disk is full.
absl::Status ConvertToGguf(const Checkpoint& checkpoint, const GgufMetadata& tokenizer, const ConvertOptions& options);

// A directory with model.safetensors (any type, sfp8 above all) and the source directory's JSON files. Errors as above;
// InvalidArgument if the source is a GGUF file, which has no such files.
absl::Status ConvertToSafetensors(const Checkpoint& checkpoint, const ConvertOptions& options);

}  // namespace alphecca::model

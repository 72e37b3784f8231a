// A checkpoint on disk, mapped, not read: configuration and tensors under canonical names.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/catalogue.h"
#include "model/config.h"
#include "model/mapped_file.h"

namespace alphecca::model {

class GgufFile;
struct ShardPlan;
struct TensorSlice;

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  // `path`: a directory with config.json (or config.hf5.json) and model.safetensors or model.safetensors.index.json,
  // one with model.gguf and no config.json, or one .gguf file. NotFound, InvalidArgument, DataLoss: messages name the
  // file and the tensor or key. Every tensor of Catalogue(config) is present, of a known type and the right shape, and
  // lies within its file, whole or in the parts of layout(); vectors are F32, F16 or BF16; SFP8 is as
  // model/safetensors.h says. config().vocab is what the embedding has: files may hold fewer rows than config.json
  // says. Other tensors (towers, lm_head, K and V of layers that share) are ignored.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);
  // The same over a container that is already open.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> FromGguf(std::unique_ptr<GgufFile> file);

  const ModelConfig& config() const { return config_; }
  const std::string& path() const { return path_; }

  // The bytes of a tensor, valid while this object lives, aligned to the elements of its type. kExpertGate / kExpertUp
  // exist only where the file splits them, kExpertGateUp only where it does not. NotFound; FailedPrecondition for a
  // tensor of which the file has only the parts that ranks of layout() hold.
  virtual absl::StatusOr<kernels::HostTensor> Find(TensorKind kind, int layer) const = 0;
  // The type in the file of a tensor, whole or in parts. NotFound.
  virtual absl::StatusOr<kernels::DType> TypeOf(TensorKind kind, int layer) const;
  bool Has(TensorKind kind, int layer) const { return TypeOf(kind, layer).ok(); }

  // The plan that the file is laid out for (model/plan_layout.h); null where all tensors lie whole.
  virtual const ShardPlan* layout() const { return nullptr; }
  // Where the bytes of a slice lie; one of kExpertGateUp also where the file splits the two. InvalidArgument if the
  // tensor is smaller, FailedPrecondition if the file has it in other parts.
  virtual absl::StatusOr<kernels::PackSource> Cut(const TensorSlice& slice) const;

  // How this process means to hold the bytes of a tensor that Find gave. A hint.
  virtual void Advise(const kernels::HostTensor& /*tensor*/, Residency /*residency*/) const {}

  // Added to norm weights of Gemma 3 safetensors (which store w - 1); 0 elsewhere.
  virtual float norm_offset() const { return 0.0F; }

  // 32 hex digits of configuration, tensor index (names, types, shapes, files, offsets) and final norm (so that two
  // trainings of one shape differ), not of the path: workers and coordinator compare it.
  virtual std::string Revision() const = 0;

  // The GGUF container, whose metadata also holds the tokenizer; null for safetensors.
  virtual const GgufFile* gguf() const { return nullptr; }

 protected:
  ModelConfig config_;
  std::string path_;
};

// The catalogue as the checkpoint holds it: gate and up of the experts fused or apart.
std::vector<TensorSpec> TensorsOf(const Checkpoint& checkpoint);

// Reads the tables that are only looked up and keeps them in memory, as far as the system allows
// (Residency::kResident).
void HoldTables(const Checkpoint& checkpoint);

}  // namespace alphecca::model

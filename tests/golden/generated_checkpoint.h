// A checkpoint without a file: every value follows from the tensor's name and its index, so that results for it can be
// stated in a test. The rule (FNV-1a of the name, a 32-bit mix of the index) and the results are those of the
// specification of Gemma 4's and Gemma 3's decoders, where transformers computed them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"

namespace alphecca::golden {

// Value i of the tensor called `name` (with its "model." prefix).
float GeneratedValue(std::string_view name, uint32_t i);

class GeneratedCheckpoint : public model::Checkpoint {
 public:
  // `config_json`: the text of a config.json.
  static absl::StatusOr<std::unique_ptr<GeneratedCheckpoint>> Create(std::string_view config_json);

  absl::StatusOr<kernels::HostTensor> Find(model::TensorKind kind, int layer) const override;
  std::string Revision() const override { return "generated"; }

 private:
  std::map<std::pair<model::TensorKind, int>, std::pair<model::TensorSpec, std::vector<float>>> tensors_;
};

}  // namespace alphecca::golden

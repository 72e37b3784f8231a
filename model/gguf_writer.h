// The head of a GGUF file (version 3): metadata and tensor descriptions. The tensors' bytes follow it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/gguf.h"

namespace alphecca::model {

// Keys and values in the order in which they are added; a key must be added once.
class GgufMetadata {
 public:
  void U32(std::string_view key, uint32_t value);
  void F32(std::string_view key, float value);
  void Bool(std::string_view key, bool value);
  void String(std::string_view key, std::string_view value);
  void Strings(std::string_view key, const std::vector<std::string>& values);
  void I32s(std::string_view key, const std::vector<int32_t>& values);
  void F32s(std::string_view key, const std::vector<float>& values);
  void Bools(std::string_view key, const std::vector<bool>& values);
  // All of another file's keys but those that say how its tensors are stored.
  void CopyFrom(const GgufFile& file);
  void Append(const GgufMetadata& other);

  uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void Key(std::string_view key, GgufType type);
  void ArrayKey(std::string_view key, GgufType element, size_t count);

  uint64_t count_ = 0;
  std::string bytes_;
};

// What ConfigFromGguf reads back. Not expressible, and so lost: bidirectional_images.
void ConfigToGguf(const ModelConfig& config, GgufMetadata& metadata);
// rope_freqs.weight: 1 for each pair that turns, 1e30 for the others. Empty where all of them turn.
std::vector<float> RopeFactors(const ModelConfig& config);

struct GgufTensorSpec {
  std::string name;
  std::vector<int64_t> size;  // row length first
  kernels::DType type = kernels::DType::kF32;
  int64_t bytes = 0;
  uint64_t offset = 0;  // from the start of the file; set by GgufHead
};

inline constexpr uint64_t kGgufAlignment = 32;

// The head, padded to where the tensors begin; fills in their offsets.
std::string GgufHead(const GgufMetadata& metadata, std::vector<GgufTensorSpec>& tensors);

}  // namespace alphecca::model

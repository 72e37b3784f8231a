// Small container files made in memory, and where the tests' data lies.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/config.h"

namespace alphecca::model {

// GoldenDir("iso-base"), GoldenDir("gguf/moe-26b-shape-q4_0").
std::string GoldenDir(std::string_view name);
// The names of all golden cases with a config.json, and of those with a model.gguf ("gguf/..."). Sorted, never empty.
std::vector<std::string> SafetensorsCases();
std::vector<std::string> GgufCases();

std::string ReadFile(const std::string& path);
void WriteFile(const std::string& path, std::string_view bytes);

// A directory of its own under the test's temporary directory, removed at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string File(std::string_view name) const { return path_ + "/" + std::string(name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Bytes of a GGUF file, field by field; the counts and offsets are as given, so that they can lie.
class GgufBuilder {
 public:
  GgufBuilder& U32(std::string_view key, uint32_t value);
  GgufBuilder& F32(std::string_view key, float value);
  GgufBuilder& Bool(std::string_view key, bool value);
  GgufBuilder& String(std::string_view key, std::string_view value);
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& values);
  GgufBuilder& U32s(std::string_view key, const std::vector<uint32_t>& values);
  GgufBuilder& Raw(std::string_view key, uint32_t type, std::string_view payload);
  // Type 0 is F32. The offset is the next free aligned one unless given.
  GgufBuilder& Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, std::string_view data);
  GgufBuilder& TensorAt(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset);

  uint32_t version = 3;
  uint64_t extra_values = 0;   // added to the true count
  uint64_t extra_tensors = 0;  // added to the true count
  uint64_t alignment = 32;     // of the file made; the key is not written

  std::string header() const;  // without padding
  std::string bytes() const;

 private:
  uint64_t value_count_ = 0;
  uint64_t tensor_count_ = 0;
  std::string values_;
  std::string infos_;
  std::string data_;
};

// The little-endian bytes of a value.
template <typename T>
std::string Le(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string GgufText(std::string_view text);  // u64 length, bytes

// A safetensors file: the length of the header, the header, `data_bytes` zeros.
std::string Safetensors(std::string_view header, size_t data_bytes);

}  // namespace alphecca::model

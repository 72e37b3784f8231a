// The GGUF container, versions 2 and 3, little endian: typed metadata and an index of tensors over a mapped file.
// Layout and type numbers: spec quantisation (value types, block formats), gemma4-models section 4.2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "model/mapped_file.h"

namespace alphecca::model {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// An array in the metadata, as it lies in the file. Valid while the GgufFile lives.
struct GgufArray {
  GgufType element = GgufType::kU8;
  uint64_t count = 0;
  std::span<const std::byte> data;  // the elements, strings with their lengths
};

struct GgufTensor {
  std::string_view name;
  kernels::DType type = kernels::DType::kF32;
  int dimensions = 0;
  std::array<int64_t, 4> size = {1, 1, 1, 1};  // ne0 (the row length) first
  uint64_t offset = 0;                         // from the start of the file
  std::span<const std::byte> data;
};

// Thread rule: immutable after creation. All views point into the mapping and live as long as this object.
class GgufFile {
 public:
  struct Value {
    GgufType type = GgufType::kU8;
    GgufArray array;                  // of kArray
    std::span<const std::byte> data;  // of all others; strings without their length
  };

  // Checks every count, length, offset and type before use. DataLoss for a truncated file, InvalidArgument for one that
  // is no GGUF file, contradicts itself or holds a tensor type that we do not read; messages name the key or tensor.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  static absl::StatusOr<std::unique_ptr<GgufFile>> FromBytes(std::string_view bytes);

  const std::string& path() const { return file_->path(); }
  const MappedFile& file() const { return *file_; }
  uint32_t version() const { return version_; }

  // Metadata. NotFound without the key; InvalidArgument if its type is another (integers of any width, and floats of
  // both, are one type each here; an integer also reads as a float).
  bool Has(std::string_view key) const { return values_.contains(key); }
  bool IsArray(std::string_view key) const;
  absl::StatusOr<int64_t> Int(std::string_view key) const;
  absl::StatusOr<double> Float(std::string_view key) const;
  absl::StatusOr<bool> Bool(std::string_view key) const;
  absl::StatusOr<std::string_view> String(std::string_view key) const;
  absl::StatusOr<GgufArray> Array(std::string_view key) const;
  // Whole arrays. Ints also takes bools (0, 1), Floats also integers. Strings are views into the mapping.
  absl::StatusOr<std::vector<int64_t>> Ints(std::string_view key) const;
  absl::StatusOr<std::vector<double>> Floats(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> Strings(std::string_view key) const;
  // A value as it lies in the file; null if there is none.
  const Value* Raw(std::string_view key) const {
    const auto it = values_.find(key);
    return it == values_.end() ? nullptr : &it->second;
  }
  std::vector<std::string_view> keys() const { return keys_; }  // in the file's order

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* FindTensor(std::string_view name) const;  // null if there is none

 private:
  class Parser;

  GgufFile() = default;
  static absl::StatusOr<std::unique_ptr<GgufFile>> Parse(std::unique_ptr<MappedFile> file);
  absl::StatusOr<const Value*> Find(std::string_view key) const;
  absl::Status WrongType(std::string_view key, std::string_view wanted) const;

  std::unique_ptr<MappedFile> file_;
  uint32_t version_ = 0;
  std::unordered_map<std::string_view, Value> values_;
  std::vector<std::string_view> keys_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> tensor_index_;
};

}  // namespace alphecca::model

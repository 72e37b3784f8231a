// The safetensors container: a JSON header naming tensors, then their bytes. One file, or several under an index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "model/mapped_file.h"

namespace alphecca::model {

// SFP8 has no dtype of its own: its codes are a U8 tensor NAME beside an F32 tensor NAME.sfp8_scale, one factor a row.
inline constexpr std::string_view kSfp8ScaleSuffix = ".sfp8_scale";

struct SafetensorsTensor {
  std::string name;
  std::string dtype;                   // as the file writes it: "BF16"
  std::optional<kernels::DType> type;  // empty for types that no text model uses (F64, U8, BOOL, ...)
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // from the start of the file
  std::span<const std::byte> data;
};

// Thread rule: immutable after creation. Data points into the mapping and lives as long as this object.
class SafetensorsFile {
 public:
  // Checks the header before use: known dtypes, shapes whose product is the byte count, ranges inside the file that do
  // not overlap, no name twice. DataLoss for a truncated file, InvalidArgument otherwise; messages name the tensor.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> FromBytes(std::string_view bytes);

  const std::string& path() const { return file_->path(); }
  const MappedFile& file() const { return *file_; }
  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  const SafetensorsTensor* Find(std::string_view name) const;  // null if there is none
  const std::string* Metadata(std::string_view key) const;     // a text in the header; null if there is none

 private:
  SafetensorsFile() = default;
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(std::unique_ptr<MappedFile> file);

  std::unique_ptr<MappedFile> file_;
  std::vector<SafetensorsTensor> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
  std::unordered_map<std::string_view, size_t> index_;  // views of the names in tensors_
};

// The tensors of a checkpoint directory: model.safetensors, or the files that model.safetensors.index.json names.
class SafetensorsSet {
 public:
  // The index may name only files directly in `directory`, and each tensor must be in the file it is said to be in.
  static absl::StatusOr<std::unique_ptr<SafetensorsSet>> Open(const std::string& directory);

  struct Entry {
    const SafetensorsTensor* tensor = nullptr;
    const SafetensorsFile* file = nullptr;
  };
  std::optional<Entry> Find(std::string_view name) const;
  const std::string* Metadata(std::string_view key) const;  // of the first file that has it; null if none has
  size_t size() const { return entries_.size(); }
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }

 private:
  SafetensorsSet() = default;
  absl::Status ReadIndex(const std::string& directory, const std::string& index_path);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unordered_map<std::string_view, Entry> entries_;
};

}  // namespace alphecca::model

#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "model/messages.h"
#include "model/safetensors_header.h"
#include "nlohmann/json.hpp"

namespace alphecca::model {
namespace {

using kernels::DType;

// The format's own limit on the header; the index of the largest real checkpoints is far below it too.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxFiles = 10'000;

struct FileType {
  std::string_view name;
  uint64_t bytes;
  std::optional<DType> type;
};

constexpr std::array<FileType, 16> kFileTypes = {{
    {"F32", 4, DType::kF32},
    {"F16", 2, DType::kF16},
    {"BF16", 2, DType::kBF16},
    {"I32", 4, DType::kI32},
    {"I64", 8, DType::kI64},
    {"F64", 8, std::nullopt},
    {"BOOL", 1, std::nullopt},
    {"U8", 1, std::nullopt},
    {"I8", 1, std::nullopt},
    {"F8_E5M2", 1, std::nullopt},
    {"F8_E4M3", 1, std::nullopt},
    {"F8_E8M0", 1, std::nullopt},
    {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt},
    {"U32", 4, std::nullopt},
    {"U64", 8, std::nullopt},
}};

// Type, size and place of one tensor against the `data_bytes` behind the header.
absl::Status CheckEntry(const std::string& path, const SafetensorsHeaderEntry& entry, uint64_t data_bytes,
                        std::optional<DType>* type) {
  const std::string name = Text(path, ": tensor ", Quoted(entry.name));
  const auto* known = std::find_if(kFileTypes.begin(), kFileTypes.end(),
                                   [&](const FileType& candidate) { return candidate.name == entry.dtype; });
  if (known == kFileTypes.end()) {
    return absl::InvalidArgumentError(Text(name, " has the unknown dtype ", Quoted(entry.dtype)));
  }
  *type = known->type;
  if (entry.begin > entry.end) {
    return absl::InvalidArgumentError(Text(name, " ends at ", entry.end, " before it begins at ", entry.begin));
  }
  if (entry.end > data_bytes) {
    return absl::DataLossError(
        Text(name, " reaches to byte ", entry.end, " of the data, but the file holds ", data_bytes));
  }
  uint64_t bytes = known->bytes;
  bool overflow = false;
  for (const int64_t size : entry.shape) {
    overflow = overflow || __builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes);
  }
  if (overflow || bytes != entry.end - entry.begin) {
    return absl::InvalidArgumentError(Text(name, " of ", entry.dtype, " [", absl::StrJoin(entry.shape, ", "), "] has ",
                                           entry.end - entry.begin, " bytes; its shape takes ",
                                           overflow ? "more than 2^64" : Text(bytes)));
  }
  return absl::OkStatus();
}

absl::Status CheckOverlap(const std::string& path, const std::vector<SafetensorsHeaderEntry>& entries) {
  std::vector<const SafetensorsHeaderEntry*> order;
  for (const SafetensorsHeaderEntry& entry : entries) {
    if (entry.begin != entry.end) {
      order.push_back(&entry);
    }
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->begin < b->begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->begin < order[i - 1]->end) {
      return absl::InvalidArgumentError(Text(path, ": tensors ", Quoted(order[i - 1]->name), " and ",
                                             Quoted(order[i]->name), " overlap at byte ", order[i]->begin));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Parse(std::unique_ptr<MappedFile> file) {
  const std::span<const std::byte> bytes = file->bytes();
  const std::string& path = file->path();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return absl::DataLossError(
        Text(path, ": the file has ", bytes.size(), " bytes, too few for the length of a safetensors header"));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(Text(path, ": not a safetensors file: its header would have ", header_bytes,
                                           " bytes (at most ", kMaxHeaderBytes, " are allowed)"));
  }
  if (header_bytes > bytes.size() - sizeof(header_bytes)) {
    return absl::DataLossError(Text(path, ": the header has ", header_bytes, " bytes, but the file ends after ",
                                    bytes.size() - sizeof(header_bytes)));
  }
  const uint64_t data_start = sizeof(header_bytes) + header_bytes;
  auto header = ParseSafetensorsHeader(file->text().substr(sizeof(header_bytes), header_bytes));
  if (!header.ok()) {
    return absl::Status(header.status().code(), Text(path, ": ", header.status().message()));
  }
  RETURN_IF_ERROR(CheckOverlap(path, header->entries));

  std::unique_ptr<SafetensorsFile> result(new SafetensorsFile);
  result->metadata_ = std::move(header->metadata);
  result->tensors_.reserve(header->entries.size());
  for (SafetensorsHeaderEntry& entry : header->entries) {
    SafetensorsTensor tensor;
    RETURN_IF_ERROR(CheckEntry(path, entry, bytes.size() - data_start, &tensor.type));
    tensor.data = bytes.subspan(data_start + entry.begin, entry.end - entry.begin);
    tensor.offset = data_start + entry.begin;
    tensor.name = std::move(entry.name);
    tensor.dtype = std::move(entry.dtype);
    tensor.shape = std::move(entry.shape);
    result->tensors_.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < result->tensors_.size(); ++i) {
    result->index_.emplace(result->tensors_[i].name, i);
  }
  result->file_ = std::move(file);
  return result;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  return Parse(std::move(file));
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::FromBytes(std::string_view bytes) {
  return Parse(MappedFile::FromBytes("(memory)", bytes));
}

const SafetensorsTensor* SafetensorsFile::Find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const std::string* SafetensorsFile::Metadata(std::string_view key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

absl::StatusOr<std::unique_ptr<SafetensorsSet>> SafetensorsSet::Open(const std::string& directory) {
  std::unique_ptr<SafetensorsSet> set(new SafetensorsSet);
  const std::string single = directory + "/model.safetensors";
  const std::string index = directory + "/model.safetensors.index.json";
  std::error_code error;
  if (!std::filesystem::exists(single, error) && std::filesystem::exists(index, error)) {
    RETURN_IF_ERROR(set->ReadIndex(directory, index));
    return set;
  }
  if (!std::filesystem::exists(single, error)) {
    return absl::NotFoundError(
        Text(directory, ": neither model.safetensors nor model.safetensors.index.json is there"));
  }
  ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(single));
  for (const SafetensorsTensor& tensor : file->tensors()) {
    set->entries_.emplace(tensor.name, Entry{&tensor, file.get()});
  }
  set->files_.push_back(std::move(file));
  return set;
}

absl::Status SafetensorsSet::ReadIndex(const std::string& directory, const std::string& index_path) {
  ASSIGN_OR_RETURN(const auto text, MappedFile::Open(index_path));
  if (text->bytes().size() > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        Text(index_path, ": ", text->bytes().size(), " bytes are too many (at most ", kMaxHeaderBytes, ")"));
  }
  const nlohmann::json json = nlohmann::json::parse(text->text(), nullptr, /*allow_exceptions=*/false);
  const auto weight_map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || weight_map == json.end() || !weight_map->is_object()) {
    return absl::InvalidArgumentError(Text(index_path, ": no JSON object with a weight_map object"));
  }
  std::map<std::string, const SafetensorsFile*> opened;
  for (const auto& [name, value] : weight_map->items()) {
    if (!value.is_string()) {
      return absl::InvalidArgumentError(Text(index_path, ": the file of tensor ", Quoted(name), " is no string"));
    }
    const auto& file_name = value.get_ref<const std::string&>();
    // A name with a separator could lead out of the directory.
    if (file_name.empty() || file_name == "." || file_name == ".." ||
        file_name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      return absl::InvalidArgumentError(Text(index_path, ": the file of tensor ", Quoted(name), " is ",
                                             Quoted(file_name), ", which is no plain file name"));
    }
    const SafetensorsFile*& file = opened[file_name];
    if (file == nullptr) {
      if (opened.size() > kMaxFiles) {
        return absl::InvalidArgumentError(Text(index_path, ": names more than ", kMaxFiles, " files"));
      }
      ASSIGN_OR_RETURN(auto next, SafetensorsFile::Open(Text(directory, "/", file_name)));
      file = next.get();
      files_.push_back(std::move(next));
    }
    const SafetensorsTensor* tensor = file->Find(name);
    if (tensor == nullptr) {
      return absl::InvalidArgumentError(
          Text(index_path, ": says tensor ", Quoted(name), " is in ", file_name, ", which does not hold it"));
    }
    entries_.emplace(tensor->name, Entry{tensor, file});
  }
  return absl::OkStatus();
}

std::optional<SafetensorsSet::Entry> SafetensorsSet::Find(std::string_view name) const {
  const auto it = entries_.find(name);
  return it == entries_.end() ? std::nullopt : std::optional<Entry>(it->second);
}

const std::string* SafetensorsSet::Metadata(std::string_view key) const {
  for (const auto& file : files_) {
    if (const std::string* value = file->Metadata(key)) {
      return value;
    }
  }
  return nullptr;
}

}  // namespace alphecca::model

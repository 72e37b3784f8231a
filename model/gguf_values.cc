// Typed access to the metadata that the parser (gguf.cc) has checked.
#include <limits>
#include <optional>

#include "absl/status/status.h"
#include "common/status_macros.h"
#include "model/gguf.h"
#include "model/gguf_scalar.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

std::optional<int64_t> AsInt(GgufType type, const std::byte* data) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kBool:
      return Load<uint8_t>(data);
    case GgufType::kI8:
      return Load<int8_t>(data);
    case GgufType::kU16:
      return Load<uint16_t>(data);
    case GgufType::kI16:
      return Load<int16_t>(data);
    case GgufType::kU32:
      return Load<uint32_t>(data);
    case GgufType::kI32:
      return Load<int32_t>(data);
    case GgufType::kI64:
      return Load<int64_t>(data);
    case GgufType::kU64: {
      const auto value = Load<uint64_t>(data);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return std::nullopt;
      }
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> AsFloat(GgufType type, const std::byte* data) {
  if (type == GgufType::kF32) {
    return Load<float>(data);
  }
  if (type == GgufType::kF64) {
    return Load<double>(data);
  }
  const std::optional<int64_t> value = AsInt(type, data);
  return value ? std::optional<double>(static_cast<double>(*value)) : std::nullopt;
}

}  // namespace

absl::StatusOr<const GgufFile::Value*> GgufFile::Find(std::string_view key) const {
  const auto it = values_.find(key);
  if (it == values_.end()) {
    return absl::NotFoundError(Text(path(), ": no metadata key ", Quoted(key)));
  }
  return &it->second;
}

absl::Status GgufFile::WrongType(std::string_view key, std::string_view wanted) const {
  const Value& value = values_.find(key)->second;
  return absl::InvalidArgumentError(
      Text(path(), ": metadata key ", Quoted(key), " has the value type ", static_cast<uint32_t>(value.type),
           value.type == GgufType::kArray ? Text(" of element type ", static_cast<uint32_t>(value.array.element)) : "",
           "; expected ", wanted));
}

bool GgufFile::IsArray(std::string_view key) const {
  const auto it = values_.find(key);
  return it != values_.end() && it->second.type == GgufType::kArray;
}

absl::StatusOr<int64_t> GgufFile::Int(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Find(key));
  const std::optional<int64_t> number =
      value->type == GgufType::kBool ? std::nullopt : AsInt(value->type, value->data.data());
  if (!number) {
    return WrongType(key, "an integer below 2^63");
  }
  return *number;
}

absl::StatusOr<double> GgufFile::Float(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Find(key));
  const std::optional<double> number =
      value->type == GgufType::kBool ? std::nullopt : AsFloat(value->type, value->data.data());
  if (!number) {
    return WrongType(key, "a number");
  }
  return *number;
}

absl::StatusOr<bool> GgufFile::Bool(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->type != GgufType::kBool) {
    return WrongType(key, "a boolean");
  }
  return value->data[0] != std::byte{0};
}

absl::StatusOr<std::string_view> GgufFile::String(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->type != GgufType::kString) {
    return WrongType(key, "a string");
  }
  return std::string_view(reinterpret_cast<const char*>(value->data.data()), value->data.size());
}

absl::StatusOr<GgufArray> GgufFile::Array(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->type != GgufType::kArray) {
    return WrongType(key, "an array");
  }
  return value->array;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::Ints(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufArray array, Array(key));
  std::vector<int64_t> result(array.count);
  const size_t size = GgufScalarBytes(array.element);
  for (uint64_t i = 0; i < array.count; ++i) {
    const std::optional<int64_t> value = size == 0 ? std::nullopt : AsInt(array.element, array.data.data() + i * size);
    if (!value) {
      return WrongType(key, "an array of integers below 2^63");
    }
    result[i] = *value;
  }
  return result;
}

absl::StatusOr<std::vector<double>> GgufFile::Floats(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufArray array, Array(key));
  std::vector<double> result(array.count);
  const size_t size = GgufScalarBytes(array.element);
  for (uint64_t i = 0; i < array.count; ++i) {
    const std::optional<double> value = size == 0 ? std::nullopt : AsFloat(array.element, array.data.data() + i * size);
    if (!value) {
      return WrongType(key, "an array of numbers");
    }
    result[i] = *value;
  }
  return result;
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::Strings(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufArray array, Array(key));
  if (array.element != GgufType::kString) {
    return WrongType(key, "an array of strings");
  }
  std::vector<std::string_view> result(array.count);
  const std::byte* at = array.data.data();
  for (std::string_view& text : result) {  // lengths were checked when the file was parsed
    const auto length = Load<uint64_t>(at);
    text = {reinterpret_cast<const char*>(at + 8), length};
    at += 8 + length;
  }
  return result;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace alphecca::model

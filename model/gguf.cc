#include "model/gguf.h"

#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "common/status_macros.h"
#include "model/gguf_scalar.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

using kernels::DType;

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
constexpr size_t kMaxNameBytes = 4096;
constexpr int kMaxArrayDepth = 8;

std::optional<DType> TensorType(uint32_t id) {
  switch (id) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 2:
      return DType::kQ4_0;
    case 3:
      return DType::kQ4_1;
    case 6:
      return DType::kQ5_0;
    case 7:
      return DType::kQ5_1;
    case 8:
      return DType::kQ8_0;
    case 12:
      return DType::kQ4_K;
    case 13:
      return DType::kQ5_K;
    case 14:
      return DType::kQ6_K;
    case 20:
      return DType::kIQ4_NL;
    case 26:
      return DType::kI32;
    case 27:
      return DType::kI64;
    case 30:
      return DType::kBF16;
    default:
      return std::nullopt;
  }
}

}  // namespace

// Reads the header front to back; every read checks what is left of the file.
class GgufFile::Parser {
 public:
  explicit Parser(GgufFile& out) : out_(out), bytes_(out.file_->bytes()) {}

  absl::Status Run() {
    uint64_t tensor_count = 0;
    uint64_t value_count = 0;
    RETURN_IF_ERROR(Preamble(&tensor_count, &value_count));
    for (uint64_t i = 0; i < value_count; ++i) {
      RETURN_IF_ERROR(KeyValue(i));
    }
    out_.tensors_.reserve(tensor_count);
    for (uint64_t i = 0; i < tensor_count; ++i) {
      RETURN_IF_ERROR(TensorInfo(i));
    }
    return PlaceTensors();
  }

 private:
  uint64_t left() const { return bytes_.size() - position_; }

  absl::Status Truncated(std::string_view what) const {
    return absl::DataLossError(
        Text(out_.path(), ": the file ends within ", what, " (at byte ", position_, " of ", bytes_.size(), ")"));
  }
  absl::Status Bad(std::string_view text) const { return absl::InvalidArgumentError(Text(out_.path(), ": ", text)); }

  template <typename T>
  bool Read(T* value) {
    if (left() < sizeof(T)) {
      return false;
    }
    *value = Load<T>(bytes_.data() + position_);
    position_ += sizeof(T);
    return true;
  }

  bool Take(uint64_t count, std::span<const std::byte>* span) {
    if (left() < count) {
      return false;
    }
    *span = bytes_.subspan(position_, count);
    position_ += count;
    return true;
  }

  bool ReadString(std::string_view* text) {
    uint64_t length = 0;
    std::span<const std::byte> data;
    if (!Read(&length) || !Take(length, &data)) {
      return false;
    }
    *text = {reinterpret_cast<const char*>(data.data()), data.size()};
    return true;
  }

  absl::Status Preamble(uint64_t* tensor_count, uint64_t* value_count) {
    uint32_t magic = 0;
    if (!Read(&magic) || magic != kMagic) {
      return Bad("not a GGUF file (it does not begin with 'GGUF')");
    }
    if (!Read(&out_.version_)) {
      return Truncated("the version");
    }
    if (out_.version_ != 2 && out_.version_ != 3) {
      return Bad(Text("GGUF version ", out_.version_,
                      " is not supported (versions 2 and 3, little endian, are); convert the file again"));
    }
    if (!Read(tensor_count) || !Read(value_count)) {
      return Truncated("the counts of tensors and metadata values");
    }
    // The shortest metadata value is a key length, a type and one byte; the shortest tensor entry a name length, a
    // dimension count, a type and an offset. Counts beyond that are lies and must not size an allocation.
    constexpr uint64_t kMinValueBytes = 8 + 4 + 1;
    constexpr uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;
    if (*value_count > left() / kMinValueBytes) {
      return Bad(Text("claims ", *value_count, " metadata values, more than its ", bytes_.size(), " bytes hold"));
    }
    if (*tensor_count > left() / kMinTensorBytes) {
      return Bad(Text("claims ", *tensor_count, " tensors, more than its ", bytes_.size(), " bytes hold"));
    }
    return absl::OkStatus();
  }

  absl::Status KeyValue(uint64_t index) {
    std::string_view key;
    uint32_t type = 0;
    if (!ReadString(&key)) {
      return Truncated(Text("the key of metadata value ", index));
    }
    if (key.empty() || key.size() > kMaxNameBytes) {
      return Bad(Text("metadata value ", index, " has a key of ", key.size(), " bytes (1 to ", kMaxNameBytes,
                      " are allowed)"));
    }
    if (!Read(&type)) {
      return Truncated(Text("metadata value ", Quoted(key)));
    }
    Value value;
    value.type = static_cast<GgufType>(type);
    if (value.type == GgufType::kString) {
      std::string_view text;
      if (!ReadString(&text)) {
        return Truncated(Text("metadata value ", Quoted(key)));
      }
      value.data = std::as_bytes(std::span(text));
    } else if (value.type == GgufType::kArray) {
      RETURN_IF_ERROR(ReadArray(key, 0, &value.array));
    } else if (const size_t size = GgufScalarBytes(value.type); size == 0) {
      return Bad(Text("metadata value ", Quoted(key), " has the unknown type ", type));
    } else if (!Take(size, &value.data)) {
      return Truncated(Text("metadata value ", Quoted(key)));
    }
    if (!out_.values_.emplace(key, value).second) {
      return Bad(Text("metadata key ", Quoted(key), " occurs twice"));
    }
    out_.keys_.push_back(key);
    return absl::OkStatus();
  }

  absl::Status ReadArray(std::string_view key, int depth, GgufArray* array) {
    uint32_t type = 0;
    if (!Read(&type) || !Read(&array->count)) {
      return Truncated(Text("array ", Quoted(key)));
    }
    array->element = static_cast<GgufType>(type);
    const uint64_t start = position_;
    const size_t size = GgufScalarBytes(array->element);
    const uint64_t min_bytes = size != 0 ? size : (array->element == GgufType::kArray ? 12 : 8);
    if (size == 0 && array->element != GgufType::kString && array->element != GgufType::kArray) {
      return Bad(Text("array ", Quoted(key), " has the unknown element type ", type));
    }
    if (array->count > left() / min_bytes) {
      return Truncated(Text("array ", Quoted(key), " of ", array->count, " elements"));
    }
    if (size != 0) {
      position_ += array->count * size;
    } else if (array->element == GgufType::kString) {
      std::string_view text;
      for (uint64_t i = 0; i < array->count; ++i) {
        if (!ReadString(&text)) {
          return Truncated(Text("string ", i, " of array ", Quoted(key)));
        }
      }
    } else {
      if (depth + 1 >= kMaxArrayDepth) {
        return Bad(Text("array ", Quoted(key), " nests more than ", kMaxArrayDepth, " deep"));
      }
      GgufArray inner;
      for (uint64_t i = 0; i < array->count; ++i) {
        RETURN_IF_ERROR(ReadArray(key, depth + 1, &inner));
      }
    }
    array->data = bytes_.subspan(start, position_ - start);
    return absl::OkStatus();
  }

  absl::Status TensorInfo(uint64_t index) {
    GgufTensor tensor;
    uint32_t dimensions = 0;
    if (!ReadString(&tensor.name)) {
      return Truncated(Text("the name of tensor ", index));
    }
    if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
      return Bad(Text("tensor ", index, " has a name of ", tensor.name.size(), " bytes (1 to ", kMaxNameBytes,
                      " are allowed)"));
    }
    const std::string name = Text("tensor ", Quoted(tensor.name));
    if (!Read(&dimensions)) {
      return Truncated(Text("the entry of ", name));
    }
    if (dimensions < 1 || dimensions > 4) {
      return Bad(Text(name, " has ", dimensions, " dimensions (1 to 4 are allowed)"));
    }
    tensor.dimensions = static_cast<int>(dimensions);
    for (uint32_t d = 0; d < dimensions; ++d) {
      uint64_t size = 0;
      if (!Read(&size)) {
        return Truncated(Text("the entry of ", name));
      }
      if (size == 0 || size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Bad(Text(name, " has dimension ", d, " of size ", size));
      }
      tensor.size[d] = static_cast<int64_t>(size);
    }
    uint32_t type = 0;
    if (!Read(&type) || !Read(&tensor.offset)) {
      return Truncated(Text("the entry of ", name));
    }
    const std::optional<DType> known = TensorType(type);
    if (!known) {
      return Bad(Text(name, " has the GGML type ", type,
                      ", which is not read here (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, "
                      "IQ4_NL are)"));
    }
    tensor.type = *known;
    if (!out_.tensor_index_.emplace(tensor.name, out_.tensors_.size()).second) {
      return Bad(Text(name, " occurs twice"));
    }
    out_.tensors_.push_back(tensor);
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> Alignment() const {
    if (!out_.Has("general.alignment")) {
      return kDefaultAlignment;
    }
    ASSIGN_OR_RETURN(const int64_t value, out_.Int("general.alignment"));
    const auto alignment = static_cast<uint64_t>(value);
    if (value < 1 || alignment > kMaxAlignment || !std::has_single_bit(alignment)) {
      return Bad(Text("general.alignment is ", value, "; a power of two up to ", kMaxAlignment, " is allowed"));
    }
    return alignment;
  }

  absl::Status PlaceTensors() {
    if (out_.tensors_.empty()) {
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const uint64_t alignment, Alignment());
    const uint64_t data_start = (position_ + alignment - 1) / alignment * alignment;
    if (data_start > bytes_.size()) {
      return Truncated("the padding before the tensor data");
    }
    const uint64_t data_size = bytes_.size() - data_start;
    for (GgufTensor& tensor : out_.tensors_) {
      const std::string name = Text("tensor ", Quoted(tensor.name));
      const kernels::DTypeInfo info = kernels::Info(tensor.type);
      if (tensor.size[0] % info.block_elements != 0) {
        return Bad(Text(name, " has rows of ", tensor.size[0], " elements, not whole ", info.name, " blocks of ",
                        info.block_elements));
      }
      uint64_t size = 0;
      bool overflow = __builtin_mul_overflow(static_cast<uint64_t>(tensor.size[0] / info.block_elements),
                                             static_cast<uint64_t>(info.block_bytes), &size);
      for (int d = 1; d < tensor.dimensions; ++d) {
        overflow =
            overflow || __builtin_mul_overflow(size, static_cast<uint64_t>(tensor.size[static_cast<size_t>(d)]), &size);
      }
      if (overflow || size > data_size || tensor.offset > data_size - size) {
        return absl::DataLossError(Text(out_.path(), ": ", name, " reaches past the end of the file (",
                                        overflow ? "a size beyond 64 bits" : Text(size, " bytes"), " at offset ",
                                        tensor.offset, " of ", data_size, " bytes of tensor data)"));
      }
      if (tensor.offset % alignment != 0) {
        return Bad(Text(name, " lies at offset ", tensor.offset, ", not a multiple of the alignment ", alignment));
      }
      tensor.offset += data_start;
      tensor.data = bytes_.subspan(tensor.offset, size);
    }
    return absl::OkStatus();
  }

  GgufFile& out_;
  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
};

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Parse(std::unique_ptr<MappedFile> file) {
  std::unique_ptr<GgufFile> result(new GgufFile);
  result->file_ = std::move(file);
  RETURN_IF_ERROR(Parser(*result).Run());
  return result;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  return Parse(std::move(file));
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::FromBytes(std::string_view bytes) {
  return Parse(MappedFile::FromBytes("(memory)", bytes));
}

}  // namespace alphecca::model

#include "kernels/kv_type.h"

#include "absl/strings/str_cat.h"

namespace alphecca::kernels {
namespace {

struct KvType {
  const char* name;
  DType type;
};
constexpr KvType kTypes[] = {{"bf16", DType::kBF16}, {"f32", DType::kF32}, {"q8_0", DType::kQ8_0}};

}  // namespace

std::vector<std::string> KvTypeNames() {
  std::vector<std::string> names;
  for (const KvType& t : kTypes) {
    names.emplace_back(t.name);
  }
  return names;
}

std::optional<DType> KvTypeByName(std::string_view name) {
  for (const KvType& t : kTypes) {
    if (name == t.name) {
      return t.type;
    }
  }
  return std::nullopt;
}

absl::Status CheckKvType(DType type, int head_dim) {
  bool known = false;
  for (const KvType& t : kTypes) {
    known = known || t.type == type;
  }
  if (!known) {
    return absl::InvalidArgumentError(absl::StrCat("KV of type ", TypeName(type), ": want ", kKvTypes));
  }
  if (const int block = Info(type).block_elements; head_dim % block != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV of type ", TypeName(type), ": heads of width ", head_dim, " are no multiple of ", block));
  }
  return absl::OkStatus();
}

}  // namespace alphecca::kernels

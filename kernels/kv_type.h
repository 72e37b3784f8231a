// The types that a KV cache may hold keys and values in, and their names in flags, files and messages.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/dtype.h"

namespace alphecca::kernels {

inline constexpr char kKvTypes[] = "BF16, F32 or Q8_0";  // as types
inline constexpr char kKvNames[] = "bf16, f32 or q8_0";  // as names of flags

// "bf16", "f32", "q8_0".
std::vector<std::string> KvTypeNames();
// Nothing if the name is none of these.
std::optional<DType> KvTypeByName(std::string_view name);

// InvalidArgument unless heads of this width can be held in the type, which must be one of the three.
absl::Status CheckKvType(DType type, int head_dim);

}  // namespace alphecca::kernels

// What both readers of configurations (config.json and GGUF metadata) share.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "model/config.h"

namespace alphecca::model {

// Checked before layers are allocated; Validate() repeats it.
inline constexpr int64_t kMaxLayerCount = 1024;

// InvalidArgument naming `field` if the value is no non-negative 32-bit integer.
absl::Status NarrowTo(std::string_view field, int64_t value, int* to);

// Sets kv_source: the last `shared` layers read the K and V of the last earlier layer of their type (spec gemma4-text
// section 5). InvalidArgument if there is none.
absl::Status ShareKv(std::string_view field, int64_t shared, std::vector<LayerConfig>* layers);

// Head widths of the last sliding and the last full layer; where a type does not occur, the other's.
std::pair<int, int> HeadDims(const std::vector<LayerConfig>& layers);

}  // namespace alphecca::model

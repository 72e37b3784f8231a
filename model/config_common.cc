#include "model/config_common.h"

#include <limits>

#include "model/messages.h"

namespace alphecca::model {

absl::Status NarrowTo(std::string_view field, int64_t value, int* to) {
  if (value < 0 || value > std::numeric_limits<int>::max()) {
    return absl::InvalidArgumentError(
        Text(field, " is ", value, "; an integer from 0 to ", std::numeric_limits<int>::max(), " is allowed"));
  }
  *to = static_cast<int>(value);
  return absl::OkStatus();
}

absl::Status ShareKv(std::string_view field, int64_t shared, std::vector<LayerConfig>* layers) {
  const auto count = static_cast<int64_t>(layers->size());
  if (shared < 0 || shared >= count) {
    return absl::InvalidArgumentError(
        Text(field, " is ", shared, "; 0 to ", count - 1, " is allowed for ", count, " layers"));
  }
  const int64_t first = count - shared;
  int last_of_type[2] = {-1, -1};
  for (int64_t i = 0; i < count; ++i) {
    LayerConfig& layer = (*layers)[static_cast<size_t>(i)];
    int& last = last_of_type[layer.full_attention ? 1 : 0];
    if (i < first) {
      last = static_cast<int>(i);
    }
    if (last < 0) {
      return absl::InvalidArgumentError(Text(field, " is ", shared, ", but layer ", i, " is ",
                                             layer.full_attention ? "full" : "sliding", " and no layer before layer ",
                                             first, " is"));
    }
    layer.kv_source = last;
  }
  return absl::OkStatus();
}

std::pair<int, int> HeadDims(const std::vector<LayerConfig>& layers) {
  int dims[2] = {0, 0};
  for (const LayerConfig& layer : layers) {
    dims[layer.full_attention ? 1 : 0] = layer.head_dim;
  }
  return {dims[0] != 0 ? dims[0] : dims[1], dims[1] != 0 ? dims[1] : dims[0]};
}

}  // namespace alphecca::model

// The JSON of a safetensors header, read event by event: no document tree, so a hostile header costs no more memory
// than its own length, and a name that occurs twice is seen.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace alphecca::model {

struct SafetensorsHeaderEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // from the end of the header
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsHeaderEntry> entries;               // in the order of the text
  std::map<std::string, std::string, std::less<>> metadata;  // texts in __metadata__
};

// InvalidArgument says what is wrong with which tensor.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json);

}  // namespace alphecca::model

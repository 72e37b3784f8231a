// Checked access to the fields of a JSON object: absent and null are the same, everything else of a wrong type is an
// error that names the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace alphecca::model {

// Does not own the object. `where` prefixes keys in messages ("text_config.").
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {}

  // Null if absent or null.
  const nlohmann::json* Get(std::string_view key) const;
  bool Has(std::string_view key) const { return object_.is_object() && object_.contains(key); }  // null counts
  absl::StatusOr<std::optional<int64_t>> Int(std::string_view key) const;
  absl::StatusOr<int64_t> Int(std::string_view key, int64_t fallback) const;
  absl::StatusOr<int64_t> RequiredInt(std::string_view key) const;
  absl::StatusOr<double> Number(std::string_view key, double fallback) const;
  absl::StatusOr<bool> Bool(std::string_view key, bool fallback) const;
  absl::StatusOr<std::string> String(std::string_view key, std::string_view fallback) const;
  // Null if absent; InvalidArgument if no object.
  absl::StatusOr<const nlohmann::json*> Object(std::string_view key) const;

  std::string Name(std::string_view key) const { return where_ + std::string(key); }
  absl::Status Wrong(std::string_view key, std::string_view wanted) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace alphecca::model

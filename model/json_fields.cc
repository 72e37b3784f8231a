#include "model/json_fields.h"

#include "absl/status/status.h"
#include "common/status_macros.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

// An integer of 64 bits; numbers of the parser are unsigned where not negative.
std::optional<int64_t> AsInt(const nlohmann::json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    return number <= static_cast<uint64_t>(INT64_MAX) ? std::optional<int64_t>(static_cast<int64_t>(number))
                                                      : std::nullopt;
  }
  return value.is_number_integer() ? std::optional<int64_t>(value.get<int64_t>()) : std::nullopt;
}

}  // namespace

absl::Status JsonFields::Wrong(std::string_view key, std::string_view wanted) const {
  const nlohmann::json* value = Get(key);
  std::string shown = "missing";
  if (value != nullptr) {
    shown = value->dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
    if (shown.size() > 80) {
      shown = shown.substr(0, 80) + "...";
    }
  }
  return absl::InvalidArgumentError(Text(Name(key), " is ", shown, "; expected ", wanted));
}

const nlohmann::json* JsonFields::Get(std::string_view key) const {
  if (!object_.is_object()) {
    return nullptr;
  }
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<std::optional<int64_t>> JsonFields::Int(std::string_view key) const {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) {
    return std::optional<int64_t>();
  }
  const std::optional<int64_t> number = AsInt(*value);
  if (!number) {
    return Wrong(key, "an integer");
  }
  return number;
}

absl::StatusOr<int64_t> JsonFields::Int(std::string_view key, int64_t fallback) const {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, Int(key));
  return value.value_or(fallback);
}

absl::StatusOr<int64_t> JsonFields::RequiredInt(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, Int(key));
  if (!value) {
    return Wrong(key, "an integer");
  }
  return *value;
}

absl::StatusOr<double> JsonFields::Number(std::string_view key, double fallback) const {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_number()) {
    return Wrong(key, "a number");
  }
  return value->get<double>();
}

absl::StatusOr<bool> JsonFields::Bool(std::string_view key, bool fallback) const {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_boolean()) {
    return Wrong(key, "true or false");
  }
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonFields::String(std::string_view key, std::string_view fallback) const {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) {
    return std::string(fallback);
  }
  if (!value->is_string()) {
    return Wrong(key, "a string");
  }
  return value->get<std::string>();
}

absl::StatusOr<const nlohmann::json*> JsonFields::Object(std::string_view key) const {
  const nlohmann::json* value = Get(key);
  if (value != nullptr && !value->is_object()) {
    return Wrong(key, "an object");
  }
  return value;
}

}  // namespace alphecca::model

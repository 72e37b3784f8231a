#include "model/safetensors_header.h"

#include <limits>
#include <unordered_set>
#include <utility>

#include "model/messages.h"
#include "nlohmann/json.hpp"

namespace alphecca::model {
namespace {

using nlohmann::json;

constexpr size_t kMaxRank = 8;

// Where in {"name": {"dtype": "F32", "shape": [..], "data_offsets": [b, e]}} the parser stands.
enum class Place { kOutside, kNames, kFields, kShape, kOffsets, kSkip };

class Handler final : public nlohmann::json_sax<json> {
 public:
  absl::Status status() const { return status_; }
  SafetensorsHeader Take() { return std::move(header_); }

  bool null() override { return Scalar("null"); }
  bool boolean(bool) override { return Scalar("a boolean"); }
  bool number_float(number_float_t, const string_t& text) override { return Scalar(Text("the number ", text)); }
  bool binary(binary_t&) override { return Scalar("binary data"); }
  bool number_integer(number_integer_t value) override {
    return Scalar(Text("the negative number ", value));  // the parser reports others as unsigned
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      if (entry_.shape.size() == kMaxRank || value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Fail(Text("has a shape of more than ", kMaxRank, " dimensions or with the size ", value));
      }
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets) {
      if (offsets_ == 2) {
        return Fail("has more than two data_offsets");
      }
      (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
      return true;
    }
    return Scalar(Text("the number ", value));
  }

  bool string(string_t& value) override {
    if (place_ == Place::kFields && field_ == "dtype") {
      entry_.dtype = value;
      return true;
    }
    if (place_ == Place::kSkip && skipped_ == 1) {
      header_.metadata[field_] = value;
      return true;
    }
    return Scalar("a string");
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kSkip || (place_ == Place::kNames && entry_.name == "__metadata__")) {
      return Skip();
    }
    if (place_ == Place::kOutside) {
      place_ = Place::kNames;
      return true;
    }
    if (place_ == Place::kNames) {
      place_ = Place::kFields;
      return true;
    }
    return Scalar("an object");
  }

  bool end_object() override {
    if (place_ == Place::kSkip) {
      return Unskip();
    }
    if (place_ == Place::kFields) {
      place_ = Place::kNames;
      if (fields_ != 7 || offsets_ != 2) {
        return Fail("lacks one of dtype, shape and data_offsets [begin, end]");
      }
      header_.entries.push_back(entry_);
      return true;
    }
    place_ = Place::kOutside;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::kSkip) {
      return Skip();
    }
    if (place_ == Place::kFields && field_ == "shape") {
      place_ = Place::kShape;
      return true;
    }
    if (place_ == Place::kFields && field_ == "data_offsets") {
      place_ = Place::kOffsets;
      return true;
    }
    return Scalar("an array");
  }

  bool end_array() override {
    if (place_ == Place::kSkip) {
      return Unskip();
    }
    place_ = Place::kFields;
    return true;
  }

  bool key(string_t& name) override {
    if (place_ == Place::kNames) {
      if (!names_.insert(name).second) {
        entry_.name = name;
        return Fail("occurs twice");
      }
      entry_ = SafetensorsHeaderEntry();
      entry_.name = name;
      offsets_ = 0;
      fields_ = 0;
    } else if (place_ == Place::kFields) {
      field_ = name;
      const int bit = name == "dtype" ? 1 : name == "shape" ? 2 : name == "data_offsets" ? 4 : 0;
      if (bit == 0) {
        return Fail(Text("has the unknown field ", Quoted(name)));
      }
      if ((fields_ & bit) != 0) {
        return Fail(Text("has the field ", name, " twice"));
      }
      fields_ |= bit;
    } else if (place_ == Place::kSkip && skipped_ == 1) {
      field_ = name;
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    status_ = absl::InvalidArgumentError(Text("the header is not valid JSON at byte ", position));
    return false;
  }

 private:
  bool Skip() {
    if (place_ != Place::kSkip) {
      place_ = Place::kSkip;
      skipped_ = 0;
    }
    ++skipped_;
    return true;
  }
  bool Unskip() {
    if (--skipped_ == 0) {
      place_ = Place::kNames;  // only __metadata__ is skipped
    }
    return true;
  }
  bool Scalar(std::string_view what) {
    if (place_ == Place::kSkip) {
      return true;
    }
    if (place_ == Place::kOutside) {
      status_ = absl::InvalidArgumentError("the header is not a JSON object");
      return false;
    }
    const std::string where = place_ == Place::kShape     ? "shape"
                              : place_ == Place::kOffsets ? "data_offsets"
                              : place_ == Place::kFields  ? field_
                                                          : "its description";
    return Fail(Text("has ", what, " in ", where));
  }
  bool Fail(std::string_view text) {
    status_ = absl::InvalidArgumentError(Text("tensor ", Quoted(entry_.name), " ", text));
    return false;
  }

  Place place_ = Place::kOutside;
  uint64_t skipped_ = 0;
  SafetensorsHeaderEntry entry_;
  std::string field_;
  int fields_ = 0;  // bits of dtype, shape, data_offsets
  int offsets_ = 0;
  std::unordered_set<std::string> names_;
  SafetensorsHeader header_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text) {
  Handler handler;
  const bool parsed = json::sax_parse(text.begin(), text.end(), &handler);
  if (!handler.status().ok()) {
    return handler.status();
  }
  if (!parsed) {
    return absl::InvalidArgumentError("the header is not valid JSON");
  }
  return handler.Take();
}

}  // namespace alphecca::model

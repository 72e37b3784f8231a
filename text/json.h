// A JSON reader that keeps what the chat formats need and usual readers lose: the text of numbers, the order of keys
// and which of two equal keys came first. JsonCursor pulls values from the text without a tree (tokenizer files are
// large); JsonValue is the tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace alphecca::text {

struct JsonMember;

struct JsonValue {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  bool boolean = false;
  std::string text;  // a string's characters (UTF-8), a number as it was written
  std::vector<JsonValue> items;
  std::vector<JsonMember> members;  // keys are unique: of equal keys, the last value stands at the first one's place

  bool IsNull() const { return kind == Kind::kNull; }
  bool IsString() const { return kind == Kind::kString; }
  bool IsNumber() const { return kind == Kind::kNumber; }
  bool IsArray() const { return kind == Kind::kArray; }
  bool IsObject() const { return kind == Kind::kObject; }
  // The value of a key; null if this is no object or has no such key.
  const JsonValue* Find(std::string_view key) const;

  static JsonValue String(std::string_view text);
  static JsonValue Object();
};

struct JsonMember {
  std::string key;
  JsonValue value;
};

// Adds members to an object: an equal key's value goes to its first place. Searches linearly while there are few.
class JsonMembers {
 public:
  // `members` must outlive this, and only this may add to it.
  explicit JsonMembers(std::vector<JsonMember>& members) : members_(members) {}
  // Where this key's value belongs; valid until the next call.
  JsonValue& Slot(const std::string& key);

 private:
  std::vector<JsonMember>& members_;
  std::unordered_map<std::string, size_t> places_;  // used once there are many
};

// Reads strict JSON (RFC 8259) in UTF-8; lone surrogate escapes become U+FFFD. Errors are InvalidArgument and name the
// byte. After an error the cursor must not be used. The text must outlive the cursor.
class JsonCursor {
 public:
  static constexpr int kMaxDepth = 256;

  explicit JsonCursor(std::string_view text) : text_(text) {}

  // The first character of the next value or punctuation; 0 at the end.
  char Peek();
  // `on_member` gets each key in turn and must read its value. Equal keys are passed on as they come.
  absl::Status ReadObject(absl::FunctionRef<absl::Status(const std::string& key)> on_member);
  // `on_item` must read one value.
  absl::Status ReadArray(absl::FunctionRef<absl::Status()> on_item);
  absl::Status ReadString(std::string& out);
  absl::StatusOr<bool> ReadBool();
  // A whole number that fits.
  absl::StatusOr<int64_t> ReadInt();
  absl::StatusOr<JsonValue> ReadValue();
  absl::Status SkipValue();
  // Ok if nothing but white space is left.
  absl::Status End();
  absl::Status Error(std::string_view what) const;

 private:
  absl::Status ReadInto(JsonValue& value);
  absl::Status ReadEscape(std::string& out);
  absl::StatusOr<uint32_t> ReadHex4();
  absl::StatusOr<std::string_view> ReadNumber();
  absl::Status ReadWord(std::string_view word);

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
};

// The whole of `text` as one value.
absl::StatusOr<JsonValue> ParseJson(std::string_view text);

// Appends a JSON string; of non-ASCII characters none is escaped. `text` must be UTF-8.
void AppendJsonString(std::string_view text, std::string& out);
// Appends compact JSON: keys in order, numbers as they are.
void AppendJson(const JsonValue& value, std::string& out);

}  // namespace alphecca::text

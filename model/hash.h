// A 64-bit FNV-1a over typed fields, for comparing descriptions between hosts. Not for security.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace alphecca::model {

class FieldHash {
 public:
  // `seed` gives independent hashes of the same fields.
  explicit FieldHash(uint64_t seed = 0) { Add(static_cast<int64_t>(seed)); }

  void Add(int64_t value) {
    for (int shift = 0; shift < 64; shift += 8) {
      Byte(static_cast<uint8_t>(static_cast<uint64_t>(value) >> shift));
    }
  }
  void Add(double value) { Add(std::bit_cast<int64_t>(value)); }
  // With its length, so that neighbouring fields cannot trade characters.
  void Add(std::string_view text) {
    Add(static_cast<int64_t>(text.size()));
    for (const char c : text) {
      Byte(static_cast<uint8_t>(c));
    }
  }
  uint64_t value() const { return value_; }

 private:
  void Byte(uint8_t byte) { value_ = (value_ ^ byte) * 0x100000001b3ULL; }
  uint64_t value_ = 0xcbf29ce484222325ULL;
};

}  // namespace alphecca::model

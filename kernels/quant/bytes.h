// Little-endian fields of encoded blocks, which lie at any address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace alphecca::kernels {

inline uint32_t Byte(const std::byte* p, int i) {
  return std::to_integer<uint32_t>(p[i]);
}
inline int SignedByte(const std::byte* p, int i) {
  return static_cast<int8_t>(std::to_integer<uint8_t>(p[i]));
}

inline uint16_t LoadU16(const std::byte* p) {
  return static_cast<uint16_t>(Byte(p, 0) | (Byte(p, 1) << 8));
}
inline uint32_t LoadU32(const std::byte* p) {
  return LoadU16(p) | (static_cast<uint32_t>(LoadU16(p + 2)) << 16);
}
inline float LoadF32(const std::byte* p) {
  float value = 0.0F;
  std::memcpy(&value, p, sizeof value);
  return value;
}

inline void StoreU16(std::byte* p, uint16_t value) {
  p[0] = static_cast<std::byte>(value & 0xFFU);
  p[1] = static_cast<std::byte>(value >> 8);
}

// IQ4_NL's sixteen values.
inline constexpr int kIq4NlValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

}  // namespace alphecca::kernels

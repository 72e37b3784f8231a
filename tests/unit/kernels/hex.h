// Bytes as the specifications print them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace alphecca::kernels {

// `hex` over and over, n times.
inline std::string Times(const std::string& hex, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) {
    out += hex;
  }
  return out;
}

inline std::vector<std::byte> FromHex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

inline std::string ToHex(const std::vector<std::byte>& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const std::byte b : bytes) {
    hex += kDigits[std::to_integer<int>(b) >> 4];
    hex += kDigits[std::to_integer<int>(b) & 15];
  }
  return hex;
}

}  // namespace alphecca::kernels

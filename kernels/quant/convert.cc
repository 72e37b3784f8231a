// Encoded rows from the type of a file to a run-time type.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/quant/bytes.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels {
namespace {

// Types whose values are one f16 times an integer of at most 8 bits: Q8_0 holds them exactly, with the same f16.
bool IsIntegerTimesScale(DType type) {
  return type == DType::kQ4_0 || type == DType::kQ5_0 || type == DType::kIQ4_NL;
}

void IntegersToQ80(DType from, const std::byte* block, std::byte* out) {
  out[0] = block[0];
  out[1] = block[1];
  const std::byte* qs = block + (from == DType::kQ5_0 ? 6 : 2);
  const uint32_t high = from == DType::kQ5_0 ? LoadU32(block + 2) : 0;
  for (int i = 0; i < 32; ++i) {
    const uint32_t nibble = (Byte(qs, i % 16) >> (i < 16 ? 0 : 4)) & 15U;
    int value = 0;
    if (from == DType::kQ4_0) {
      value = static_cast<int>(nibble) - 8;
    } else if (from == DType::kQ5_0) {
      value = static_cast<int>(nibble | (((high >> i) & 1U) << 4)) - 16;
    } else {
      value = kIq4NlValues[nibble];
    }
    out[2 + i] = static_cast<std::byte>(value);
  }
}

}  // namespace

float ConvertRow(DType from, const std::byte* row, int64_t cols, Range elements, float from_scale, DType to,
                 float* scratch, std::byte* out) {
  const std::byte* begin = row + RowBytes(from, elements.begin);
  if (from == to && (from_scale == 1.0F || to == DType::kSFP8)) {
    std::copy_n(begin, RowBytes(from, elements.size()), out);
    return from_scale;
  }
  if (to == DType::kQ8_0 && IsIntegerTimesScale(from) && from_scale == 1.0F) {
    for (int64_t i = 0; i < elements.size(); i += 32) {
      IntegersToQ80(from, begin, out);
      begin += Info(from).block_bytes;
      out += Info(to).block_bytes;
    }
    return 1.0F;
  }
  const auto count = static_cast<size_t>(elements.size());
  if (to != DType::kSFP8) {
    DecodeRow(from, row, elements, from_scale, scratch);
    EncodeRow(to, std::span<const float>(scratch, count), 1.0F, out);
    return 1.0F;
  }
  DecodeRow(from, row, {0, cols}, from_scale, scratch);
  float max_abs = 0.0F;
  for (int64_t i = 0; i < cols; ++i) {
    max_abs = std::max(max_abs, std::fabs(scratch[i]));
  }
  const float scale = Sfp8Scale(max_abs);
  EncodeRow(to, std::span<const float>(scratch + elements.begin, count), scale, out);
  return scale;
}

absl::Status CheckConversion(DType from, DType to) {
  if (!IsDecodable(from)) {
    return absl::InvalidArgumentError(absl::StrCat("weights of type ", TypeName(from), ": want a type of numbers"));
  }
  if (from != to && !IsEncodable(to)) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights of type ", TypeName(from), " to ", TypeName(to), ": want F32, BF16, SFP8, Q8_0 or Q4_0"));
  }
  return absl::OkStatus();
}

}  // namespace alphecca::kernels

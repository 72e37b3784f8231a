// Weight encodings: values and rows to and from F32, and from file types to run-time types.
// Formats: GGUF blocks (f16 scales, 32 or 256 elements) and gemma.cpp's SFP; little-endian, rows without padding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "common/range.h"
#include "kernels/dtype.h"

namespace alphecca::kernels {

// ---- Single values ----------------------------------------------------------------------------------------------

float F16ToF32(uint16_t bits);
uint16_t F32ToF16(float value);  // nearest even; past 65504: infinity
float Bf16ToF32(uint16_t bits);
uint16_t F32ToBf16(float value);  // nearest even; NaN stays a quiet NaN
float Sfp8ToF32(uint8_t code);
uint8_t F32ToSfp8(float value);  // clamped to +-1.875; NaN: 0

inline constexpr float kSfp8Max = 1.875F;
// The scale under which values of at most max_abs fit SFP8: 1 if they do as they are.
float Sfp8Scale(float max_abs);

// ---- Rows -------------------------------------------------------------------------------------------------------

// Whether rows of the type hold numbers that decode to F32 (all but I32 and I64).
bool IsDecodable(DType type);
// Whether EncodeRow writes the type: F32, BF16, SFP8, Q8_0, Q4_0.
bool IsEncodable(DType type);

// Elements [begin, end) of an encoded row, times scale; both ends on a block of the type. out: end - begin values.
void DecodeRow(DType type, const std::byte* row, Range elements, float scale, float* out);

// values: a whole number of blocks. For SFP8 the values are divided by `scale`, which the caller keeps beside the row;
// 1 for other types. out: RowBytes(type, values.size()).
void EncodeRow(DType type, std::span<const float> values, float scale, std::byte* out);

// Converts elements [begin, end) of an encoded row of `cols` values (times from_scale) to another type. Where the
// target holds the values exactly (same type; Q4_0, Q5_0, IQ4_NL to Q8_0; SFP8 to BF16), it does so. scratch: cols
// values. Returns the scale of the new row: 1 unless `to` is SFP8, whose scale is that of the whole row, so that the
// slices of a row put together are the row.
float ConvertRow(DType from, const std::byte* row, int64_t cols, Range elements, float from_scale, DType to,
                 float* scratch, std::byte* out);

// InvalidArgument if ConvertRow cannot make `to` from `from`, saying what would do.
absl::Status CheckConversion(DType from, DType to);

}  // namespace alphecca::kernels

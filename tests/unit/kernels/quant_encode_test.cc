// Encoding and conversion of weights.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/quant/quant.h"
#include "tests/unit/kernels/hex.h"

namespace alphecca::kernels {
namespace {

std::string Encode(DType type, const std::vector<float>& values) {
  std::vector<std::byte> bytes(static_cast<size_t>(RowBytes(type, static_cast<int64_t>(values.size()))));
  EncodeRow(type, values, 1.0F, bytes.data());
  return ToHex(bytes);
}

std::vector<float> Ramp() {
  std::vector<float> x(32);
  for (size_t i = 0; i < 32; ++i) {
    x[i] = static_cast<float>(i) - 16.0F;
  }
  return x;
}

std::vector<float> Sparse() {
  std::vector<float> x(32, 0.0F);
  x[0] = -4.0F;
  x[1] = 3.9F;
  x[16] = 1.2F;
  x[17] = -0.3F;
  return x;
}

TEST(EncodeTest, Q4_0) {
  EXPECT_EQ(Encode(DType::kQ4_0, Ramp()), "0040809191a2a2b3b3c4c4d5d5e6e6f7f7f8");
  EXPECT_EQ(Encode(DType::kQ4_0, Sparse()), "0038a07f" + Times("88", 14));
  EXPECT_EQ(Encode(DType::kQ4_0, std::vector<float>(32, 0.0F)), "0080" + Times("88", 16));
  // Of equal magnitudes the first decides the sign of the scale.
  std::vector<float> tie(32, 0.0F);
  tie[3] = 8.0F;
  tie[4] = -8.0F;
  EXPECT_EQ(Encode(DType::kQ4_0, tie).substr(0, 4), "00bc");
}

TEST(EncodeTest, Q8_0) {
  EXPECT_EQ(Encode(DType::kQ8_0, Ramp()),
            "0830818991"
            "99a1a9b1b9c0c8d0d8e0e8f0f80008101820283038"
            "40474f575f676f77");
  EXPECT_EQ(Encode(DType::kQ8_0, Sparse()), "0828817c" + Times("00", 14) + "26f6" + Times("00", 14));
  EXPECT_EQ(Encode(DType::kQ8_0, std::vector<float>(32, 0.0F)), Times("00", 34));
}

TEST(EncodeTest, BadValuesStayDefined) {
  std::vector<float> x = Ramp();
  x[3] = NAN;
  x[4] = INFINITY;
  for (const DType type : {DType::kQ4_0, DType::kQ8_0, DType::kSFP8, DType::kBF16, DType::kF32}) {
    Encode(type, x);  // no undefined conversion (checked by the sanitizers)
  }
  EXPECT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(NAN))));
  EXPECT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(std::bit_cast<float>(0x7F800001U)))));
}

TEST(EncodeTest, Bf16) {
  EXPECT_EQ(Encode(DType::kBF16, {3.14159265F, 0.001F}), "4940833a");
  EXPECT_EQ(F32ToBf16(std::bit_cast<float>(0x3F808000U)), 0x3F80);  // a tie goes to even
  EXPECT_EQ(F32ToBf16(std::bit_cast<float>(0x3F818000U)), 0x3F82);
}

TEST(EncodeTest, F16) {
  EXPECT_EQ(F32ToF16(0.001F), 0x1419);
  EXPECT_EQ(F32ToF16(65504.0F), 0x7BFF);
  EXPECT_EQ(F32ToF16(65519.9F), 0x7BFF);
  EXPECT_EQ(F32ToF16(65520.0F), 0x7C00);
  EXPECT_EQ(F32ToF16(-1e30F), 0xFC00);
  EXPECT_EQ(F32ToF16(0x1p-25F), 0x0000);  // ties to even: zero
  EXPECT_EQ(F32ToF16(0x1.8p-24F), 0x0002);
  EXPECT_EQ(F32ToF16(-0.0F), 0x8000);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToF32(static_cast<uint16_t>(bits));
    if (!std::isnan(value)) {
      EXPECT_EQ(F32ToF16(value), bits);
    }
  }
}

TEST(EncodeTest, Sfp8Vectors) {
  const std::vector<std::pair<float, int>> want = {
      {1.0F, 0x78},           {-1.0F, 0xF8},           {0.5F, 0x70},
      {0.3F, 0x6A},           {-0.3F, 0xEA},           {0.1F, 0x5D},
      {0.02F, 0x4A},          {0.001F, 0x34},          {1.0625F, 0x78},
      {0.96875F, 0x78},       {0.484375F, 0x70},       {0.0068359375F, 0x3F},
      {0.00732421875F, 0x40}, {0.007568359375F, 0x40}, {0.013841F, 0x46},
      {1.19209e-7F, 0x01},    {8.94e-8F, 0x00},        {1.1176e-7F, 0x01},
      {-1e-9F, 0x00},         {100.0F, 0x7F},          {-100.0F, 0xFF}};
  for (const auto& [value, code] : want) {
    EXPECT_EQ(F32ToSfp8(value), code) << value;
  }
}

TEST(EncodeTest, Sfp8CodesRoundTripAndRise) {
  for (int v = 1; v < 128; ++v) {
    EXPECT_EQ(F32ToSfp8(Sfp8ToF32(static_cast<uint8_t>(v))), v);
    EXPECT_EQ(F32ToSfp8(Sfp8ToF32(static_cast<uint8_t>(v | 128))), v | 128);
    EXPECT_GT(Sfp8ToF32(static_cast<uint8_t>(v)), Sfp8ToF32(static_cast<uint8_t>(v - 1)));
  }
}

TEST(ConvertTest, IntegersTimesAScaleFitQ8_0Exactly) {
  std::mt19937 random(5);
  for (const DType from : {DType::kQ4_0, DType::kQ5_0, DType::kIQ4_NL}) {
    std::vector<std::byte> row(static_cast<size_t>(RowBytes(from, 96)));
    for (std::byte& b : row) {
      b = static_cast<std::byte>(random() & 0x3FU);  // keeps the scales finite
    }
    std::vector<std::byte> out(static_cast<size_t>(RowBytes(DType::kQ8_0, 64)));
    std::vector<float> scratch(64);
    EXPECT_EQ(ConvertRow(from, row.data(), 96, {32, 96}, 1.0F, DType::kQ8_0, scratch.data(), out.data()), 1.0F);
    std::vector<float> want(64);
    std::vector<float> got(64);
    DecodeRow(from, row.data(), {32, 96}, 1.0F, want.data());
    DecodeRow(DType::kQ8_0, out.data(), {0, 64}, 1.0F, got.data());
    EXPECT_EQ(got, want) << TypeName(from);
  }
}

TEST(ConvertTest, Sfp8BecomesBf16Exactly) {
  std::vector<std::byte> row(256);
  for (size_t i = 0; i < 256; ++i) {
    row[i] = static_cast<std::byte>(i == 128 ? 0 : i);
  }
  std::vector<std::byte> out(512);
  std::vector<float> scratch(256);
  ConvertRow(DType::kSFP8, row.data(), 256, {0, 256}, 1.0F, DType::kBF16, scratch.data(), out.data());
  for (size_t i = 0; i < 256; ++i) {
    float value = 0.0F;
    DecodeRow(DType::kBF16, out.data() + 2 * i, {0, 1}, 1.0F, &value);
    EXPECT_EQ(value, Sfp8ToF32(std::to_integer<uint8_t>(row[i])));
  }
}

TEST(ConvertTest, Sfp8ScalesLargeRows) {
  std::vector<float> values(8, 0.5F);
  values[2] = -7.5F;
  std::vector<std::byte> row(32);
  EncodeRow(DType::kF32, values, 1.0F, row.data());
  std::vector<std::byte> out(8);
  std::vector<float> scratch(8);
  const float scale = ConvertRow(DType::kF32, row.data(), 8, {0, 8}, 1.0F, DType::kSFP8, scratch.data(), out.data());
  EXPECT_EQ(scale, 4.0F);
  std::vector<float> got(8);
  DecodeRow(DType::kSFP8, out.data(), {0, 8}, scale, got.data());
  EXPECT_EQ(got, values);
}

TEST(ConvertTest, SlicesOfARowAreTheRow) {
  std::mt19937 random(11);
  std::vector<float> values(128);
  for (float& v : values) {
    v = static_cast<float>(random() % 1000) / 2000.0F;
  }
  values[100] = 9.0F;  // the largest lies in the last slice; the first takes its scale
  std::vector<std::byte> row(values.size() * sizeof(float));
  EncodeRow(DType::kF32, values, 1.0F, row.data());
  std::vector<float> scratch(128);
  for (const DType to : {DType::kF32, DType::kBF16, DType::kSFP8, DType::kQ8_0, DType::kQ4_0}) {
    std::vector<std::byte> whole(static_cast<size_t>(RowBytes(to, 128)));
    const float scale = ConvertRow(DType::kF32, row.data(), 128, {0, 128}, 1.0F, to, scratch.data(), whole.data());
    EXPECT_EQ(scale, to == DType::kSFP8 ? 4.8F : 1.0F);
    std::vector<std::byte> joined(whole.size());
    for (const Range part : {Range{0, 32}, Range{32, 64}, Range{64, 128}}) {
      EXPECT_EQ(ConvertRow(DType::kF32, row.data(), 128, part, 1.0F, to, scratch.data(),
                           joined.data() + RowBytes(to, part.begin)),
                scale);
    }
    EXPECT_EQ(joined, whole) << TypeName(to);
  }
}

TEST(ConvertTest, SaysWhatItCannotDo) {
  EXPECT_TRUE(CheckConversion(DType::kQ6_K, DType::kQ6_K).ok());
  EXPECT_TRUE(CheckConversion(DType::kQ5_K, DType::kF32).ok());
  EXPECT_EQ(CheckConversion(DType::kI32, DType::kF32).code(), absl::StatusCode::kInvalidArgument);
  const absl::Status status = CheckConversion(DType::kBF16, DType::kQ6_K);
  EXPECT_EQ(status.message(), "weights of type BF16 to Q6_K: want F32, BF16, SFP8, Q8_0 or Q4_0");
}

}  // namespace
}  // namespace alphecca::kernels

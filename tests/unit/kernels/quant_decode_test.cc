// Decoding of every weight encoding against vectors made with the formats' own tools (gguf.quants; gemma.cpp's table).
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/quant/quant.h"
#include "tests/unit/kernels/hex.h"

namespace alphecca::kernels {
namespace {

std::vector<float> Decode(DType type, const std::string& hex) {
  const std::vector<std::byte> bytes = FromHex(hex);
  const int64_t elements = static_cast<int64_t>(bytes.size()) / Info(type).block_bytes * Info(type).block_elements;
  std::vector<float> out(static_cast<size_t>(elements));
  DecodeRow(type, bytes.data(), {0, elements}, 1.0F, out.data());
  return out;
}

// The elements that `want` names, index to value.
void ExpectAt(const std::vector<float>& got, const std::vector<std::pair<int, float>>& want) {
  for (const auto& [i, value] : want) {
    EXPECT_EQ(got[static_cast<size_t>(i)], value) << "element " << i;
  }
}

void ExpectFrom(const std::vector<float>& got, int begin, const std::vector<float>& want) {
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[static_cast<size_t>(begin) + i], want[i]) << "element " << static_cast<size_t>(begin) + i;
  }
}

void ExpectRange(const std::vector<float>& got, int begin, int end, float want) {
  for (int i = begin; i < end; ++i) {
    EXPECT_EQ(got[static_cast<size_t>(i)], want) << "element " << i;
  }
}

double Sum(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

std::string HexOf(int count, const std::function<int(int)>& byte) {
  std::string hex;
  constexpr char kDigits[] = "0123456789abcdef";
  for (int i = 0; i < count; ++i) {
    const int b = byte(i) & 255;
    hex += kDigits[b >> 4];
    hex += kDigits[b & 15];
  }
  return hex;
}

constexpr char kMixed[] = "557a9fc4e90e33587da2c7ec11365b80";

TEST(DecodeTest, Q4_0) {
  const std::vector<float> a = Decode(DType::kQ4_0, "003c" + Times("88", 15) + "f0");
  ExpectRange(a, 0, 15, 0.0F);
  ExpectAt(a, {{15, -8.0F}, {31, 7.0F}});
  ExpectRange(a, 16, 31, 0.0F);
  const std::vector<float> b = Decode(DType::kQ4_0, "0038" + HexOf(16, [](int i) { return i * 17; }));
  for (int i = 0; i < 16; ++i) {
    ExpectAt(b, {{i, static_cast<float>(i - 8) / 2}, {i + 16, static_cast<float>(i - 8) / 2}});
  }
  ExpectFrom(Decode(DType::kQ4_0, std::string("00b8") + kMixed), 0,
             {1.5, -1,  -3.5, 2,  -0.5, -3, 2.5, -0.0, -2.5, 3,  0.5, -2, 3.5, 1,   -1.5, 4,
              1.5, 0.5, -0.5, -2, -3,   4,  2.5, 1.5,  0.5,  -1, -2,  -3, 3.5, 2.5, 1.5,  -0.0});
}

TEST(DecodeTest, Q5_0) {
  const std::vector<float> a = Decode(DType::kQ5_0, "003c01000080" + Times("00", 16));
  ExpectAt(a, {{0, 0.0F}, {31, 0.0F}});
  ExpectRange(a, 1, 31, -16.0F);
  const std::vector<float> b = Decode(DType::kQ5_0, "0034ffffffff" + Times("0f", 16));
  ExpectRange(b, 0, 16, 3.75F);
  ExpectRange(b, 16, 32, 0.0F);
  ExpectFrom(Decode(DType::kQ5_0, "00b8557a9fc4e90e33587da2c7ec11365b80a5caef14"), 0,
             {-4.5, 1,    -1.5, 4,    -6.5, 7, -3.5, 2,  7.5, -3,  2.5,  -0.0, -2.5, -5, -7.5, 6,
              -7,   -0.0, -1.5, -2.5, -3.5, 3, 2,    -7, 7.5, 6.5, -2.5, 4,    3,    2,  -7,   -0.5});
}

TEST(DecodeTest, Q8_0) {
  const std::vector<float> a = Decode(DType::kQ8_0, "0038" + HexOf(32, [](int i) { return i; }));
  for (int i = 0; i < 32; ++i) {
    ExpectAt(a, {{i, static_cast<float>(i) / 2}});
  }
  const std::vector<float> b = Decode(DType::kQ8_0, "00c080ff7f" + Times("00", 29));
  ExpectAt(b, {{0, 256.0F}, {1, 2.0F}, {2, -254.0F}});
  ExpectRange(b, 3, 32, 0.0F);
  const std::vector<float> c = Decode(DType::kQ8_0, std::string("0028") + kMixed + "a5caef14395e83a8cdf2173c6186abd0");
  ExpectFrom(c, 0, {2.65625, 3.8125, -3.03125, -1.875, -0.71875, 0.4375, 1.59375, 2.75, 3.90625, -2.9375});
  ExpectFrom(c, 29, {-3.8125, -2.65625, -1.5});
}

TEST(DecodeTest, Q4_1AndQ5_1) {
  const std::vector<float> a = Decode(DType::kQ4_1, "003800bc" + Times("2f", 16));
  ExpectRange(a, 0, 16, 6.5F);
  ExpectRange(a, 16, 32, 0.0F);
  const std::vector<float> b = Decode(DType::kQ5_1, "003800bc01000080" + Times("10", 16));
  ExpectAt(b, {{0, 7.0F}, {31, 7.5F}});
  ExpectRange(b, 1, 16, -1.0F);
  ExpectRange(b, 16, 31, -0.5F);
}

TEST(DecodeTest, IQ4_NL) {
  const std::vector<float> a = Decode(DType::kIQ4_NL, "003c80f7" + Times("88", 14));
  ExpectAt(a, {{0, -127.0F}, {1, -10.0F}, {16, 1.0F}, {17, 113.0F}});
  ExpectRange(a, 2, 16, 1.0F);
  ExpectRange(a, 18, 32, 1.0F);
}

TEST(DecodeTest, Q4_K) {
  const std::vector<float> a = Decode(DType::kQ4_K,
                                      "003c003c"
                                      "3f0000000100000000000000" +
                                          Times("ff", 128));
  ExpectRange(a, 0, 32, 944.0F);
  ExpectRange(a, 32, 256, 0.0F);
  const std::vector<float> b = Decode(DType::kQ4_K,
                                      "003c0038"
                                      "400000008000000025000000" +
                                          Times("00", 64) + Times("03", 32) + Times("00", 32));
  ExpectRange(b, 0, 128, 0.0F);
  ExpectRange(b, 128, 160, 46.0F);
  ExpectRange(b, 160, 256, 0.0F);
  const std::vector<float> c = Decode(DType::kQ4_K,
                                      "00340030"
                                      "01024384054687c821436587" +
                                          HexOf(128, [](int i) { return 7 * i + 3; }));
  ExpectAt(c, {{0, 0.125},
               {1, 1.875},
               {31, 2.375},
               {32, -0.75},
               {64, 1.375},
               {100, 14},
               {128, 0.5},
               {159, 2.75},
               {160, 6.5},
               {192, 11},
               {224, 90.5},
               {255, 61.25}});
  EXPECT_EQ(Sum(c), 3828.0);
}

TEST(DecodeTest, Q5_K) {
  const std::vector<float> a =
      Decode(DType::kQ5_K,
             "00340030"
             "01024384054687c821436587" +
                 HexOf(32, [](int i) { return 13 * i + 5; }) + HexOf(128, [](int i) { return 7 * i + 3; }));
  ExpectAt(a, {{0, 4.125},
               {1, 1.875},
               {31, 2.375},
               {32, -0.75},
               {64, 13.375},
               {96, 13},
               {128, 0.5},
               {160, 6.5},
               {192, 11},
               {224, 90.5},
               {255, 217.25}});
  EXPECT_EQ(Sum(a), 7868.0);
}

TEST(DecodeTest, Q6_K) {
  const std::vector<float> a = Decode(DType::kQ6_K, Times("21", 128) + Times("e4", 64) + Times("01", 16) + "003c");
  for (const int half : {0, 128}) {
    ExpectRange(a, half, half + 32, -31.0F);
    ExpectRange(a, half + 32, half + 64, -15.0F);
    ExpectRange(a, half + 64, half + 96, 2.0F);
    ExpectRange(a, half + 96, half + 128, 18.0F);
  }
  EXPECT_EQ(Sum(a), -1664.0);
  const std::vector<float> b = Decode(DType::kQ6_K, Times("00", 192) + "80" + Times("00", 14) + "7f" + "0038");
  ExpectRange(b, 0, 16, 2048.0F);
  ExpectRange(b, 16, 240, 0.0F);
  ExpectRange(b, 240, 256, -2032.0F);
  const std::vector<float> c =
      Decode(DType::kQ6_K, HexOf(128, [](int i) { return 5 * i + 1; }) + HexOf(64, [](int i) { return 11 * i + 2; }) +
                               HexOf(16, [](int i) { return i % 2 == 0 ? i + 1 : -(i + 1); }) + "0038");
  ExpectAt(c, {{0, 0.5},
               {1, -5},
               {15, 14},
               {16, -1},
               {31, -28},
               {32, -46.5},
               {33, 33},
               {64, -80},
               {96, -77},
               {127, 52},
               {128, 4.5},
               {129, -45},
               {160, -170.5},
               {192, 26},
               {224, -15},
               {255, -56}});
  EXPECT_EQ(Sum(c), 1202.0);
}

TEST(DecodeTest, Bf16AndF16AndF32) {
  ExpectFrom(Decode(DType::kBF16,
                    "803f20c04940"
                    "00ff"),
             0, {1.0F, -2.5F, 3.140625F, -1.7014118e38F});
  ExpectFrom(Decode(DType::kF16, "003c00c14842ff7b010000fc"), 0,
             {1.0F, -2.5F, 3.140625F, 65504.0F, 5.9604645e-8F, -INFINITY});
  ExpectFrom(Decode(DType::kF32, "0000803f000020c0"), 0, {1.0F, -2.5F});
}

TEST(DecodeTest, Sfp8) {
  ExpectFrom(Decode(DType::kSFP8, "0001043f40414748787fbff8ff"), 0,
             {0.0F, 1.4901161e-7F, 2.3841858e-7F, 0.0068359375F, 0.0078125F, 0.0087890625F, 0.0146484375F, 0.015625F,
              1.0F, 1.875F, -0.0068359375F, -1.0F, -1.875F});
}

TEST(DecodeTest, PartOfARowTimesAScale) {
  const std::vector<std::byte> bytes =
      FromHex("0038" + HexOf(32, [](int i) { return i; }) + "003c" + HexOf(32, [](int i) { return 2 * i; }));
  std::vector<float> out(32);
  DecodeRow(DType::kQ8_0, bytes.data(), {32, 64}, 0.5F, out.data());
  ExpectAt(out, {{0, 0.0F}, {1, 1.0F}, {31, 31.0F}});
  DecodeRow(DType::kQ8_0, bytes.data(), {32, 32}, 0.5F, nullptr);  // nothing asked, nothing written
}

}  // namespace
}  // namespace alphecca::kernels

// Products in int8 are exact but for the rounding of activations: where these are whole numbers up to the largest that
// a record holds, and that one among them, in every stretch that has a scale of its own, times a power of two, nothing
// is rounded, and the product is that of F32. Weights at the ends of their range are where a sum of 16 or 32 bits would
// overflow, if any did.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "kernels/quant/quant.h"
#include "tests/unit/kernels/cpu/cpu_paths.h"
#include "tests/unit/kernels/op_cases.h"

namespace alphecca::kernels::cpu {
namespace {

constexpr int64_t kRows = 19;
constexpr int64_t kCols = 512;
constexpr int64_t kTokens = 19;

enum class Numbers { kRandom, kLowest, kHighest, kAlternating };

// The byte that fills a block's numbers, at random or one that stands for the end of the range (0: lowest for unsigned
// numbers with an offset).
std::byte NumberByte(std::mt19937& random, Numbers numbers, DType type, int64_t i) {
  const bool low = numbers == Numbers::kLowest || (numbers == Numbers::kAlternating && i % 3 == 0);
  if (numbers == Numbers::kRandom) {
    return static_cast<std::byte>(random() & 0xFFU);
  }
  if (type == DType::kQ8_0) {
    return static_cast<std::byte>(low ? 0x80 : 0x7F);
  }
  return static_cast<std::byte>(low ? 0x00 : 0xFF);
}

void PutScale(std::byte* block, DType type) {
  const uint16_t one = F32ToF16(0x1p-6F);
  std::memcpy(block + (type == DType::kQ6_K ? 208 : 0), &one, sizeof one);
  if (type == DType::kQ4_K || type == DType::kQ5_K) {  // of the minima
    std::memcpy(block + 2, &one, sizeof one);
  }
}

std::vector<std::byte> Weights(DType type, Numbers numbers) {
  std::mt19937 random(5);
  std::vector<std::byte> bytes(static_cast<size_t>(kRows * RowBytes(type, kCols)));
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = NumberByte(random, numbers, type, static_cast<int64_t>(i));
  }
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(Info(type).block_bytes)) {
    PutScale(bytes.data() + at, type);
    for (int64_t s = 0; type == DType::kQ6_K && numbers != Numbers::kRandom && s < 16; ++s) {
      bytes[at + 192 + static_cast<size_t>(s)] = static_cast<std::byte>(s % 2 == 0 ? 0x80 : 0x7F);
    }
  }
  return bytes;
}

// Columns of activations that share a scale, and the largest number of its steps (see QuantRows and sliced_inl.h).
struct Steps {
  size_t cols;
  int most;
};
Steps StepsOf(const KernelTable& kernels, DType type) {
  const bool fine = type == DType::kQ4_0 || type == DType::kQ4_K || type == DType::kQ5_K;
  const std::string name = kernels.name;
  if (fine && (name == "avx512vnni" || name == "amx")) {
    return {256, type == DType::kQ5_K ? 127 << 3 : 127 << 4};
  }
  return {type == DType::kQ8_0 ? 32U : type == DType::kQ6_K ? 16U : 8U, 127};
}

std::vector<float> WholeActivations(Steps steps, bool extreme) {
  std::mt19937 random(6);
  std::vector<float> values(static_cast<size_t>(kTokens * kCols));
  const auto most = static_cast<float>(steps.most);
  float scale = 1.0F;
  for (size_t i = 0; i < values.size(); ++i) {
    const int x = static_cast<int>(random() % static_cast<unsigned>(2 * steps.most + 1)) - steps.most;
    const bool first = i % steps.cols == 0;
    if (first) {
      scale = std::ldexp(1.0F, -static_cast<int>(random() % 8U));
    }
    values[i] = scale * (extreme || first ? (x < 0 ? -most : most) : static_cast<float>(x));
  }
  // Rows of one sign and scale only: all terms of a sum at their largest.
  for (size_t i = 0; extreme && i < static_cast<size_t>(kCols); ++i) {
    values[i] = most;
    values[static_cast<size_t>(kCols) + i] = -most;
  }
  return values;
}

TEST(Int8ExactTest, WholeActivationsLoseNothing) {
  for (const KernelTable* kernels : SupportedKernels()) {
    for (const DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
      for (const Numbers numbers : {Numbers::kRandom, Numbers::kLowest, Numbers::kHighest, Numbers::kAlternating}) {
        for (const bool extreme : {false, true}) {
          const Steps steps = StepsOf(*kernels, type);
          const std::vector<std::byte> file = Weights(type, numbers);
          const HostTensor tensor = {type, file.data(), 1, kRows, kCols};
          const std::string name = std::string(kernels->name) + " " + TypeName(type) + " " +
                                   std::to_string(static_cast<int>(numbers)) + (extreme ? " extreme" : "");
          const OpCase op_case = {"MatMul", name, [&](OpRun& run) {
                                    const Matrix& m = run.Packed({{tensor, {0, 1}, {0, kRows}, {0, kCols}}}, type);
                                    const Tensor in = run.Put(WholeActivations(steps, extreme), kTokens, kCols);
                                    const Tensor out = run.Empty(kTokens, kRows);
                                    run.backend().MatMul(run.stream(), {.in = in, .matrix = &m, .out = out});
                                    // Terms of up to 2^-6 * 127 * 127 * 128, or as much more as there are steps.
                                    run.Collect("out", out, SumTolerance(kCols), 0x1p-6 * steps.most * 32);
                                  }};
          const auto backend = CpuPath{kernels, Activations::kDefault, 1}.Create();
          EXPECT_EQ(RunOpCase(op_case, *backend), "");
        }
      }
    }
  }
}

}  // namespace
}  // namespace alphecca::kernels::cpu

#include "worker/comm/rank_sum.h"

#include <algorithm>
#include <cstring>

namespace alphecca::comm {
namespace {

// Fits the first-level cache beside one part, so that the partial sums never leave it.
constexpr int64_t kBlock = 2048;

void Add(const float* __restrict__ part, int64_t count, float* __restrict__ sum) {
  for (int64_t i = 0; i < count; ++i) {
    sum[i] += part[i];
  }
}

}  // namespace

void SumInRankOrder(std::span<const float* const> parts, int64_t count, float* out) {
  float sum[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    std::memcpy(sum, parts[0] + begin, static_cast<size_t>(n) * sizeof(float));
    for (size_t r = 1; r < parts.size(); ++r) {
      Add(parts[r] + begin, n, sum);
    }
    std::memcpy(out + begin, sum, static_cast<size_t>(n) * sizeof(float));
  }
}

}  // namespace alphecca::comm

// Scans of logits for the reduction to candidates.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

inline F Never() {
  return Set(-__builtin_inff());
}
// -inf in lanes past the end.
inline F LoadLogits(const float* p, int lanes) {
  if (lanes == kLanes) {
    return Load(p);
  }
  float some[kLanes];
  Store(some, Never());
  StoreN(some, LoadN(p, lanes), lanes);
  return Load(some);
}

float MaxLogit(const float* logits, int64_t count) {
  F max = Never();
  ForEachVector(count, [&](int64_t i, int lanes) { max = Max(LoadLogits(logits + i, lanes), max); });
  return Largest(max);
}

ScanSums SumLogits(const ScanArgs& a) {
  constexpr int64_t kRun = 1024;  // short sums in F32, joined in double
  const bool scaled = a.inverse_t > 0.0F && a.inverse_t != 1.0F;
  ScanSums sums;
  for (int64_t begin = 0; begin < a.count; begin += kRun) {
    F sum = Zero();
    F sum_scaled = Zero();
    ForEachVector(a.count - begin < kRun ? a.count - begin : kRun, [&](int64_t i, int lanes) {
      const F below = Sub(Max(LoadLogits(a.logits + begin + i, lanes), Never()), Set(a.max));
      sum = Add(sum, Exp(below));
      if (scaled) {
        sum_scaled = Add(sum_scaled, Exp(Mul(below, Set(a.inverse_t))));
      }
    });
    sums.sum += Sum(sum);
    sums.sum_scaled += Sum(sum_scaled);
  }
  if (a.inverse_t == 1.0F) {
    sums.sum_scaled = sums.sum;
  }
  return sums;
}

int64_t NextAbove(const float* logits, int64_t begin, int64_t count, float bound) {
  const F limit = Set(bound);
  int64_t i = begin;
  for (; i + kLanes <= count; i += kLanes) {
    if (const uint32_t above = Bits(Greater(Load(logits + i), limit)); above != 0) {
      return i + __builtin_ctz(above);
    }
  }
  for (; i < count; ++i) {
    if (logits[i] > bound) {
      return i;
    }
  }
  return count;
}

}  // namespace
}  // namespace alphecca::kernels::cpu

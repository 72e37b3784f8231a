// Ops on one row of activations: norms, the rotation of heads, the GELU's product, the soft cap.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

// Calls f(index, lanes) over n values: whole vectors, then what is left.
template <typename Function>
inline void ForEachVector(int64_t n, Function f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    f(i, kLanes);
  }
  if (i < n) {
    f(i, static_cast<int>(n - i));
  }
}
inline F LoadSome(const float* p, int lanes) {
  return lanes == kLanes ? Load(p) : LoadN(p, lanes);
}
inline void StoreSome(float* p, F x, int lanes) {
  if (lanes == kLanes) {
    Store(p, x);
  } else {
    StoreN(p, x, lanes);
  }
}
// x times weight[i..], or x.
inline F Weighted(F x, const float* weight, int64_t i, int lanes) {
  return weight != nullptr ? Mul(x, LoadSome(weight + i, lanes)) : x;
}

void GeluMul(const float* gate, const float* up, int64_t n, float* out) {
  ForEachVector(n, [&](int64_t i, int lanes) {
    StoreSome(out + i, Mul(Gelu(LoadSome(gate + i, lanes)), LoadSome(up + i, lanes)), lanes);
  });
}

void Softcap(float* x, int64_t n, float cap) {
  ForEachVector(n, [&](int64_t i, int lanes) {
    StoreSome(x + i, Mul(Set(cap), Tanh(Div(LoadSome(x + i, lanes), Set(cap)))), lanes);
  });
}

void AddScaled(const float* x, float weight, bool first, int64_t n, float* sum) {
  const F w = Set(weight);
  ForEachVector(n, [&](int64_t i, int lanes) {
    const F y = LoadSome(x + i, lanes);
    StoreSome(sum + i, first ? Mul(y, w) : Fma(y, w, LoadSome(sum + i, lanes)), lanes);
  });
}

float MeanSquare(const float* x, int64_t n) {
  F sum[4] = {Zero(), Zero(), Zero(), Zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int s = 0; s < 4; ++s) {
      const F v = Load(x + i + s * kLanes);
      sum[s] = Fma(v, v, sum[s]);
    }
  }
  ForEachVector(n - i, [&](int64_t j, int lanes) {
    const F v = LoadSome(x + i + j, lanes);
    sum[0] = Fma(v, v, sum[0]);
  });
  return Sum(Add(Add(sum[0], sum[1]), Add(sum[2], sum[3]))) / static_cast<float>(n);
}

void ScaleRow(const float* x, float factor, const float* weight, int64_t n, float* out) {
  ForEachVector(n, [&](int64_t i, int lanes) {
    StoreSome(out + i, Weighted(Mul(LoadSome(x + i, lanes), Set(factor)), weight, i, lanes), lanes);
  });
}

void AddScaledRow(float* x, const float* y, float factor, const float* weight, float scale, int64_t n) {
  ForEachVector(n, [&](int64_t i, int lanes) {
    const F branch = Weighted(Mul(LoadSome(y + i, lanes), Set(factor)), weight, i, lanes);
    StoreSome(x + i, Mul(Add(LoadSome(x + i, lanes), branch), Set(scale)), lanes);
  });
}

void AddTwoRows(const float* a, float factor_a, const float* weight_a, const float* b, float factor_b,
                const float* weight_b, int64_t n, float* out) {
  ForEachVector(n, [&](int64_t i, int lanes) {
    const F x = Weighted(Mul(LoadSome(a + i, lanes), Set(factor_a)), weight_a, i, lanes);
    const F y = Weighted(Mul(LoadSome(b + i, lanes), Set(factor_b)), weight_b, i, lanes);
    StoreSome(out + i, Add(x, y), lanes);
  });
}

void Rotate(float* x, const float* cosine, const float* sine, int width) {
  const int half = width / 2;
  ForEachVector(half, [&](int64_t i, int lanes) {
    const F a = LoadSome(x + i, lanes);
    const F b = LoadSome(x + half + i, lanes);
    const F c = LoadSome(cosine + i, lanes);
    const F s = LoadSome(sine + i, lanes);
    StoreSome(x + i, Sub(Mul(a, c), Mul(b, s)), lanes);
    StoreSome(x + half + i, Add(Mul(b, c), Mul(a, s)), lanes);
  });
}

void ToBf16(const float* x, int64_t n, std::byte* out) {
  ForEachVector(n, [&](int64_t i, int lanes) {
    std::byte some[2 * kLanes];
    StoreBf16(some, LoadSome(x + i, lanes));
    __builtin_memcpy(out + 2 * i, some, 2 * static_cast<size_t>(lanes));
  });
}

// Scales and numbers as EncodeRow gives them, but that ties go to even and blocks below 1e-36 are zeros. A value that
// is not finite makes the scale of its block NaN or infinite.
void ToQ8_0(const float* x, int64_t n, std::byte* out) {
  constexpr int kBlock = 32;
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const float* from = x + block * kBlock;
    F max = Zero();
    for (int i = 0; i < kBlock; i += kLanes) {
      max = Max(max, Abs(Load(from + i)));
    }
    const float d = Largest(max) / 127.0F;
    const float inverse = d > 1e-36F ? 1.0F / d : 0.0F;  // below this it is not finite
    for (int i = 0; i < kBlock; i += kLanes) {
      StoreI8(reinterpret_cast<int8_t*>(out) + block * kBlock + i, Rounded(Load(from + i), inverse));
    }
    const uint16_t scale = F32ToF16(d + Poison(from, kBlock));
    __builtin_memcpy(out + n + 2 * block, &scale, sizeof scale);
  }
}

}  // namespace
}  // namespace alphecca::kernels::cpu

// Head norms, RoPE, and the rows of the KV cache.
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_internal.h"

namespace alphecca::kernels::cpu {

// Cosines and sines of a step, for all layers with these frequencies.
const CpuBackend::Angles& CpuBackend::AnglesOf(const HostStep& step, const Buffer* buffer, int64_t half) {
  const float* frequencies = Floats(buffer, half);
  for (const Angles& known : angles_) {
    if (known.step == &step && known.frequencies == frequencies && known.half == half) {
      return known;
    }
  }
  Angles& made = angles_.emplace_back();
  made.step = &step;
  made.frequencies = frequencies;
  made.half = half;
  made.cosine.resize(static_cast<size_t>(step.rows * half));
  made.sine.resize(static_cast<size_t>(step.rows * half));
  ForRows(step.rows, 32 * half, [&](int64_t t, int) {
    const auto position = static_cast<float>(step.positions[static_cast<size_t>(t)]);
    for (int64_t i = 0; i < half; ++i) {
      // The angle is rounded to F32, as the model's own implementation does.
      const auto angle = static_cast<double>(position * frequencies[i]);
      made.cosine[static_cast<size_t>(t * half + i)] = static_cast<float>(std::cos(angle));
      made.sine[static_cast<size_t>(t * half + i)] = static_cast<float>(std::sin(angle));
    }
  });
  return made;
}

void CpuBackend::Qkv(Stream&, const Step& step, const QkvArgs& a) {
  const HostStep& s = Host(step);
  const int width = a.head_dim;
  Check(a.qkv.rows == s.rows && a.qkv.cols == int64_t{a.heads + (a.v_from_k ? 1 : 2) * a.kv_heads} * width,
        "Qkv: shape of qkv");
  const float* q_norm = Floats(a.q_norm, width);
  const float* k_norm = Floats(a.k_norm, width);
  const Angles& angles = AnglesOf(s, a.rope.frequencies, width / 2);
  HostKvPool* pool = a.kv_heads > 0 ? &Host(*a.pool) : nullptr;

  const auto norm_and_turn = [&](const float* in, const float* norm, int64_t t, float* out) {
    kernels_.scale_row(in, InverseRms(in, width, a.eps), norm, width, out);
    kernels_.rotate(out, angles.cosine.data() + t * angles.half, angles.sine.data() + t * angles.half, width);
  };
  const int64_t row_bytes = pool != nullptr ? RowBytes(pool->spec.type, width) : 0;
  const auto encode = [&](const float* x, std::byte* to) {
    switch (pool->spec.type) {
      case DType::kBF16:
        return kernels_.to_bf16(x, width, to);
      case DType::kQ8_0:
        return kernels_.to_q8_0(x, width, to);
      default:
        std::memcpy(to, x, static_cast<size_t>(row_bytes));
    }
  };
  ForRows(s.rows, 2 * a.qkv.cols, [&](int64_t t, int thread) {
    float* row = FloatRow(a.qkv, t);
    for (int head = 0; head < a.heads; ++head) {
      norm_and_turn(row + int64_t{head} * width, q_norm, t, row + int64_t{head} * width);
    }
    if (pool == nullptr) {
      return;
    }
    float* own = Own(thread).Floats(2 * width);
    auto* encoded = reinterpret_cast<std::byte*>(own + width);
    const int32_t position = s.positions[static_cast<size_t>(t)];
    const int32_t block = pool->BlockOf(s.slots[static_cast<size_t>(t)], position);
    const int64_t token = position % pool->spec.block_tokens;
    for (int head = 0; head < a.kv_heads; ++head) {
      const float* key = row + int64_t{a.heads + head} * width;
      const float* value = a.v_from_k ? key : key + int64_t{a.kv_heads} * width;
      norm_and_turn(key, k_norm, t, own);
      encode(own, encoded);
      pool->PutKey(a.pool_layer, block, head, token, encoded);
      if (a.norm_v) {
        kernels_.scale_row(value, InverseRms(value, width, a.eps), nullptr, width, own);
        value = own;
      }
      encode(value, pool->Value(a.pool_layer, block, head, token));
    }
  });
}

}  // namespace alphecca::kernels::cpu

// Head norms, RoPE, the KV cache, and attention over it.
#include <algorithm>
#include <vector>

#include "kernels/check.h"
#include "kernels/ref/ref_internal.h"

namespace alphecca::kernels {
namespace {

void NormHead(const float* in, const float* weight, float eps, int width, float* out) {
  const double inverse = InverseRms(in, width, eps);
  for (int i = 0; i < width; ++i) {
    out[i] = static_cast<float>(in[i] * inverse * (weight != nullptr ? weight[i] : 1.0F));
  }
}

// Turns pairs (i, i + width / 2) in place. The angle is rounded to F32, as the model's own implementation does.
void Rotate(const float* frequencies, int32_t position, int width, float* x) {
  const int half = width / 2;
  for (int i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * frequencies[i];
    const auto c = static_cast<double>(static_cast<float>(std::cos(static_cast<double>(angle))));
    const auto s = static_cast<double>(static_cast<float>(std::sin(static_cast<double>(angle))));
    const double a = x[i];
    const double b = x[i + half];
    x[i] = static_cast<float>(a * c - b * s);
    x[i + half] = static_cast<float>(b * c + a * s);
  }
}

}  // namespace

void RefBackend::Qkv(Stream&, const Step& step, const QkvArgs& a) {
  const HostStep& s = Host(step);
  const int width = a.head_dim;
  Check(a.qkv.rows == s.rows && a.qkv.cols == int64_t{a.heads + (a.v_from_k ? 1 : 2) * a.kv_heads} * width,
        "Qkv: shape of qkv");
  const float* q_norm = Floats(a.q_norm, width);
  const float* k_norm = Floats(a.k_norm, width);
  const float* frequencies = Floats(a.rope.frequencies, width / 2);
  std::vector<float> key(static_cast<size_t>(width));
  std::vector<float> value(static_cast<size_t>(width));
  for (int64_t t = 0; t < s.rows; ++t) {
    const int32_t position = s.positions[static_cast<size_t>(t)];
    float* row = FloatRow(a.qkv, t);
    for (int head = 0; head < a.heads; ++head) {
      float* q = row + int64_t{head} * width;
      NormHead(q, q_norm, a.eps, width, q);
      Rotate(frequencies, position, width, q);
    }
    for (int head = 0; head < a.kv_heads; ++head) {
      const float* raw_key = row + int64_t{a.heads + head} * width;
      const float* raw_value = a.v_from_k ? raw_key : raw_key + int64_t{a.kv_heads} * width;
      NormHead(raw_key, k_norm, a.eps, width, key.data());
      Rotate(frequencies, position, width, key.data());
      if (a.norm_v) {
        NormHead(raw_value, nullptr, a.eps, width, value.data());
      } else {
        std::copy_n(raw_value, width, value.data());
      }
      Host(*a.pool).Store(a.pool_layer, s.slots[static_cast<size_t>(t)], position, head, key.data(), value.data());
    }
  }
}

void RefBackend::Attend(Stream&, const Step& step, const AttendArgs& a) {
  const HostStep& s = Host(step);
  const int width = a.head_dim;
  Check(a.q.rows == s.rows && a.out.rows == s.rows && a.q.cols >= int64_t{a.heads} * width &&
            a.out.cols == int64_t{a.heads} * width,
        "Attend: shapes of q and out");
  std::vector<float> key(static_cast<size_t>(width));
  std::vector<float> value(static_cast<size_t>(width));
  std::vector<double> weights;
  std::vector<double> sum(static_cast<size_t>(width));
  for (int64_t t = 0; t < s.rows; ++t) {
    const KeyRange keys = s.visible[a.pool_kind][static_cast<size_t>(t)];
    const int32_t slot = s.slots[static_cast<size_t>(t)];
    for (int head = 0; head < a.heads; ++head) {
      const int kv_head = (a.first_head + head) / a.group - a.first_kv_head;
      const float* q = FloatRow(a.q, t) + int64_t{head} * width;
      weights.clear();
      double max = -INFINITY;
      for (int32_t p = keys.first; p <= keys.last; ++p) {
        Host(*a.pool).Load(a.pool_layer, slot, p, kv_head, key.data(), value.data());
        weights.push_back(Dot(q, key.data(), width) * a.scale);
        max = std::max(max, weights.back());
      }
      double total = 0.0;
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int32_t p = keys.first; p <= keys.last; ++p) {
        Host(*a.pool).Load(a.pool_layer, slot, p, kv_head, key.data(), value.data());
        const double weight = std::exp(weights[static_cast<size_t>(p - keys.first)] - max);
        total += weight;
        for (int i = 0; i < width; ++i) {
          sum[static_cast<size_t>(i)] += weight * value[static_cast<size_t>(i)];
        }
      }
      float* out = FloatRow(a.out, t) + int64_t{head} * width;
      for (int i = 0; i < width; ++i) {
        out[i] = total > 0.0 ? static_cast<float>(sum[static_cast<size_t>(i)] / total) : 0.0F;
      }
    }
  }
}

}  // namespace alphecca::kernels

// The router's choice and the experts it chose.
#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/check.h"
#include "kernels/ref/ref_internal.h"

namespace alphecca::kernels {

void RefBackend::Route(Stream&, const RouteArgs& a) {
  const int64_t experts = a.logits.cols;
  Check(a.k >= 1 && a.k <= experts && a.ids.cols == a.k && a.weights.cols == a.k && a.ids.rows == a.logits.rows &&
            a.weights.rows == a.logits.rows,
        "Route: k and the shapes of ids and weights");
  const float* scale = Floats(a.expert_scale, experts);
  std::vector<int32_t> order(static_cast<size_t>(experts));
  for (int64_t t = 0; t < a.logits.rows; ++t) {
    const float* logits = FloatRow(a.logits, t);
    std::iota(order.begin(), order.end(), 0);
    // A NaN, which only a broken model gives, ranks last instead of breaking the order.
    const auto rank = [&](int32_t e) { return std::isnan(logits[e]) ? -INFINITY : logits[e]; };
    std::partial_sort(order.begin(), order.begin() + a.k, order.end(),
                      [&](int32_t x, int32_t y) { return rank(x) > rank(y) || (rank(x) == rank(y) && x < y); });
    // Renormalising the softmax over the chosen cancels its denominator.
    double total = 0.0;
    const double max = logits[order[0]];
    for (int i = 0; i < a.k; ++i) {
      total += std::exp(logits[order[static_cast<size_t>(i)]] - max);
    }
    for (int i = 0; i < a.k; ++i) {
      const int32_t e = order[static_cast<size_t>(i)];
      IntRow(a.ids, t)[i] = e;
      FloatRow(a.weights, t)[i] =
          static_cast<float>(std::exp(logits[e] - max) / total * (scale != nullptr ? scale[e] : 1.0F));
    }
  }
}

void RefBackend::Experts(Stream&, const ExpertsArgs& a) {
  const HostMatrix& gate_up = Host(*a.gate_up);
  const HostMatrix& down = Host(*a.down);
  const int64_t width = gate_up.rows / 2;
  Check(gate_up.items == down.items && down.cols == width && gate_up.cols == a.in.cols && down.rows == a.out.cols &&
            a.out.rows == a.in.rows && a.ids.rows == a.in.rows && a.weights.rows == a.in.rows &&
            (a.load.data == nullptr || a.load.cols == gate_up.items),
        "Experts: shapes of in, matrices, ids, weights, out, load");
  std::vector<float> row(static_cast<size_t>(std::max(gate_up.cols, width)));
  std::vector<float> hidden(static_cast<size_t>(width));
  std::vector<double> sum(static_cast<size_t>(down.rows));
  const int64_t rows = LiveRows(a);
  for (int64_t t = 0; t < rows; ++t) {
    const float* in = FloatRow(a.in, t);
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t i = 0; i < a.ids.cols; ++i) {
      const int64_t e = IntRow(a.ids, t)[i];
      if (e < 0 || e >= gate_up.items) {
        continue;
      }
      if (a.load.data != nullptr) {
        CountUp(IntRow(a.load, 0)[e], 1);
      }
      for (int64_t f = 0; f < width; ++f) {
        gate_up.DecodeRow(e, f, row.data());
        const double gate = GeluTanh(Dot(in, row.data(), gate_up.cols));
        gate_up.DecodeRow(e, width + f, row.data());
        hidden[static_cast<size_t>(f)] = static_cast<float>(gate * Dot(in, row.data(), gate_up.cols));
      }
      const double weight = FloatRow(a.weights, t)[i];
      for (int64_t r = 0; r < down.rows; ++r) {
        down.DecodeRow(e, r, row.data());
        sum[static_cast<size_t>(r)] += weight * Dot(hidden.data(), row.data(), width);
      }
    }
    for (int64_t r = 0; r < down.rows; ++r) {
      FloatRow(a.out, t)[r] = static_cast<float>(sum[static_cast<size_t>(r)]);
    }
  }
}

}  // namespace alphecca::kernels

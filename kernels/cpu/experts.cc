// The router's choice and the experts it chose. Tokens are sorted by expert, so that each expert's weights pass once
// for all of its tokens; every token then sums its own experts in the order of its ids.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/cpu_internal.h"

namespace alphecca::kernels::cpu {
namespace {

// Pairs (token, place among its ids), sorted by expert.
struct Sorted {
  std::vector<int32_t> token;    // [pairs]
  std::vector<int32_t> pair_of;  // [T * k] place in `token`, -1: the expert is not here
  std::vector<ExpertTile> tiles;
};

// `rows`: of ids that count.
Sorted SortByExpert(const Tensor& ids, int64_t rows, int64_t items, int64_t tile) {
  Sorted sorted;
  sorted.pair_of.assign(static_cast<size_t>(rows * ids.cols), -1);
  std::vector<int64_t> begin(static_cast<size_t>(items) + 1, 0);
  const auto local = [&](int64_t t, int64_t i) {
    const int64_t e = IntRow(ids, t)[i];
    return e >= 0 && e < items ? e : int64_t{-1};
  };
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < ids.cols; ++i) {
      if (const int64_t e = local(t, i); e >= 0) {
        ++begin[static_cast<size_t>(e) + 1];
      }
    }
  }
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  for (int64_t e = 0; e < items; ++e) {
    const int64_t end = begin[static_cast<size_t>(e) + 1];
    for (int64_t first = begin[static_cast<size_t>(e)]; first < end; first += tile) {
      const int64_t packed = sorted.tiles.empty() ? 0 : sorted.tiles.back().end_packed();
      sorted.tiles.push_back({e, first, std::min(tile, end - first), packed});
    }
  }
  sorted.token.resize(static_cast<size_t>(begin.back()));
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < ids.cols; ++i) {
      if (const int64_t e = local(t, i); e >= 0) {
        const int64_t pair = begin[static_cast<size_t>(e)]++;
        sorted.token[static_cast<size_t>(pair)] = static_cast<int32_t>(t);
        sorted.pair_of[static_cast<size_t>(t * ids.cols + i)] = static_cast<int32_t>(pair);
      }
    }
  }
  return sorted;
}

// Calls f(tile, groups) for all of them, at most kMaxGroups groups at once.
template <typename Function>
void ForTiles(ThreadPool& pool, const Sorted& sorted, int64_t groups, Function f) {
  const auto tiles = static_cast<int64_t>(sorted.tiles.size());
  const int64_t step = std::clamp<int64_t>(tiles * groups / (4 * pool.threads()), 1, kMaxGroups);
  const int64_t pieces = (groups + step - 1) / step;
  pool.Run(tiles * pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * step;
      f(sorted.tiles[static_cast<size_t>(i / pieces)], Range{first, std::min(first + step, groups)});
    }
  });
}

}  // namespace

void CpuBackend::Route(Stream&, const RouteArgs& a) {
  const int64_t experts = a.logits.cols;
  Check(a.k >= 1 && a.k <= experts && a.ids.cols == a.k && a.weights.cols == a.k && a.ids.rows == a.logits.rows &&
            a.weights.rows == a.logits.rows,
        "Route: k and the shapes of ids and weights");
  const float* scale = Floats(a.expert_scale, experts);
  ForRows(a.logits.rows, 16 * experts, [&](int64_t t, int thread) {
    const float* logits = FloatRow(a.logits, t);
    int32_t* order = Own(thread).Ints(experts);
    std::iota(order, order + experts, 0);
    // A NaN, which only a broken model gives, ranks last instead of breaking the order.
    const auto rank = [&](int32_t e) { return std::isnan(logits[e]) ? -INFINITY : logits[e]; };
    std::partial_sort(order, order + a.k, order + experts,
                      [&](int32_t x, int32_t y) { return rank(x) > rank(y) || (rank(x) == rank(y) && x < y); });
    // Renormalising the softmax over the chosen cancels its denominator.
    double total = 0.0;
    const double max = logits[order[0]];
    for (int i = 0; i < a.k; ++i) {
      total += std::exp(logits[order[i]] - max);
    }
    for (int i = 0; i < a.k; ++i) {
      const int32_t e = order[i];
      IntRow(a.ids, t)[i] = e;
      FloatRow(a.weights, t)[i] =
          static_cast<float>(std::exp(logits[e] - max) / total * (scale != nullptr ? scale[e] : 1.0F));
    }
  });
}

QuantRows CpuBackend::PackExperts(const CpuMatrix& m, const Input& rows, std::span<const ExpertTile> tiles,
                                  Scratch& scratch) {
  const int64_t packed = tiles.empty() ? 0 : tiles.back().end_packed();
  if (packed == 0 || !UsesTiles(m, kMaxTokens)) {
    return {};
  }
  const int64_t bytes = TokenTileBytes(m.cols);
  std::byte* data = scratch.Bytes(packed * bytes);
  ForRows(static_cast<int64_t>(tiles.size()), kTileTokens * m.cols, [&](int64_t i, int) {
    const ExpertTile& tile = tiles[static_cast<size_t>(i)];
    for (int64_t first = 0; UsesTiles(m, tile.tokens) && first < tile.tokens; first += kTileTokens) {
      kernels_.tiles_int8[static_cast<int>(m.type)].pack(
          {.records = {rows.quant.data + (tile.first + first) * rows.quant.stride, rows.quant.stride},
           .tokens = std::min(kTileTokens, tile.tokens - first),
           .panel_tokens = tile.tokens,
           .first_col = 0,
           .cols = m.cols,
           .all_cols = m.cols,
           .tile = data + (tile.first_packed + first / kTileTokens) * bytes});
    }
  });
  return {data, bytes};
}

CpuBackend::Input CpuBackend::OfExpert(const CpuMatrix& m, const Input& rows, QuantRows packed,
                                       const ExpertTile& tile) const {
  Input of_tile = From(rows, tile.first);
  if (UsesTiles(m, tile.tokens)) {
    of_tile.tiles = {packed.data + tile.first_packed * packed.stride, packed.stride};
  }
  return of_tile;
}

void CpuBackend::Experts(Stream&, const ExpertsArgs& a) {
  const CpuMatrix& gate_up = Cpu(*a.gate_up);
  const CpuMatrix& down = Cpu(*a.down);
  const int64_t width = gate_up.rows / 2;
  Check(gate_up.items == down.items && down.cols == width && gate_up.cols == a.in.cols && down.rows == a.out.cols &&
            a.out.rows == a.in.rows && a.ids.rows == a.in.rows && a.weights.rows == a.in.rows &&
            (a.load.data == nullptr || a.load.cols == gate_up.items),
        "Experts: shapes of in, matrices, ids, weights, out, load");
  const int64_t rows = LiveRows(a);
  if (rows == 0) {
    return;
  }
  const Sorted sorted = SortByExpert(a.ids, rows, gate_up.items, std::min(Tile(gate_up), Tile(down)));
  const auto pairs = static_cast<int64_t>(sorted.token.size());
  if (a.load.data != nullptr) {
    for (const ExpertTile& tile : sorted.tiles) {
      CountUp(IntRow(a.load, 0)[tile.expert], tile.tokens);
    }
  }

  const Input each = PrepareRecords(gate_up, FloatRow(a.in, 0), a.in.stride, rows, quantised_);
  const Input input = Gather(gate_up, each, sorted.token, gathered_);
  const QuantRows packed = PackExperts(gate_up, input, sorted.tiles, packed_);
  const bool aligned = width % kGroupRows == 0;
  const int64_t stride = aligned ? width : gate_up.rows;  // else gate and up side by side, the product over the gate
  float* hidden = middle_.Floats(std::max<int64_t>(1, pairs * stride));
  ForTiles(pool_, sorted, aligned ? width / kGroupRows : gate_up.groups, [&](const ExpertTile& tile, Range groups) {
    float* out = hidden + tile.first * stride + groups.begin * kGroupRows;
    const Input of_tile = OfExpert(gate_up, input, packed, tile);
    if (aligned) {
      RunGatedPanels(gate_up, tile.expert, groups, of_tile, tile.tokens, out, stride);
    } else {
      RunPanels(gate_up, tile.expert, groups, of_tile, tile.tokens, 1.0F, out, stride);
    }
  });
  if (!aligned) {
    ForRows(pairs, width, [&](int64_t pair, int) {
      float* row = hidden + pair * stride;
      kernels_.gelu_mul(row, row + width, width, row);
    });
  }

  const Input middle = PrepareRecords(down, hidden, stride, pairs, quantised_middle_);
  const QuantRows packed_middle = PackExperts(down, middle, sorted.tiles, packed_);
  float* expanded = expanded_.Floats(std::max<int64_t>(1, pairs * down.rows));
  ForTiles(pool_, sorted, down.groups, [&](const ExpertTile& tile, Range groups) {
    RunPanels(down, tile.expert, groups, OfExpert(down, middle, packed_middle, tile), tile.tokens, 1.0F,
              expanded + tile.first * down.rows + groups.begin * kGroupRows, down.rows);
  });

  ForRows(rows, a.ids.cols * down.rows, [&](int64_t t, int) {
    float* out = FloatRow(a.out, t);
    bool first = true;
    for (int64_t i = 0; i < a.ids.cols; ++i) {
      const int32_t pair = sorted.pair_of[static_cast<size_t>(t * a.ids.cols + i)];
      if (pair >= 0) {
        kernels_.add_scaled(expanded + pair * down.rows, FloatRow(a.weights, t)[i], first, down.rows, out);
        first = false;
      }
    }
    if (first) {
      std::fill_n(out, down.rows, 0.0F);
    }
  });
}

}  // namespace alphecca::kernels::cpu

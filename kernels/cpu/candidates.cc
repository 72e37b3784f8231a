// The reduction of logits to candidates, in pieces of fixed size that join in order. The result is that of
// ReduceCandidates (kernels/sampling.h): the same tokens and scores, sums within rounding.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/philox.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_internal.h"

namespace alphecca::kernels::cpu {
namespace {

constexpr int64_t kPiece = 16384;
constexpr float kNever = -INFINITY;

bool Before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

struct Best {
  float score = kNever;
  int32_t token = -1;
  float logit = kNever;

  void Offer(const Best& other) {
    if (other.token >= 0 && (other.score > score || (other.score == score && other.token < token))) {
      *this = other;
    }
  }
};

struct Piece {
  const float* logits = nullptr;
  int64_t count = 0;
  int64_t first_token = 0;
  float max = kNever;
  ScanSums sums;
  Best best;                   // of a noisy row
  std::vector<Candidate> top;  // in order

  Candidate At(int64_t i) const { return {static_cast<int32_t>(first_token + i), logits[i]}; }
};

// The `count` first candidates of a piece: a heap of the best so far, whose worst is the bar for the rest.
void FindTop(const KernelTable& kernels, size_t count, Piece& piece) {
  std::vector<Candidate>& heap = piece.top;
  heap.clear();
  float bar = kNever;
  for (int64_t i = 0; (i = kernels.next_above(piece.logits, i, piece.count, bar)) < piece.count; ++i) {
    // An equal logit further on has a higher id: it does not displace.
    if (heap.size() == count) {
      std::pop_heap(heap.begin(), heap.end(), Before);
      heap.pop_back();
    }
    heap.push_back(piece.At(i));
    std::push_heap(heap.begin(), heap.end(), Before);
    bar = heap.size() == count ? heap.front().logit : kNever;
  }
  std::sort_heap(heap.begin(), heap.end(), Before);
}

// Never below -ln(-ln u) of the generator's word: -ln(-ln u) < -ln(1 - u), and 1 - u >= 2^(floor(log2 c) - 23).
float NoiseBound(uint32_t word) {
  const uint32_t c = (1U << 23) - 1U - (word >> 9);
  return c == 0 ? kMaxGumbelNoise : 1e-3F + 0.693148F * static_cast<float>(23 - (std::bit_width(c) - 1));
}

// The largest l / T + g. Most tokens fall to a bound: first to one on all noise, then to one on their own.
void FindNoisiest(const KernelTable& kernels, const SamplingRow& row, Piece& piece) {
  const auto score = [&](const Candidate& c) {
    const float noise = GumbelNoise(row.seed, static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.sample),
                                    static_cast<uint32_t>(c.token));
    return Best{c.logit / row.temperature + noise, c.token, c.logit};
  };
  Best& best = piece.best;
  if (!piece.top.empty()) {
    best = score(piece.top.front());
  }
  uint32_t counter = UINT32_MAX;
  std::array<uint32_t, 4> words = {};
  for (int64_t i = 0; i < piece.count; ++i) {
    const float bar = best.token >= 0 ? (best.score - kMaxGumbelNoise) * row.temperature : kNever;
    i = kernels.next_above(piece.logits, i, piece.count, bar - 1e-3F * (std::fabs(bar) + 1.0F));
    if (i >= piece.count) {
      return;
    }
    const Candidate c = piece.At(i);
    const auto token = static_cast<uint32_t>(c.token);
    if (token / 4 != counter) {
      counter = token / 4;
      words =
          Philox4x32(row.seed, {static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.sample), counter, 0});
    }
    if (!(c.logit / row.temperature + NoiseBound(words[token % 4]) < best.score)) {
      best.Offer(score(c));
    }
  }
}

void Reduce(const KernelTable& kernels, const SamplingRow& row, size_t count, Piece& piece) {
  piece.max = kernels.max_logit(piece.logits, piece.count);
  if (piece.max > kNever) {
    piece.sums = kernels.sum_logits({.logits = piece.logits,
                                     .count = piece.count,
                                     .max = piece.max,
                                     .inverse_t = IsGreedy(row) ? 0.0F : 1.0F / row.temperature});
  }
  FindTop(kernels, count, piece);
  if (!IsGreedy(row) && !IsFiltered(row)) {
    FindNoisiest(kernels, row, piece);
  }
}

// Joins the pieces of one row.
void Join(const SamplingRow& row, std::span<const Piece> pieces, const float* logits, int64_t cols, int64_t first_token,
          int count, std::byte* record) {
  CandidateHead head;
  head.max = kNever;
  Best noisiest;
  std::vector<Candidate> top;
  for (const Piece& piece : pieces) {
    head.max = std::max(head.max, piece.max);
    noisiest.Offer(piece.best);
    top.insert(top.end(), piece.top.begin(), piece.top.end());
  }
  double sum = 0.0;
  double sum_scaled = 0.0;
  for (const Piece& piece : pieces) {
    if (piece.max > kNever) {
      const double below = static_cast<double>(piece.max) - head.max;
      sum += piece.sums.sum * std::exp(below);
      sum_scaled += IsGreedy(row) ? 0.0 : piece.sums.sum_scaled * std::exp(below / row.temperature);
    }
  }
  head.sum = static_cast<float>(sum);
  head.sum_scaled = static_cast<float>(sum_scaled);
  const size_t kept = std::min(top.size(), static_cast<size_t>(count));
  std::partial_sort(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(kept), top.end(), Before);
  top.resize(static_cast<size_t>(count));
  std::fill(top.begin() + static_cast<std::ptrdiff_t>(kept), top.end(), Candidate{-1, kNever});
  const bool noisy = !IsGreedy(row) && !IsFiltered(row);
  const Best best = noisy ? noisiest : Best{top[0].logit, top[0].token, top[0].logit};
  head.best_score = best.score;
  head.best_token = best.token;
  head.best_logit = best.token >= 0 ? best.logit : CandidateHead{}.best_logit;
  const int64_t wanted = row.wanted - first_token;
  const bool here = row.wanted >= 0 && wanted >= 0 && wanted < cols && !std::isnan(logits[wanted]);
  head.wanted_logit = here ? logits[wanted] : kNever;
  std::memcpy(record, &head, sizeof head);
  std::memcpy(record + sizeof head, top.data(), top.size() * sizeof(Candidate));
}

}  // namespace

void CpuBackend::Candidates(Stream&, const Step& step, const CandidatesArgs& a) {
  const HostStep& s = Host(step);
  Check(a.count >= 1, "at least one candidate");
  const int64_t cols = a.logits.cols;
  const auto rows = static_cast<int64_t>(s.sampling.size());
  const int64_t per_row = (cols + kPiece - 1) / kPiece;
  std::vector<Piece> pieces(static_cast<size_t>(rows * per_row));
  pool_.Run(rows * per_row, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      Piece& piece = pieces[static_cast<size_t>(i)];
      const int64_t first = i % per_row * kPiece;
      piece.logits = FloatRow(a.logits, i / per_row) + first;
      piece.count = std::min(kPiece, cols - first);
      piece.first_token = a.first_token + first;
      Reduce(kernels_, s.sampling[static_cast<size_t>(i / per_row)], static_cast<size_t>(a.count), piece);
    }
  });
  auto* out = static_cast<std::byte*>(a.out);
  for (int64_t r = 0; r < rows; ++r, out += CandidateRecordBytes(a.count)) {
    const auto of_row = std::span(pieces).subspan(static_cast<size_t>(r * per_row), static_cast<size_t>(per_row));
    Join(s.sampling[static_cast<size_t>(r)], of_row, FloatRow(a.logits, r), cols, a.first_token, a.count, out);
  }
}

}  // namespace alphecca::kernels::cpu

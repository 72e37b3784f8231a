// The reduction of logits to candidates, in pieces of fixed size that join in order. The result is that of
// ReduceCandidates (kernels/sampling.h): the same tokens and scores, sums within rounding. An adjusted row is scanned
// twice: as it is for what it reports, and in a copy of the piece for what it chooses from. Pieces that one thread
// takes in turn have their candidates in common: what fell short of those of one piece need not be gathered in the
// next.
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

// Logits of some tokens, one after another.
struct Slice {
  const float* logits = nullptr;
  int64_t count = 0;
  int64_t first_token = 0;

  Candidate At(int64_t i) const { return {static_cast<int32_t>(first_token + i), logits[i]}; }
};

struct Piece {
  float max = kNever;  // of the raw logits, as `sum`
  double sum = 0.0;
  float max_scaled = kNever;  // of those to choose from, as what follows
  double sum_scaled = 0.0;
  Best best;  // of a noisy row
};

// The first `count` candidates of pieces of a row, in no order. Tokens come in rising order.
class TopList {
 public:
  void Gather(const KernelTable& kernels, size_t count, const Slice& piece);
  std::span<const Candidate> items() const { return items_; }

 private:
  std::vector<Candidate> items_;
  float bar_ = kNever;
};

// Candidates of pieces that one thread took in turn.
struct TopLists {
  TopList choice;
  TopList reported;  // raw; of an adjusted row
};

// Leaves the `count` first candidates, the last of them at the end.
void CutTo(size_t count, std::vector<Candidate>& some) {
  std::nth_element(some.begin(), some.begin() + static_cast<std::ptrdiff_t>(count) - 1, some.end(), Before);
  some.resize(count);
}

// Gathers twice as many, cuts them, and goes on above the last one left.
void TopList::Gather(const KernelTable& kernels, size_t count, const Slice& piece) {
  for (int64_t i = 0; (i = kernels.next_above(piece.logits, i, piece.count, bar_)) < piece.count; ++i) {
    items_.push_back(piece.At(i));
    if (items_.size() == 2 * count) {
      CutTo(count, items_);
      bar_ = items_.back().logit;  // an equal logit further on has a higher id: it does not displace
    }
  }
}

// Never below -ln(-ln u) of the generator's word: -ln(-ln u) < -ln(1 - u), and 1 - u >= 2^(floor(log2 c) - 23).
float NoiseBound(uint32_t word) {
  const uint32_t c = (1U << 23) - 1U - (word >> 9);
  return c == 0 ? kMaxGumbelNoise : 1e-3F + 0.693148F * static_cast<float>(23 - (std::bit_width(c) - 1));
}

// The largest l / T + g of the piece and `top`. Most tokens fall to a bound: first to one on all noise, then to one on
// their own.
Best FindNoisiest(const KernelTable& kernels, const SamplingRow& row, const Slice& piece,
                  std::span<const Candidate> top) {
  const auto score = [&](const Candidate& c) {
    const float noise = GumbelNoise(row.seed, static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.sample),
                                    static_cast<uint32_t>(c.token));
    return Best{c.logit / row.temperature + noise, c.token, c.logit};
  };
  Best best;
  if (!top.empty()) {
    best = score(*std::min_element(top.begin(), top.end(), Before));
  }
  uint32_t counter = UINT32_MAX;
  std::array<uint32_t, 4> words = {};
  for (int64_t i = 0; i < piece.count; ++i) {
    const float bar = best.token >= 0 ? (best.score - kMaxGumbelNoise) * row.temperature : kNever;
    i = kernels.next_above(piece.logits, i, piece.count, bar - 1e-3F * (std::fabs(bar) + 1.0F));
    if (i >= piece.count) {
      break;
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
  return best;
}

// Every token of the slice that the mask lacks becomes -inf.
void ApplyMask(std::span<const uint32_t> mask, const Slice& slice, float* out) {
  for (int64_t i = 0; i < slice.count;) {
    const int64_t token = slice.first_token + i;
    const int64_t bits = std::min<int64_t>(32 - token % 32, slice.count - i);  // of this word
    uint32_t word = mask[static_cast<size_t>(token / 32)] >> (token % 32);
    if (word == 0) {
      std::fill_n(out + i, bits, kNever);
    } else {
      for (int64_t bit = 0; bit < bits; ++bit, word >>= 1) {
        out[i + bit] = (word & 1U) != 0 ? out[i + bit] : kNever;
      }
    }
    i += bits;
  }
}

// Writes the slice as the row chooses from it.
void Adjust(const Adjustment& adjustment, const Slice& slice, float* out) {
  std::copy_n(slice.logits, slice.count, out);
  const int64_t end = slice.first_token + slice.count;
  if (const SlotRules* rules = adjustment.rules; rules != nullptr) {
    for (const SlotRules::Entry& entry : rules->Entries(slice.first_token, end)) {
      float& logit = out[entry.token - slice.first_token];
      logit = rules->Adjusted(entry, logit);
    }
    for (const TokenRange& range : rules->suppressed()) {
      const int64_t first = std::max<int64_t>(range.begin, slice.first_token);
      const int64_t last = std::min<int64_t>(range.end, end);
      if (first < last) {
        std::fill(out + (first - slice.first_token), out + (last - slice.first_token), kNever);
      }
    }
  }
  if (!adjustment.mask.empty()) {
    ApplyMask(adjustment.mask, slice, out);
  }
}

ScanSums SumsOf(const KernelTable& kernels, const Slice& slice, float max, float inverse_t) {
  return max > kNever
             ? kernels.sum_logits({.logits = slice.logits, .count = slice.count, .max = max, .inverse_t = inverse_t})
             : ScanSums{};
}

// What the row chooses from in `slice`; `count` candidates.
void ReduceChoice(const KernelTable& kernels, const SamplingRow& row, const Slice& slice, size_t count, Piece& piece,
                  TopList& top) {
  top.Gather(kernels, count, slice);
  if (!IsGreedy(row) && !IsFiltered(row)) {
    piece.best = FindNoisiest(kernels, row, slice, top.items());
  }
}

void ReducePlain(const KernelTable& kernels, const SamplingRow& row, const Slice& slice, int count, Piece& piece,
                 TopLists& top) {
  piece.max = piece.max_scaled = kernels.max_logit(slice.logits, slice.count);
  const ScanSums sums = SumsOf(kernels, slice, piece.max, IsGreedy(row) ? 0.0F : 1.0F / row.temperature);
  piece.sum = sums.sum;
  piece.sum_scaled = sums.sum_scaled;
  ReduceChoice(kernels, row, slice, static_cast<size_t>(count), piece, top.choice);
}

// `copy`: room for the slice.
void ReduceAdjusted(const KernelTable& kernels, const SamplingRow& row, const Adjustment& adjustment,
                    const Slice& slice, int count, float* copy, Piece& piece, TopLists& top) {
  const int apart = ReportedApart(row);
  piece.max = kernels.max_logit(slice.logits, slice.count);
  piece.sum = SumsOf(kernels, slice, piece.max, 0.0F).sum;
  if (apart > 0) {
    top.reported.Gather(kernels, static_cast<size_t>(apart), slice);
  }
  Adjust(adjustment, slice, copy);
  const Slice adjusted = {.logits = copy, .count = slice.count, .first_token = slice.first_token};
  piece.max_scaled = kernels.max_logit(adjusted.logits, adjusted.count);
  if (!IsGreedy(row)) {
    piece.sum_scaled = SumsOf(kernels, adjusted, piece.max_scaled, 1.0F / row.temperature).sum_scaled;
  }
  ReduceChoice(kernels, row, adjusted, static_cast<size_t>(count - apart), piece, top.choice);
}

// The first candidates of all lists, to.size() at most.
void JoinLists(std::span<const TopLists> tops, TopList TopLists::*list, std::span<Candidate> to) {
  std::vector<Candidate> all;
  for (const TopLists& top : tops) {
    all.insert(all.end(), (top.*list).items().begin(), (top.*list).items().end());
  }
  if (all.size() > to.size() && !to.empty()) {
    CutTo(to.size(), all);
  }
  std::sort(all.begin(), all.end(), Before);
  const auto kept = static_cast<std::ptrdiff_t>(std::min(all.size(), to.size()));
  std::copy_n(all.begin(), kept, to.begin());
  std::fill(to.begin() + kept, to.end(), Candidate{-1, kNever});
}

void JoinSums(const SamplingRow& row, std::span<const Piece> pieces, CandidateHead& head) {
  head.max = head.max_scaled = kNever;
  for (const Piece& piece : pieces) {
    head.max = std::max(head.max, piece.max);
    head.max_scaled = std::max(head.max_scaled, piece.max_scaled);
  }
  double sum = 0.0;
  double sum_scaled = 0.0;
  for (const Piece& piece : pieces) {
    if (piece.max > kNever) {
      sum += piece.sum * std::exp(static_cast<double>(piece.max) - head.max);
    }
    if (piece.max_scaled > kNever && !IsGreedy(row)) {
      const double below = static_cast<double>(piece.max_scaled) - head.max_scaled;
      sum_scaled += piece.sum_scaled * std::exp(below / row.temperature);
    }
  }
  head.sum = static_cast<float>(sum);
  head.sum_scaled = static_cast<float>(sum_scaled);
}

// Joins the pieces of one row, `logits` of which are the slice that begins at first_token.
void Join(const SamplingRow& row, std::span<const Piece> pieces, std::span<const TopLists> tops,
          std::span<const float> logits, int64_t first_token, int count, std::byte* record) {
  const auto raw = [&](int32_t token) { return logits[static_cast<size_t>(token - first_token)]; };
  CandidateHead head;
  JoinSums(row, pieces, head);
  const auto apart = static_cast<size_t>(ReportedApart(row));
  std::vector<Candidate> list(static_cast<size_t>(count));
  const std::span<Candidate> top = std::span(list).first(list.size() - apart);
  JoinLists(tops, &TopLists::choice, top);
  JoinLists(tops, &TopLists::reported, std::span(list).last(apart));

  Best best = {top[0].logit, top[0].token, top[0].logit};
  if (!IsGreedy(row) && !IsFiltered(row)) {
    best = {};
    for (const Piece& piece : pieces) {
      best.Offer(piece.best);
    }
  }
  head.best_score = best.score;
  head.best_token = best.token;
  head.best_logit = best.token >= 0 ? raw(best.token) : CandidateHead{}.best_logit;
  const int64_t wanted = row.wanted - first_token;
  const bool here = row.wanted >= 0 && wanted >= 0 && wanted < static_cast<int64_t>(logits.size());
  head.wanted_logit = here && !std::isnan(raw(row.wanted)) ? raw(row.wanted) : kNever;
  for (Candidate& c : top) {
    c.logit = c.token >= 0 ? raw(c.token) : kNever;
  }
  std::memcpy(record, &head, sizeof head);
  std::memcpy(record + sizeof head, list.data(), list.size() * sizeof(Candidate));
}

}  // namespace

void CpuBackend::Candidates(Stream&, const Step& step, const CandidatesArgs& a) {
  const HostStep& s = Host(step);
  for (const SamplingRow& row : s.sampling) {
    Check(a.count > ReportedApart(row), "candidates to choose from, before those to report");
  }
  const int64_t cols = a.logits.cols;
  const auto rows = static_cast<int64_t>(s.sampling.size());
  const int64_t per_row = (cols + kPiece - 1) / kPiece;
  std::vector<Piece> pieces(static_cast<size_t>(rows * per_row));
  std::vector<TopLists> tops(pieces.size());  // at the first of the pieces that have it in common
  pool_.Run(rows * per_row, std::max<int64_t>(1, rows * per_row / (8 * pool_.threads())),
            [&](int64_t begin, int64_t end, int thread) {
              TopLists* top = nullptr;
              for (int64_t i = begin; i < end; ++i) {
                const int64_t row = i / per_row;
                const int64_t first = i % per_row * kPiece;
                const Slice slice = {.logits = FloatRow(a.logits, row) + first,
                                     .count = std::min(kPiece, cols - first),
                                     .first_token = a.first_token + first};
                const SamplingRow& sampling = s.sampling[static_cast<size_t>(row)];
                Piece& piece = pieces[static_cast<size_t>(i)];
                top = i == begin || first == 0 ? &tops[static_cast<size_t>(i)] : top;
                if (IsAdjusted(sampling)) {
                  ReduceAdjusted(kernels_, sampling, AdjustmentOf(s, row), slice, a.count, Own(thread).Floats(kPiece),
                                 piece, *top);
                } else {
                  ReducePlain(kernels_, sampling, slice, a.count, piece, *top);
                }
              }
            });
  auto* out = static_cast<std::byte*>(a.out);
  pool_.Run(rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const auto of_row = [&](auto& all) {
        return std::span(all).subspan(static_cast<size_t>(r * per_row), static_cast<size_t>(per_row));
      };
      const std::span<const float> logits(FloatRow(a.logits, r), static_cast<size_t>(cols));
      Join(s.sampling[static_cast<size_t>(r)], of_row(pieces), of_row(tops), logits, a.first_token, a.count,
           out + r * CandidateRecordBytes(a.count));
    }
  });
}

}  // namespace alphecca::kernels::cpu

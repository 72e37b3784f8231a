#include "kernels/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/philox.h"
#include "kernels/check.h"

namespace alphecca::kernels {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The order of candidates: falling logit, lowest id first on a tie.
bool Before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

float Usable(float logit) {
  return std::isnan(logit) ? kNever : logit;
}

float Exp(float logit, float max, float temperature) {
  return static_cast<float>(std::exp((static_cast<double>(logit) - max) / temperature));
}

// A record of candidates as it lies in memory.
struct Record {
  CandidateHead head;
  const std::byte* candidates;

  explicit Record(const void* record) : candidates(static_cast<const std::byte*>(record) + sizeof(CandidateHead)) {
    std::memcpy(&head, record, sizeof head);
  }
  Candidate At(int i) const {
    Candidate c;
    std::memcpy(&c, candidates + static_cast<size_t>(i) * sizeof c, sizeof c);
    return c;
  }
};

// `logits` are those to choose from.
void FindBest(const SamplingRow& row, std::span<const float> logits, int64_t first_token, CandidateHead& head) {
  const bool noisy = !IsGreedy(row) && !IsFiltered(row);
  head.best_score = kNever;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = Usable(logits[i]);
    const auto token = static_cast<int32_t>(first_token + static_cast<int64_t>(i));
    float score = logit;
    if (noisy) {
      const float scaled = logit / row.temperature;
      if (scaled + kMaxGumbelNoise < head.best_score) {
        continue;
      }
      score = scaled + GumbelNoise(row.seed, static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.sample),
                                   static_cast<uint32_t>(token));
    }
    if (score > head.best_score) {
      head.best_score = score;
      head.best_token = token;
    }
  }
}

// The largest logit, and the sum of exp((l - max) / temperature).
void SumExponentials(std::span<const float> logits, float temperature, float& max, float& sum) {
  max = kNever;
  for (const float l : logits) {
    max = std::max(max, Usable(l));
  }
  double total = 0.0;
  for (size_t i = 0; i < logits.size() && max > kNever; ++i) {
    total += Exp(Usable(logits[i]), max, temperature);
  }
  sum = static_cast<float>(total);
}

// The first logits in the order of candidates, to.size() at most.
void ListLargest(std::span<const float> logits, int64_t first_token, std::span<Candidate> to) {
  std::vector<Candidate> order;
  order.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (const float logit = Usable(logits[i]); logit > kNever) {
      order.push_back({static_cast<int32_t>(first_token + static_cast<int64_t>(i)), logit});
    }
  }
  const auto kept = static_cast<std::ptrdiff_t>(std::min(order.size(), to.size()));
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), Before);
  std::copy_n(order.begin(), kept, to.begin());
  std::fill(to.begin() + kept, to.end(), Candidate{-1, kNever});
}

// A token that may be chosen.
struct Likely {
  int32_t token = -1;
  float logit = kNever;  // adjusted
  float raw = kNever;
};

// What the records of all ranks say together.
struct Merged {
  float max = kNever;
  double sum = 0.0;
  float max_scaled = kNever;
  double sum_scaled = 0.0;
  float wanted_logit = kNever;
  Candidate best;                   // greedy or unfiltered choice
  std::vector<Likely> likeliest;    // in order
  std::vector<Candidate> reported;  // at most top_logprobs, in order
};

void MergeHeads(const SamplingRow& row, std::span<const void* const> records, Merged& all) {
  float best_score = kNever;
  for (const void* record : records) {
    const Record r(record);
    all.max = std::max(all.max, r.head.max);
    all.max_scaled = std::max(all.max_scaled, r.head.max_scaled);
    all.wanted_logit = std::max(all.wanted_logit, r.head.wanted_logit);
    if (r.head.best_token >= 0 &&
        (r.head.best_score > best_score || (r.head.best_score == best_score && r.head.best_token < all.best.token))) {
      best_score = r.head.best_score;
      all.best = {r.head.best_token, r.head.best_logit};
    }
  }
  for (const void* record : records) {
    const Record r(record);
    if (r.head.max > kNever) {
      all.sum += static_cast<double>(r.head.sum) * Exp(r.head.max, all.max, 1.0F);
    }
    if (r.head.max_scaled > kNever && !IsGreedy(row)) {
      all.sum_scaled +=
          static_cast<double>(r.head.sum_scaled) * Exp(r.head.max_scaled, all.max_scaled, row.temperature);
    }
  }
}

Merged Merge(const SamplingRow& row, const Adjustment& adjustment, std::span<const void* const> records, int count) {
  Merged all;
  MergeHeads(row, records, all);
  const int apart = ReportedApart(row);
  for (const void* record : records) {
    const Record r(record);
    for (int i = 0; i < count; ++i) {
      const Candidate c = r.At(i);
      if (c.token < 0) {
        continue;
      }
      if (i < count - apart) {
        const float logit = adjustment.Any() ? adjustment.Adjusted(c.token, c.logit) : c.logit;
        all.likeliest.push_back({c.token, logit, c.logit});
      }
      if (row.top_logprobs > 0 && (i >= count - apart || apart == 0)) {
        all.reported.push_back(c);
      }
    }
  }
  std::sort(all.likeliest.begin(), all.likeliest.end(), [](const Likely& a, const Likely& b) {
    return Before({a.token, a.logit}, {b.token, b.logit});
  });
  all.likeliest.resize(std::min(all.likeliest.size(), static_cast<size_t>(count - apart)));
  const size_t listed = std::min(all.reported.size(), static_cast<size_t>(std::clamp(row.top_logprobs, 0, count)));
  std::partial_sort(all.reported.begin(), all.reported.begin() + static_cast<std::ptrdiff_t>(listed),
                    all.reported.end(), Before);
  all.reported.resize(listed);
  return all;
}

// How many of the likeliest tokens top-k, top-p and min-p leave; at least one if there is any.
size_t KeptCount(const SamplingRow& row, const Merged& all) {
  // The limit is the row's own, not the step's count: neighbours must not widen it.
  const auto limit = static_cast<size_t>(row.top_k > 0 ? std::min(row.top_k, kMaxCandidates) : kMaxCandidates);
  const size_t available = std::min(limit, all.likeliest.size());
  double mass = 0.0;
  size_t kept = 0;
  while (kept < available && (kept == 0 || row.top_p >= 1.0F || mass < row.top_p)) {
    const double relative = Exp(all.likeliest[kept].logit, all.max_scaled, row.temperature);
    if (kept > 0 && relative < row.min_p) {
      break;
    }
    mass += relative / all.sum_scaled;
    ++kept;
  }
  return kept;
}

Candidate ChooseFiltered(const SamplingRow& row, const Merged& all) {
  Candidate best;
  float best_score = kNever;
  const size_t kept = KeptCount(row, all);
  for (size_t i = 0; i < kept; ++i) {
    const Likely& c = all.likeliest[i];
    const float score =
        c.logit / row.temperature + GumbelNoise(row.seed, static_cast<uint32_t>(row.position),
                                                static_cast<uint32_t>(row.sample), static_cast<uint32_t>(c.token));
    if (score > best_score || (score == best_score && c.token < best.token)) {
      best_score = score;
      best = {c.token, c.raw};
    }
  }
  return best;
}

}  // namespace

int CandidateCount(const SamplingRow& row) {
  int count = 1;
  if (IsFiltered(row)) {
    count = row.top_k > 0 ? row.top_k : kMaxCandidates;
  }
  return std::clamp(IsAdjusted(row) ? count : std::max(count, row.top_logprobs), 1, kMaxCandidates);
}

int CandidateCount(std::span<const SamplingRow> rows) {
  int count = 1;
  int apart = 0;
  for (const SamplingRow& row : rows) {
    count = std::max(count, CandidateCount(row));
    apart = std::max(apart, ReportedApart(row));
  }
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>(count))) + apart;
}

float GumbelNoise(uint64_t seed, uint32_t position, uint32_t sample, uint32_t token) {
  const auto words = Philox4x32(seed, {position, sample, token / 4, 0});
  const auto u = static_cast<double>(UniformOpen(words[token % 4]));
  return static_cast<float>(-std::log(-std::log(u)));
}

void ReduceCandidates(const SamplingRow& row, const Adjustment& adjustment, std::span<const float> logits,
                      int64_t first_token, int count, void* record) {
  const int apart = ReportedApart(row);
  Check(count > apart, "candidates to choose from, before those to report");
  Check(adjustment.Any() == IsAdjusted(row), "an adjustment where a row has one");
  std::vector<float> adjusted(logits.begin(), logits.end());
  for (size_t i = 0; i < adjusted.size() && adjustment.Any(); ++i) {
    adjusted[i] = adjustment.Adjusted(static_cast<int32_t>(first_token + static_cast<int64_t>(i)), adjusted[i]);
  }
  const auto raw = [&](int32_t token) { return Usable(logits[static_cast<size_t>(token - first_token)]); };

  CandidateHead head;
  SumExponentials(logits, 1.0F, head.max, head.sum);
  SumExponentials(adjusted, IsGreedy(row) ? 1.0F : row.temperature, head.max_scaled, head.sum_scaled);
  FindBest(row, adjusted, first_token, head);
  head.best_logit = head.best_token >= 0 ? raw(head.best_token) : 0.0F;
  const int64_t wanted = row.wanted - first_token;
  const bool here = row.wanted >= 0 && wanted >= 0 && wanted < static_cast<int64_t>(logits.size());
  head.wanted_logit = here ? raw(row.wanted) : kNever;

  std::vector<Candidate> list(static_cast<size_t>(count));
  const auto choose_from = std::span(list).first(static_cast<size_t>(count - apart));
  ListLargest(adjusted, first_token, choose_from);
  for (Candidate& c : choose_from) {
    c.logit = c.token >= 0 ? raw(c.token) : kNever;
  }
  ListLargest(logits, first_token, std::span(list).last(static_cast<size_t>(apart)));

  auto* bytes = static_cast<std::byte*>(record);
  std::memcpy(bytes, &head, sizeof head);
  std::memcpy(bytes + sizeof head, list.data(), list.size() * sizeof(Candidate));
}

void ChooseToken(const SamplingRow& row, const Adjustment& adjustment, std::span<const void* const> records, int count,
                 void* choice) {
  const Merged all = Merge(row, adjustment, records, count);
  const Candidate chosen = IsFiltered(row) ? ChooseFiltered(row, all) : all.best;
  const float log_sum = all.max > kNever ? static_cast<float>(all.max + std::log(all.sum)) : 0.0F;

  Choice result;
  result.token = chosen.token;
  result.logprob = chosen.token >= 0 ? chosen.logit - log_sum : kNever;
  result.wanted_logprob = row.wanted >= 0 ? all.wanted_logit - log_sum : 0.0F;
  result.listed = static_cast<int32_t>(all.reported.size());
  std::vector<Candidate> list(static_cast<size_t>(count));
  for (size_t i = 0; i < all.reported.size(); ++i) {
    list[i] = {all.reported[i].token, all.reported[i].logit - log_sum};
  }
  auto* bytes = static_cast<std::byte*>(choice);
  std::memcpy(bytes, &result, sizeof result);
  std::memcpy(bytes + sizeof result, list.data(), list.size() * sizeof(Candidate));
}

}  // namespace alphecca::kernels

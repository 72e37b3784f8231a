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
      head.best_logit = logit;
    }
  }
}

void SumExponentials(const SamplingRow& row, std::span<const float> logits, CandidateHead& head) {
  head.max = kNever;
  for (const float l : logits) {
    head.max = std::max(head.max, Usable(l));
  }
  double sum = 0.0;
  double sum_scaled = 0.0;
  if (head.max > kNever) {
    for (const float l : logits) {
      sum += Exp(Usable(l), head.max, 1.0F);
      sum_scaled += IsGreedy(row) ? 0.0F : Exp(Usable(l), head.max, row.temperature);
    }
  }
  head.sum = static_cast<float>(sum);
  head.sum_scaled = static_cast<float>(sum_scaled);
}

// What the records of all ranks say together.
struct Merged {
  float max = kNever;
  double sum = 0.0;
  double sum_scaled = 0.0;
  float wanted_logit = kNever;
  Candidate best;                    // greedy or unfiltered choice
  std::vector<Candidate> likeliest;  // at most `count`, in order
};

Merged Merge(const SamplingRow& row, std::span<const void* const> records, int count) {
  Merged all;
  float best_score = kNever;
  for (const void* record : records) {
    const Record r(record);
    all.max = std::max(all.max, r.head.max);
    all.wanted_logit = std::max(all.wanted_logit, r.head.wanted_logit);
    if (r.head.best_token >= 0 &&
        (r.head.best_score > best_score || (r.head.best_score == best_score && r.head.best_token < all.best.token))) {
      best_score = r.head.best_score;
      all.best = {r.head.best_token, r.head.best_logit};
    }
    for (int i = 0; i < count; ++i) {
      if (const Candidate c = r.At(i); c.token >= 0) {
        all.likeliest.push_back(c);
      }
    }
  }
  for (const void* record : records) {
    const Record r(record);
    if (r.head.max > kNever) {
      all.sum += static_cast<double>(r.head.sum) * Exp(r.head.max, all.max, 1.0F);
      all.sum_scaled +=
          IsGreedy(row) ? 0.0 : static_cast<double>(r.head.sum_scaled) * Exp(r.head.max, all.max, row.temperature);
    }
  }
  std::sort(all.likeliest.begin(), all.likeliest.end(), Before);
  if (all.likeliest.size() > static_cast<size_t>(count)) {
    all.likeliest.resize(static_cast<size_t>(count));
  }
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
    const double relative = Exp(all.likeliest[kept].logit, all.max, row.temperature);
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
    const Candidate& c = all.likeliest[i];
    const float score =
        c.logit / row.temperature + GumbelNoise(row.seed, static_cast<uint32_t>(row.position),
                                                static_cast<uint32_t>(row.sample), static_cast<uint32_t>(c.token));
    if (score > best_score || (score == best_score && c.token < best.token)) {
      best_score = score;
      best = c;
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
  return std::clamp(std::max(count, row.top_logprobs), 1, kMaxCandidates);
}

int CandidateCount(std::span<const SamplingRow> rows) {
  int count = 1;
  for (const SamplingRow& row : rows) {
    count = std::max(count, CandidateCount(row));
  }
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>(count)));
}

float GumbelNoise(uint64_t seed, uint32_t position, uint32_t sample, uint32_t token) {
  const auto words = Philox4x32(seed, {position, sample, token / 4, 0});
  const auto u = static_cast<double>(UniformOpen(words[token % 4]));
  return static_cast<float>(-std::log(-std::log(u)));
}

void ReduceCandidates(const SamplingRow& row, std::span<const float> logits, int64_t first_token, int count,
                      void* record) {
  Check(count >= 1, "at least one candidate");
  CandidateHead head;
  SumExponentials(row, logits, head);
  FindBest(row, logits, first_token, head);
  const int64_t wanted = row.wanted - first_token;
  const bool here = row.wanted >= 0 && wanted >= 0 && wanted < static_cast<int64_t>(logits.size());
  head.wanted_logit = here ? Usable(logits[static_cast<size_t>(wanted)]) : kNever;

  std::vector<Candidate> order;
  order.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (const float logit = Usable(logits[i]); logit > kNever) {
      order.push_back({static_cast<int32_t>(first_token + static_cast<int64_t>(i)), logit});
    }
  }
  const size_t kept = std::min(order.size(), static_cast<size_t>(count));
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), Before);
  order.resize(static_cast<size_t>(count), Candidate{});
  std::fill(order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), Candidate{-1, kNever});

  auto* bytes = static_cast<std::byte*>(record);
  std::memcpy(bytes, &head, sizeof head);
  std::memcpy(bytes + sizeof head, order.data(), order.size() * sizeof(Candidate));
}

void ChooseToken(const SamplingRow& row, std::span<const void* const> records, int count, void* choice) {
  const Merged all = Merge(row, records, count);
  const Candidate chosen = IsFiltered(row) ? ChooseFiltered(row, all) : all.best;
  const float log_sum = all.max > kNever ? static_cast<float>(all.max + std::log(all.sum)) : 0.0F;

  Choice result;
  result.token = chosen.token;
  result.logprob = chosen.token >= 0 ? chosen.logit - log_sum : kNever;
  result.wanted_logprob = row.wanted >= 0 ? all.wanted_logit - log_sum : 0.0F;
  result.listed =
      static_cast<int32_t>(std::min(all.likeliest.size(), static_cast<size_t>(std::clamp(row.top_logprobs, 0, count))));
  std::vector<Candidate> list(static_cast<size_t>(count));
  for (size_t i = 0; i < static_cast<size_t>(result.listed); ++i) {
    list[i] = {all.likeliest[i].token, all.likeliest[i].logit - log_sum};
  }
  auto* bytes = static_cast<std::byte*>(choice);
  std::memcpy(bytes, &result, sizeof result);
  std::memcpy(bytes + sizeof result, list.data(), list.size() * sizeof(Candidate));
}

}  // namespace alphecca::kernels

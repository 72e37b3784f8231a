// Philox, Gumbel noise, candidates and choices.
#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "common/philox.h"

namespace alphecca::kernels {
namespace {

struct Chosen {
  Choice choice;
  std::vector<Candidate> listed;
};

// Reduces the slices that `bounds` cut the logits into, then chooses.
Chosen Sample(const SamplingRow& row, const std::vector<float>& logits, std::vector<size_t> bounds = {}, int count = 0,
              const Adjustment& adjustment = {}) {
  count = count > 0 ? count : CandidateCount(std::span(&row, 1));
  bounds.insert(bounds.begin(), 0);
  bounds.push_back(logits.size());
  std::vector<std::vector<std::byte>> records;
  std::vector<const void*> pointers;
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    records.emplace_back(static_cast<size_t>(CandidateRecordBytes(count)));
    ReduceCandidates(row, adjustment, std::span(logits).subspan(bounds[i], bounds[i + 1] - bounds[i]),
                     static_cast<int64_t>(bounds[i]), count, records.back().data());
  }
  for (const auto& record : records) {
    pointers.push_back(record.data());
  }
  std::vector<std::byte> out(static_cast<size_t>(ChoiceBytes(count)));
  ChooseToken(row, adjustment, pointers, count, out.data());
  Chosen result;
  std::memcpy(&result.choice, out.data(), sizeof(Choice));
  result.listed.resize(static_cast<size_t>(result.choice.listed));
  for (size_t i = 0; i < result.listed.size(); ++i) {
    std::memcpy(&result.listed[i], out.data() + sizeof(Choice) + i * sizeof(Candidate), sizeof(Candidate));
  }
  return result;
}

int Token(const SamplingRow& row, const std::vector<float>& logits) {
  return Sample(row, logits).choice.token;
}

std::vector<float> RandomLogits(size_t n, uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::vector<float> logits(n);
  for (float& l : logits) {
    l = spread * (static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F);
  }
  return logits;
}

TEST(PhiloxTest, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32(0, {0, 0, 0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32(~uint64_t{0}, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformIsOpen) {
  EXPECT_EQ(UniformOpen(0), 0x1p-24F);
  EXPECT_EQ(UniformOpen(0xffffffff), 1.0F - 0x1p-24F);
}

TEST(GumbelTest, FollowsItsDefinitionAndItsBound) {
  const auto words = Philox4x32(99, {7, 2, 1234 / 4, 0});
  const double u = UniformOpen(words[1234 % 4]);
  EXPECT_EQ(GumbelNoise(99, 7, 2, 1234), static_cast<float>(-std::log(-std::log(u))));
  EXPECT_LT(-std::log(-std::log(1.0 - 0x1p-24)), kMaxGumbelNoise);
}

TEST(CandidateCountTest, IsWhatTheRowNeeds) {
  EXPECT_EQ(CandidateCount(SamplingRow{}), 1);
  EXPECT_EQ(CandidateCount(SamplingRow{.top_k = 40}), 1);  // greedy
  EXPECT_EQ(CandidateCount(SamplingRow{.temperature = 1.0F}), 1);
  EXPECT_EQ(CandidateCount(SamplingRow{.temperature = 1.0F, .top_k = 40, .top_p = 0.9F}), 40);
  EXPECT_EQ(CandidateCount(SamplingRow{.temperature = 1.0F, .top_p = 0.9F}), kMaxCandidates);
  EXPECT_EQ(CandidateCount(SamplingRow{.temperature = 1.0F, .min_p = 0.1F}), kMaxCandidates);
  EXPECT_EQ(CandidateCount(SamplingRow{.temperature = 1.0F, .top_k = 3, .top_logprobs = 20}), 20);
  EXPECT_EQ(CandidateCount(SamplingRow{.temperature = 1.0F, .top_k = 1 << 30}), kMaxCandidates);
  const std::vector<SamplingRow> rows = {{}, {.temperature = 1.0F, .top_k = 40}};
  EXPECT_EQ(CandidateCount(rows), 64);
  EXPECT_EQ(CandidateCount(std::span<const SamplingRow>()), 1);
}

TEST(CandidateCountTest, AdjustedRowsReportApart) {
  const SamplingRow row = {.temperature = 1.0F, .top_k = 3, .top_logprobs = 5, .rules = 1};
  EXPECT_EQ(CandidateCount(row), 3);
  EXPECT_EQ(CandidateCount(std::span(&row, 1)), 4 + 5);
  const std::vector<SamplingRow> most = {{.temperature = 1.0F, .top_p = 0.5F, .top_logprobs = 20, .mask = 0}, row};
  EXPECT_EQ(CandidateCount(most), kMaxRecordCandidates);
}

TEST(ChooseTest, GreedyTakesTheLowestOfTies) {
  EXPECT_EQ(Token({}, {1.0F, 5.0F, 5.0F, -2.0F}), 1);
  EXPECT_EQ(Sample({}, {5.0F, 1.0F, 5.0F, 5.0F}, {1, 2}).choice.token, 0);
  EXPECT_EQ(Sample({}, {1.0F, 4.0F, 5.0F, 5.0F}, {2, 3}).choice.token, 2);
}

TEST(ChooseTest, LogProbabilitiesAreThoseOfSoftmax) {
  const std::vector<float> logits = {std::log(1.0F), std::log(2.0F), std::log(5.0F)};
  const Chosen c = Sample({.temperature = 0.0F, .top_logprobs = 3, .wanted = 0}, logits, {1});
  EXPECT_EQ(c.choice.token, 2);
  EXPECT_NEAR(c.choice.logprob, std::log(5.0 / 8.0), 1e-6);
  EXPECT_NEAR(c.choice.wanted_logprob, std::log(1.0 / 8.0), 1e-6);
  ASSERT_EQ(c.listed.size(), 3U);
  EXPECT_EQ(c.listed[1].token, 1);
  EXPECT_NEAR(c.listed[1].logit, std::log(2.0 / 8.0), 1e-6);
}

TEST(ChooseTest, ImpossibleTokensAreNeverChosen) {
  const float never = -INFINITY;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    EXPECT_EQ(Token({.seed = seed, .temperature = 1.0F}, {never, 0.0F, never, NAN}), 1);
    EXPECT_EQ(Token({.seed = seed, .temperature = 1.0F, .top_k = 3}, {never, 0.0F, never, NAN}), 1);
  }
  EXPECT_EQ(Token({}, {NAN, never}), -1);
  EXPECT_EQ(Token({.temperature = 1.0F}, {NAN, never}), -1);
  EXPECT_EQ(Token({.temperature = 1.0F, .top_p = 0.5F}, {NAN, never}), -1);
  EXPECT_EQ(Sample({.wanted = 0}, {NAN, never, 0.0F}).choice.wanted_logprob, never);
}

TEST(ChooseTest, TinyTemperatureIsGreedy) {
  EXPECT_EQ(Token({.seed = 3, .temperature = 1e-40F}, {20.0F, 30.0F, 29.0F}), 1);
  EXPECT_EQ(Token({.seed = 3, .temperature = 1e-5F, .top_p = 0.9F}, {20.0F, 30.0F, 29.0F}), 1);
}

TEST(ChooseTest, TopKOfOneIsTheLargest) {
  const std::vector<float> logits = RandomLogits(300, 1, 2.0F);
  const int largest = Token({}, logits);
  for (uint64_t seed = 0; seed < 50; ++seed) {
    EXPECT_EQ(Token({.seed = seed, .temperature = 2.0F, .top_k = 1}, logits), largest);
    EXPECT_EQ(Token({.seed = seed, .temperature = 2.0F, .top_p = 1e-6F}, logits), largest);
    EXPECT_EQ(Token({.seed = seed, .temperature = 2.0F, .min_p = 1.0F}, logits), largest);
  }
}

// Which tokens come up at all over many seeds.
std::map<int, int> Histogram(SamplingRow row, const std::vector<float>& logits, int draws) {
  std::map<int, int> counts;
  for (int i = 0; i < draws; ++i) {
    row.seed = static_cast<uint64_t>(i) * 7919 + 1;
    ++counts[Token(row, logits)];
  }
  return counts;
}

TEST(ChooseTest, FiltersKeepWhatTheyShould) {
  // Probabilities 0.5, 0.25, 0.125, 0.125 at T = 1, out of order.
  const std::vector<float> logits = {std::log(0.125F), std::log(0.5F), std::log(0.25F), std::log(0.125F)};
  const auto kept = [&](SamplingRow row) {
    row.temperature = 1.0F;
    std::vector<int> tokens;
    for (const auto& [token, n] : Histogram(row, logits, 400)) {
      tokens.push_back(token);
    }
    return tokens;
  };
  using Tokens = std::vector<int>;
  EXPECT_EQ(kept({.top_k = 2}), (Tokens{1, 2}));
  EXPECT_EQ(kept({.top_k = 3}), (Tokens{0, 1, 2}));  // of the two at 0.125 the lower id
  EXPECT_EQ(kept({.top_p = 0.49F}), (Tokens{1}));
  EXPECT_EQ(kept({.top_p = 0.6F}), (Tokens{1, 2}));
  EXPECT_EQ(kept({.top_p = 0.8F}), (Tokens{0, 1, 2}));
  EXPECT_EQ(kept({.min_p = 0.4F}), (Tokens{1, 2}));
  EXPECT_EQ(kept({.min_p = 0.6F}), (Tokens{1}));
  EXPECT_EQ(kept({.min_p = 0.2F}), (Tokens{0, 1, 2, 3}));
  EXPECT_EQ(kept({.top_k = 3, .top_p = 0.6F, .min_p = 0.1F}), (Tokens{1, 2}));
}

// Chi-square of the counts against softmax(l / T) over the tokens that `row` keeps. The seeds are fixed; the bound, 4.5
// deviations over the mean, is one that a right sampler would pass for all but a few of 10,000 sets of seeds.
void ExpectFollowsSoftmax(const SamplingRow& row, const std::vector<float>& logits, size_t kept) {
  constexpr int kDraws = 20000;
  std::vector<std::pair<float, int>> order;
  for (size_t i = 0; i < logits.size(); ++i) {
    order.emplace_back(-logits[i], static_cast<int>(i));
  }
  std::sort(order.begin(), order.end());
  order.resize(kept);
  double total = 0.0;
  for (const auto& [negated, token] : order) {
    total += std::exp(-negated / row.temperature);
  }
  std::map<int, int> counts = Histogram(row, logits, kDraws);
  double chi_square = 0.0;
  int seen = 0;
  for (const auto& [negated, token] : order) {
    const double expected = kDraws * std::exp(-negated / row.temperature) / total;
    ASSERT_GT(expected, 5.0) << "the test needs likelier tokens";
    chi_square += (counts[token] - expected) * (counts[token] - expected) / expected;
    seen += counts[token];
  }
  EXPECT_EQ(seen, kDraws) << "a token outside the kept set was drawn";
  const double freedom = static_cast<double>(kept) - 1.0;
  EXPECT_LT(chi_square, freedom + 4.5 * std::sqrt(2.0 * freedom));
}

TEST(ChooseTest, FrequenciesFollowSoftmax) {
  const std::vector<float> logits = RandomLogits(20, 11, 1.5F);
  ExpectFollowsSoftmax({.position = 5, .temperature = 1.0F}, logits, 20);
  ExpectFollowsSoftmax({.position = 6, .temperature = 0.7F}, logits, 20);
  ExpectFollowsSoftmax({.position = 7, .temperature = 1.3F, .top_k = 8}, logits, 8);
}

TEST(ChooseTest, PositionsAndSamplesDrawIndependently) {
  const std::vector<float> logits(64, 0.0F);
  std::map<int, int> positions;
  std::map<int, int> samples;
  for (int i = 0; i < 200; ++i) {
    ++positions[Token({.seed = 5, .position = i, .temperature = 1.0F}, logits)];
    ++samples[Token({.seed = 5, .sample = i, .temperature = 1.0F}, logits)];
  }
  EXPECT_GT(positions.size(), 50U);
  EXPECT_GT(samples.size(), 50U);
}

TEST(ChooseTest, AnySplitOfTheVocabularyGivesTheSame) {
  const std::vector<float> logits = RandomLogits(3000, 21, 8.0F);
  const std::vector<std::vector<size_t>> splits = {{1500}, {1, 2, 2999}, {0, 750, 1500, 2250, 3000}, {700, 701}};
  const std::vector<SamplingRow> rows = {
      {.top_logprobs = 5, .wanted = 2000},
      {.temperature = 1.0F},
      {.temperature = 2.5F, .wanted = 1},
      {.temperature = 1.0F, .top_k = 64, .top_p = 0.95F},
      {.temperature = 1.0F, .top_p = 0.9F, .top_logprobs = 20},
      {.temperature = 1.0F, .min_p = 0.05F},
  };
  for (SamplingRow row : rows) {
    for (uint64_t seed = 0; seed < 40; ++seed) {
      row.seed = seed;
      const Chosen whole = Sample(row, logits);
      for (const std::vector<size_t>& bounds : splits) {
        const Chosen split = Sample(row, logits, bounds);
        EXPECT_EQ(split.choice.token, whole.choice.token);
        EXPECT_NEAR(split.choice.logprob, whole.choice.logprob, 1e-5);
        EXPECT_EQ(split.choice.wanted_logprob > -1e30F, whole.choice.wanted_logprob > -1e30F);
        EXPECT_NEAR(split.choice.wanted_logprob, whole.choice.wanted_logprob, 1e-5);
        ASSERT_EQ(split.listed.size(), whole.listed.size());
        for (size_t i = 0; i < whole.listed.size(); ++i) {
          EXPECT_EQ(split.listed[i].token, whole.listed[i].token);
        }
      }
    }
  }
}

// Rules and a mask that touch many tokens, likely and unlikely ones.
struct SomeAdjustment {
  explicit SomeAdjustment(size_t vocab) : mask(static_cast<size_t>(MaskWords(static_cast<int64_t>(vocab))), ~0U) {
    LogitRules opened;
    opened.repetition_penalty = 1.3F;
    opened.presence_penalty = 0.4F;
    opened.frequency_penalty = -0.2F;
    for (int32_t token = 0; token < static_cast<int32_t>(vocab); token += 7) {
      opened.history.push_back({token, token % 5, token % 5 == 0});
      opened.bias.push_back({token + 1, static_cast<float>(token % 9) - 4.0F});
    }
    opened.bias.resize(std::min(opened.bias.size(), kMaxBiases));
    opened.suppressed = {{10, 20}, {static_cast<int32_t>(vocab) - 9, static_cast<int32_t>(vocab)}};
    EXPECT_TRUE(CheckLogitRules(opened, static_cast<int64_t>(vocab)).ok());
    rules = SlotRules(opened);
    for (size_t i = 1; i < mask.size(); i += 2) {
      mask[i] = 0x5a5a5a5aU;
    }
  }
  Adjustment Of(const SamplingRow& row) const {
    return {.rules = row.rules != 0 ? &rules : nullptr,
            .mask = row.mask >= 0 ? std::span<const uint32_t>(mask) : std::span<const uint32_t>()};
  }

  SlotRules rules;
  std::vector<uint32_t> mask;
};

std::vector<SamplingRow> AdjustedRows() {
  std::vector<SamplingRow> rows = {
      {},
      {.top_logprobs = 5, .wanted = 2000},
      {.temperature = 1.0F, .top_logprobs = 3},
      {.temperature = 1.0F, .top_k = 64, .top_p = 0.95F, .top_logprobs = 20, .wanted = 3},
      {.temperature = 0.6F, .min_p = 0.05F},
  };
  const size_t plain = rows.size();
  for (size_t i = 0; i < plain; ++i) {
    for (const bool masked : {false, true}) {
      SamplingRow row = rows[i];
      row.rules = masked && i % 2 == 0 ? 0 : 1;
      row.mask = masked ? 0 : -1;
      rows.push_back(row);
    }
  }
  rows.erase(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(plain));
  return rows;
}

// The token is that of a plain row over logits that were adjusted beforehand; the log-probabilities are those of a
// greedy plain row over the logits as they were.
TEST(AdjustedTest, ChoosesFromAdjustedLogitsAndReportsRawOnes) {
  const std::vector<float> logits = RandomLogits(3000, 41, 6.0F);
  const SomeAdjustment some(logits.size());
  int differ = 0;
  for (SamplingRow row : AdjustedRows()) {
    const Adjustment adjustment = some.Of(row);
    std::vector<float> adjusted = logits;
    for (size_t i = 0; i < adjusted.size(); ++i) {
      adjusted[i] = adjustment.Adjusted(static_cast<int32_t>(i), adjusted[i]);
    }
    for (uint64_t seed = 0; seed < 20; ++seed) {
      row.seed = seed;
      SamplingRow plain = row;
      plain.rules = 0;
      plain.mask = -1;
      const Chosen got = Sample(row, logits, {1000, 1001, 2500}, 0, adjustment);
      EXPECT_EQ(got.choice.token, Sample(plain, adjusted, {1000, 1001, 2500}).choice.token);
      differ += got.choice.token == Sample(plain, logits).choice.token ? 0 : 1;
      const SamplingRow report = {.top_logprobs = row.top_logprobs, .wanted = row.wanted};
      const Chosen raw = Sample(report, logits, {1000, 1001, 2500});
      EXPECT_EQ(got.choice.wanted_logprob, raw.choice.wanted_logprob);
      ASSERT_EQ(got.listed.size(), raw.listed.size());
      for (size_t i = 0; i < raw.listed.size(); ++i) {
        EXPECT_EQ(got.listed[i].token, raw.listed[i].token);
        EXPECT_EQ(got.listed[i].logit, raw.listed[i].logit);
      }
      const SamplingRow ask = {.wanted = got.choice.token};
      EXPECT_EQ(got.choice.logprob, Sample(ask, logits, {1000, 1001, 2500}).choice.wanted_logprob);
    }
  }
  EXPECT_GT(differ, 50) << "the adjustment changes too little to show";
}

TEST(AdjustedTest, AnySplitOfTheVocabularyGivesTheSame) {
  const std::vector<float> logits = RandomLogits(3000, 42, 6.0F);
  const SomeAdjustment some(logits.size());
  for (SamplingRow row : AdjustedRows()) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      row.seed = seed;
      const Chosen whole = Sample(row, logits, {}, 0, some.Of(row));
      for (const std::vector<size_t>& bounds :
           std::vector<std::vector<size_t>>{{1500}, {1, 2, 2999}, {0, 750, 1500, 2250, 3000}, {700, 701}}) {
        const Chosen split = Sample(row, logits, bounds, 0, some.Of(row));
        EXPECT_EQ(split.choice.token, whole.choice.token);
        EXPECT_NEAR(split.choice.logprob, whole.choice.logprob, 1e-5);
        EXPECT_NEAR(split.choice.wanted_logprob, whole.choice.wanted_logprob, 1e-5);
        ASSERT_EQ(split.listed.size(), whole.listed.size());
        for (size_t i = 0; i < whole.listed.size(); ++i) {
          EXPECT_EQ(split.listed[i].token, whole.listed[i].token);
        }
      }
    }
  }
}

TEST(AdjustedTest, NeighboursChangeNothing) {
  const std::vector<float> logits = RandomLogits(500, 43, 4.0F);
  const SomeAdjustment some(logits.size());
  for (SamplingRow row : AdjustedRows()) {
    row.wanted = -1;
    for (uint64_t seed = 0; seed < 20; ++seed) {
      row.seed = seed;
      const Chosen alone = Sample(row, logits, {}, 0, some.Of(row));
      const Chosen among = Sample(row, logits, {}, kMaxRecordCandidates, some.Of(row));
      EXPECT_EQ(among.choice.token, alone.choice.token);
      EXPECT_EQ(among.choice.logprob, alone.choice.logprob);
      EXPECT_EQ(among.listed.size(), alone.listed.size());
    }
  }
}

TEST(AdjustedTest, NothingLeftGivesNoToken) {
  const std::vector<float> logits = RandomLogits(70, 44, 4.0F);
  const std::vector<uint32_t> nothing(3, 0U);
  for (const SamplingRow& row : {SamplingRow{.mask = 0}, SamplingRow{.temperature = 1.0F, .mask = 0},
                                 SamplingRow{.temperature = 1.0F, .top_p = 0.9F, .top_logprobs = 4, .mask = 0}}) {
    const Chosen none = Sample(row, logits, {32, 40}, 0, {.rules = nullptr, .mask = nothing});
    EXPECT_EQ(none.choice.token, -1);
    EXPECT_EQ(none.listed.size(), static_cast<size_t>(row.top_logprobs));
  }
}

TEST(ChooseTest, NeighboursDoNotWidenARowsFilters) {
  const std::vector<float> logits = RandomLogits(500, 31, 1.0F);
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const SamplingRow row = {.seed = seed, .temperature = 1.5F, .top_k = 5};
    EXPECT_EQ(Sample(row, logits, {}, 8).choice.token, Sample(row, logits, {}, 1024).choice.token);
  }
}

}  // namespace
}  // namespace alphecca::kernels

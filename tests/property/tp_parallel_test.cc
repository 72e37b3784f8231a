// Any split of a model over ranks computes what one rank does: logits within rounding, and the same sampled tokens.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "worker/verify/golden_case.h"
#include "worker/verify/rank_group.h"

namespace alphecca {
namespace {

using verify::GroupOptions;
using verify::GroupResult;
using verify::GroupStep;
using verify::RankGroup;

constexpr int kSteps = 24;
// Sums of the same products in another order: some 1e-5 of logits of size 10, as between transformers' own kernels.
constexpr float kTolerance = 2e-4F;

struct Sampled {
  std::vector<float> logits;  // of all steps
  std::vector<int32_t> tokens;
};

// A prompt, then sampled tokens, each fed back by the device itself.
absl::StatusOr<Sampled> Sample(const model::Checkpoint& checkpoint, const verify::GoldenPrompt& prompt,
                               const GroupOptions& options, kernels::SamplingRow sampling) {
  auto group = RankGroup::Create(checkpoint, options);
  if (!group.ok()) {
    return group.status();
  }
  Sampled sampled;
  GroupStep step;
  for (size_t p = 0; p < prompt.input_ids.size(); ++p) {
    step.Add(prompt.input_ids[p], static_cast<int32_t>(p), p + 1 == prompt.input_ids.size());
  }
  for (int s = 0; s < kSteps; ++s) {
    sampling.position = step.positions.back() + 1;
    step.sampling = {sampling};
    absl::StatusOr<GroupResult> result = (*group)->Run(step);
    if (!result.ok()) {
      return result.status();
    }
    sampled.logits.insert(sampled.logits.end(), result->logits.begin(), result->logits.end());
    sampled.tokens.push_back(result->choices[0].token);
    step = {};
    step.Add(-1, sampling.position, true);  // what slot 0 sampled last
  }
  return sampled;
}

struct Architecture {
  const char* name;
  bool gguf;
  int max_ranks;
};

class ParallelTest : public testing::TestWithParam<Architecture> {
 protected:
  void SetUp() override {
    const auto golden = verify::ReadGoldenCase(
        absl::StrCat(ALPHECCA_TEST_DATA "/goldens/", GetParam().gguf ? "gguf/" : "", GetParam().name));
    ASSERT_TRUE(golden.ok()) << golden.status();
    prompt_ = golden->prompts.back();
    auto checkpoint = model::Checkpoint::Open(golden->checkpoint);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
  }

  std::vector<std::pair<int, int>> Plans() const {
    std::vector<std::pair<int, int>> plans;
    // Three ranks get unequal shares of everything.
    for (const int tp : {1, 2, 3, 4}) {
      for (const int ep : {1, 2, 3, 4}) {
        const bool fits = tp <= GetParam().max_ranks && (checkpoint_->config().experts > 0 || ep == 1) &&
                          std::max(tp, ep) % std::min(tp, ep) == 0;
        if (fits && (tp > 1 || ep > 1)) {
          plans.emplace_back(tp, ep);
        }
      }
    }
    return plans;
  }

  GroupOptions Options(int tp, int ep) const {
    GroupOptions options;
    options.sharding = {.tp = tp, .ep = ep};
    // F32 activations: int8 rounds at other places when columns are split.
    options.backend.activations = kernels::Activations::kF32;
    options.context = static_cast<int64_t>(prompt_.input_ids.size()) + kSteps;
    return options;
  }

  verify::GoldenPrompt prompt_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
};

TEST_P(ParallelTest, SplitsComputeWhatOneRankDoes) {
  const std::vector<kernels::SamplingRow> ways = {{.seed = 11, .temperature = 0.0F},
                                                  {.seed = 12, .temperature = 1.0F},
                                                  {.seed = 13, .temperature = 0.8F, .top_k = 12, .top_p = 0.9F}};
  for (const kernels::SamplingRow& way : ways) {
    const auto alone = Sample(*checkpoint_, prompt_, Options(1, 1), way);
    ASSERT_TRUE(alone.ok()) << alone.status();
    for (const auto& [tp, ep] : Plans()) {
      const auto split = Sample(*checkpoint_, prompt_, Options(tp, ep), way);
      ASSERT_TRUE(split.ok()) << "tp " << tp << " ep " << ep << ": " << split.status();
      EXPECT_EQ(split->tokens, alone->tokens) << "tp " << tp << " ep " << ep << " temperature " << way.temperature;
      float worst = 0.0F;
      for (size_t i = 0; i < alone->logits.size(); ++i) {
        worst = std::max(worst, std::abs(split->logits[i] - alone->logits[i]));
      }
      EXPECT_LE(worst, kTolerance) << "tp " << tp << " ep " << ep;
    }
  }
}

TEST_P(ParallelTest, TheSameSeedGivesTheSameBitsAgain) {
  const kernels::SamplingRow way = {.seed = 99, .temperature = 1.2F, .min_p = 0.01F};
  const int ranks = std::min(2, GetParam().max_ranks);
  const auto first = Sample(*checkpoint_, prompt_, Options(ranks, 1), way);
  const auto second = Sample(*checkpoint_, prompt_, Options(ranks, 1), way);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_EQ(first->tokens, second->tokens);
  EXPECT_EQ(first->logits, second->logits);
}

INSTANTIATE_TEST_SUITE_P(
    Architectures, ParallelTest,
    testing::Values(Architecture{"dense-31b-shape", false, 4}, Architecture{"moe-26b-shape", false, 4},
                    Architecture{"edge-e2b-shape", false, 4}, Architecture{"edge-e4b-shape", false, 4},
                    Architecture{"all-features", false, 4}, Architecture{"gemma3-270m-shape", false, 4},
                    Architecture{"moe-26b-shape-q4_0", true, 2}, Architecture{"edge-e2b-shape-q8_0", true, 2}),
    [](const auto& param) {
      return absl::StrReplaceAll(std::string(param.param.name), {{"-", "_"}});
    });

}  // namespace
}  // namespace alphecca

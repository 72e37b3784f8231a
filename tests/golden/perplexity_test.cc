// Windows, what is predicted from what, and that the result does not depend on the plan.
#include "worker/verify/perplexity.h"

#include <cmath>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "model/checkpoint.h"

namespace alphecca::verify {
namespace {

constexpr int32_t kBos = 2;

class PerplexityTest : public testing::Test {
 protected:
  void SetUp() override {
    auto checkpoint = model::Checkpoint::Open(ALPHECCA_TEST_DATA "/goldens/iso-base");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
  }

  PerplexityResult Measure(const std::vector<int32_t>& tokens, const GroupOptions& options) const {
    const auto result = MeasurePerplexity(*checkpoint_, tokens, kBos, options, nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.value_or(PerplexityResult());
  }

  // -ln p(token | BOS), from the logits themselves.
  double AfterBos(int32_t token) const {
    auto group = RankGroup::Create(*checkpoint_, {.context = 4});
    EXPECT_TRUE(group.ok()) << group.status();
    GroupStep step;
    step.Add(kBos, 0, true);
    const auto row = (*group)->Run(step);
    EXPECT_TRUE(row.ok()) << row.status();
    double sum = 0.0;
    for (const float logit : row->logits) {
      sum += std::exp(static_cast<double>(logit));
    }
    return std::log(sum) - static_cast<double>(row->logits[static_cast<size_t>(token)]);
  }

  std::unique_ptr<model::Checkpoint> checkpoint_;
};

TEST_F(PerplexityTest, WindowsOfTwoPredictEachTokenFromBos) {
  const std::vector<int32_t> tokens = {5, 17, 5, 300};
  const PerplexityResult result = Measure(tokens, {.context = 2});
  EXPECT_EQ(result.tokens, 4);
  EXPECT_EQ(result.windows, 4);
  EXPECT_NEAR(result.nll, 2 * AfterBos(5) + AfterBos(17) + AfterBos(300), 1e-5);
  EXPECT_NEAR(result.perplexity(), std::exp(result.nll / 4), 1e-9);
}

TEST_F(PerplexityTest, EveryTokenCountsOnceWhateverTheStepsAndThePlan) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 75; ++i) {
    tokens.push_back(3 + (i * 37) % 500);
  }
  const PerplexityResult whole = Measure(tokens, {.context = 32});
  EXPECT_EQ(whole.tokens, 75);
  EXPECT_EQ(whole.windows, 3);  // 31, 31, 13
  EXPECT_NEAR(Measure(tokens, {.context = 32, .max_rows = 7}).nll, whole.nll, 1e-4);
  EXPECT_NEAR(Measure(tokens, {.sharding = {.tp = 2}, .context = 32}).nll, whole.nll, 1e-3);
  EXPECT_GT(std::abs(Measure(tokens, {.context = 64}).nll - whole.nll), 1e-2) << "longer windows tell more";
}

TEST_F(PerplexityTest, RefusesWhatItCannotMeasure) {
  const std::vector<int32_t> good = {5};
  const std::vector<int32_t> bad = {5, 1 << 20};
  const auto code = [&](std::span<const int32_t> tokens, int64_t context) {
    return MeasurePerplexity(*checkpoint_, tokens, kBos, {.context = context}, nullptr).status().code();
  };
  EXPECT_EQ(code({}, 16), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(bad, 16), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(good, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(good, int64_t{1} << 40), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace alphecca::verify

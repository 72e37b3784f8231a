// The judge itself: planted errors just inside and just outside of what each rule allows.
#include "worker/verify/judge.h"

#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace alphecca::verify {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int kVocab = 4;
constexpr int kWidth = 8;
constexpr int kSteps = 3;

// One prompt of two tokens and one layer; all reference values are of size about 10.
class JudgeTest : public testing::Test {
 protected:
  JudgeTest() {
    golden_.name = "case";
    GoldenPrompt prompt;
    prompt.name = "short";
    prompt.input_ids = {2, 1};
    prompt.greedy_ids = {3, 2, 3};
    prompt.margins = {1.0, 0.02, 1.0};
    prompt.bf16 = MeasuredError{.max_abs = 0.1, .rel_rms = 0.01};
    const auto rows = [](std::vector<int64_t> shape) {
      GoldenTensor tensor{.shape = shape, .values = {}};
      int64_t count = 1;
      for (const int64_t size : shape) {
        count *= size;
      }
      for (int64_t i = 0; i < count; ++i) {
        tensor.values.push_back(10.0F + 0.25F * static_cast<float>(i % 7));
      }
      return tensor;
    };
    prompt.tensors["logits"] = rows({2, kVocab});
    prompt.tensors["greedy_logits"] = rows({kSteps, kVocab});
    prompt.tensors["hidden"] = rows({2, 2, kWidth});
    prompt.tensors["final_norm_last"] = rows({kWidth});
    run_.vocab = kVocab;
    run_.prompt_logits = prompt.tensors["logits"].values;
    run_.step_logits = prompt.tensors["greedy_logits"].values;
    run_.ids = prompt.greedy_ids;
    run_.final_norm = prompt.tensors["final_norm_last"].values;
    const std::vector<float>& hidden = prompt.tensors["hidden"].values;
    run_.probe[{"hidden", -1}] = {.cols = kWidth, .values = {hidden.begin(), hidden.begin() + 2 * kWidth}};
    run_.probe[{"hidden", 0}] = {.cols = kWidth, .values = {hidden.begin() + 2 * kWidth, hidden.end()}};
    golden_.prompts.push_back(prompt);
  }

  Verdict JudgeBy(Rule rule, bool moe = false) const { return Judge(golden_, {run_}, rule, moe); }

  GoldenCase golden_;
  PromptRun run_;
};

TEST_F(JudgeTest, PassesWhatIsEqual) {
  for (const Rule rule : {Rule::kF32, Rule::kBf16}) {
    const Verdict verdict = JudgeBy(rule);
    EXPECT_THAT(verdict.failures, IsEmpty());
    EXPECT_EQ(verdict.greedy_match, "3/3");
    EXPECT_EQ(verdict.max_abs_logit_error, 0.0);
  }
}

TEST_F(JudgeTest, F32RefusesALargeLogitError) {
  run_.step_logits[5] += 6e-4F;
  EXPECT_THAT(JudgeBy(Rule::kF32).failures, testing::Contains(HasSubstr("largest logit error")));
}

TEST_F(JudgeTest, F32RefusesASmallErrorOfAllLogits) {
  for (float& logit : run_.prompt_logits) {
    logit *= 1.00002F;
  }
  EXPECT_THAT(JudgeBy(Rule::kF32).failures, ElementsAre(HasSubstr("relative RMS error of the prompt's logits")));
}

TEST_F(JudgeTest, F32AllowsTwiceTheRelativeErrorOnLongCases) {
  for (float& logit : run_.prompt_logits) {
    logit *= 1.000015F;
  }
  EXPECT_FALSE(JudgeBy(Rule::kF32).pass());
  golden_.name = "long-case";
  EXPECT_THAT(JudgeBy(Rule::kF32).failures, IsEmpty());
}

TEST_F(JudgeTest, F32NamesTheFirstHiddenRowThatDiffers) {
  run_.probe[{"hidden", 0}].values[kWidth] *= 1.001F;
  run_.final_norm[0] *= 1.001F;
  EXPECT_THAT(JudgeBy(Rule::kF32).failures, ElementsAre(HasSubstr("hidden of layer 0, row 1")));
}

TEST_F(JudgeTest, F32JudgesBranchOutputsFourTimesAsMildly) {
  golden_.prompts[0].tensors["attn_out"] = {.shape = {1, 2, kWidth}, .values = std::vector<float>(2 * kWidth, 3.0F)};
  RowLog& seen = run_.probe[{"attn_out", 0}];
  seen = {.cols = kWidth, .values = std::vector<float>(2 * kWidth, 3.0F * 1.00003F)};
  EXPECT_THAT(JudgeBy(Rule::kF32).failures, IsEmpty());
  seen.values.assign(2 * kWidth, 3.0F * 1.00006F);
  EXPECT_THAT(JudgeBy(Rule::kF32).failures, ElementsAre(HasSubstr("attn_out of layer 0, row 0")));
}

TEST_F(JudgeTest, F32RefusesRowsThatWereNotSeen) {
  run_.probe.erase({"hidden", 0});
  EXPECT_THAT(JudgeBy(Rule::kF32).failures, ElementsAre(HasSubstr("not seen")));
}

TEST_F(JudgeTest, F32RefusesAnotherIdWhateverItsMargin) {
  run_.ids[1] = 0;
  const Verdict verdict = JudgeBy(Rule::kF32);
  EXPECT_THAT(verdict.failures, ElementsAre(HasSubstr("step 1 chose 0")));
  EXPECT_EQ(verdict.greedy_match, "1/3");
}

TEST_F(JudgeTest, NaNIsNoAgreement) {
  run_.prompt_logits[0] = NAN;
  EXPECT_FALSE(JudgeBy(Rule::kF32).pass());
  run_.prompt_logits = golden_.prompts[0].tensors["logits"].values;
  run_.step_logits[0] = NAN;
  for (const bool moe : {false, true}) {
    EXPECT_FALSE(JudgeBy(Rule::kBf16, moe).pass());
  }
}

TEST_F(JudgeTest, Bf16AllowsTwiceTheMeasuredErrorAndSmallMargins) {
  run_.step_logits[5] += 0.19F;
  run_.ids[1] = 0;  // by a margin of 0.02
  EXPECT_THAT(JudgeBy(Rule::kBf16).failures, IsEmpty());
  run_.step_logits[5] += 0.02F;
  EXPECT_THAT(JudgeBy(Rule::kBf16).failures, ElementsAre(HasSubstr("largest logit error")));
}

TEST_F(JudgeTest, Bf16RefusesAnotherIdByALargeMargin) {
  run_.ids[2] = 0;
  EXPECT_THAT(JudgeBy(Rule::kBf16).failures, ElementsAre(HasSubstr("margin of 1")));
}

TEST_F(JudgeTest, ExpertModelsAreJudgedByTheMedianRow) {
  for (int i = 0; i < kVocab; ++i) {
    run_.step_logits[static_cast<size_t>(i)] += 5.0F;  // one flipped expert
  }
  EXPECT_FALSE(JudgeBy(Rule::kBf16).pass());
  EXPECT_THAT(JudgeBy(Rule::kBf16, /*moe=*/true).failures, IsEmpty());
}

TEST_F(JudgeTest, IdsCountUpToTheFirstNearTieOfARouter) {
  run_.ids[2] = 0;
  run_.router_gaps = {0.5, 0.5, 0.005};
  EXPECT_THAT(JudgeBy(Rule::kBf16, /*moe=*/true).failures, IsEmpty());
  EXPECT_FALSE(JudgeBy(Rule::kF32, /*moe=*/true).pass());
  run_.router_gaps = {0.5, 0.5, 0.5};
  EXPECT_FALSE(JudgeBy(Rule::kBf16, /*moe=*/true).pass());
}

TEST_F(JudgeTest, Int8ComparesLogProbabilitiesWithThePeer) {
  golden_.gguf = true;
  golden_.peer = MeasuredError{.max_abs = 0.5, .rel_rms = 0.01};
  for (float& logit : run_.step_logits) {
    logit += 3.0F;  // leaves probabilities as they are
  }
  const Verdict same = JudgeBy(Rule::kInt8);
  EXPECT_THAT(same.failures, IsEmpty());
  EXPECT_LT(*same.logit_rel_rms, 1e-6);
  for (size_t i = 0; i < run_.step_logits.size(); i += 2) {
    run_.step_logits[i] += 0.1F;
  }
  EXPECT_THAT(JudgeBy(Rule::kInt8).failures, ElementsAre(HasSubstr("log-probabilities")));
}

TEST_F(JudgeTest, ARunOfAnotherShapeFails) {
  run_.ids.pop_back();
  EXPECT_THAT(JudgeBy(Rule::kF32).failures, ElementsAre(HasSubstr("2 ids")));
}

TEST_F(JudgeTest, OwnersTogetherAreAsBadAsTheWorst) {
  const Verdict good = JudgeBy(Rule::kF32);
  ASSERT_TRUE(good.pass());
  run_.ids[0] = 1;
  run_.step_logits[0] += 1.0F;
  const Verdict bad = JudgeBy(Rule::kF32);
  ASSERT_FALSE(bad.pass());
  const Verdict all = Together({good, bad, good});
  ASSERT_EQ(all.failures.size(), bad.failures.size());
  EXPECT_EQ(all.failures[0], "owner 1: " + bad.failures[0]);
  EXPECT_EQ(all.max_abs_logit_error, bad.max_abs_logit_error);
  EXPECT_EQ(all.greedy_match, good.greedy_match + ", owner 1: " + bad.greedy_match);
  EXPECT_EQ(Together({bad, good}).failures, bad.failures);
}

}  // namespace
}  // namespace alphecca::verify

// Neighbours and chunks change nothing: a sequence in a batch, or prefilled in pieces, gives the same bits as alone.
#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
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
using verify::Kernels;
using verify::RankGroup;

constexpr int kSteps = 8;

// Case directory, kernels, tensor parallel ranks.
using Setting = std::tuple<const char*, Kernels, int>;

class BatchingTest : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    const auto golden = verify::ReadGoldenCase(absl::StrCat(ALPHECCA_TEST_DATA "/goldens/", std::get<0>(GetParam())));
    ASSERT_TRUE(golden.ok()) << golden.status();
    for (const verify::GoldenPrompt& prompt : golden->prompts) {
      prompts_.push_back(prompt.input_ids);
    }
    auto checkpoint = model::Checkpoint::Open(golden->checkpoint);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
  }

  std::unique_ptr<RankGroup> NewGroup() const {
    GroupOptions options;
    options.sharding.tp = std::get<2>(GetParam());
    options.kernels = std::get<1>(GetParam());
    options.slots = 3;
    options.context = 64 + kSteps;
    auto group = RankGroup::Create(*checkpoint_, options);
    EXPECT_TRUE(group.ok()) << group.status();
    return group.ok() ? *std::move(group) : nullptr;
  }

  // A sampling of its own for each sequence, so that they differ.
  static kernels::SamplingRow Way(int sequence, int32_t slot, int32_t position) {
    return {.seed = 100U + static_cast<uint64_t>(sequence),
            .slot = slot,
            .position = position,
            .temperature = sequence == 0 ? 0.0F : 1.0F};
  }

  // Logits of every row of a prompt and of kSteps sampled tokens, the prompt in chunks of `chunk` rows.
  std::vector<float> Alone(int sequence, int64_t chunk, int32_t slot = 0) const {
    const std::vector<int32_t>& prompt = prompts_[static_cast<size_t>(sequence)];
    const std::unique_ptr<RankGroup> group = NewGroup();
    std::vector<float> logits;
    const auto run = [&](GroupStep& step) {
      for (const int32_t row : step.logit_rows) {
        step.sampling.push_back(Way(sequence, slot, step.positions[static_cast<size_t>(row)] + 1));
      }
      const auto result = group->Run(step);
      ASSERT_TRUE(result.ok()) << result.status();
      logits.insert(logits.end(), result->logits.begin(), result->logits.end());
    };
    const auto length = static_cast<int64_t>(prompt.size());
    for (int64_t begin = 0; begin < length; begin += chunk) {
      GroupStep step;
      for (int64_t p = begin; p < std::min(begin + chunk, length); ++p) {
        step.Add(prompt[static_cast<size_t>(p)], static_cast<int32_t>(p), true, slot);
      }
      run(step);
    }
    for (int s = 0; s < kSteps; ++s) {
      GroupStep step;
      step.Add(-1 - slot, static_cast<int32_t>(length) + s, true, slot);
      run(step);
    }
    return logits;
  }

  std::vector<std::vector<int32_t>> prompts_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
};

TEST_P(BatchingTest, ChunkedPrefillEqualsWhole) {
  const std::vector<float> whole = Alone(1, 64);
  for (const int64_t chunk : {1, 7, 16}) {
    EXPECT_EQ(Alone(1, chunk), whole) << "chunks of " << chunk;
  }
}

TEST_P(BatchingTest, TheSlotDoesNotMatter) {
  EXPECT_EQ(Alone(0, 64, 2), Alone(0, 64, 0));
}

// The second sequence is prefilled while the first decodes; then both decode together.
TEST_P(BatchingTest, TwoSequencesAtOnceEqualEachAlone) {
  const std::vector<float> want[2] = {Alone(0, 64), Alone(1, 64)};
  std::vector<float> got[2];
  const std::unique_ptr<RankGroup> group = NewGroup();
  const int32_t slots[2] = {2, 0};
  int32_t next[2] = {0, 0};  // position
  for (int s = 0; s < 16; ++s) {
    GroupStep step;
    std::vector<int> owner;
    for (const int q : {0, 1}) {
      const auto length = static_cast<int32_t>(prompts_[static_cast<size_t>(q)].size());
      const bool waits = q == 1 && s < 2;
      int rows = waits ? 0 : next[q] < length ? std::min(13, length - next[q]) : 1;
      for (; rows > 0 && next[q] < length + kSteps; --rows, ++next[q]) {
        const bool prefill = next[q] < length;
        step.Add(prefill ? prompts_[static_cast<size_t>(q)][static_cast<size_t>(next[q])] : -1 - slots[q], next[q],
                 true, slots[q]);
        step.sampling.push_back(Way(q, slots[q], next[q] + 1));
        owner.push_back(q);
      }
    }
    if (owner.empty()) {
      break;
    }
    const auto result = group->Run(step);
    ASSERT_TRUE(result.ok()) << result.status();
    for (size_t r = 0; r < owner.size(); ++r) {
      const auto row = result->logit_row(static_cast<int64_t>(r));
      got[owner[r]].insert(got[owner[r]].end(), row.begin(), row.end());
    }
  }
  EXPECT_EQ(got[0], want[0]);
  EXPECT_EQ(got[1], want[1]);
}

std::string SettingName(const testing::TestParamInfo<Setting>& setting) {
  const auto& [directory, kernels, tp] = setting.param;
  return absl::StrCat(absl::StrReplaceAll(directory, {{"-", "_"}, {"/", "_"}}), "_",
                      std::string(verify::KernelsName(kernels)), "_tp", tp);
}

INSTANTIATE_TEST_SUITE_P(Cpu, BatchingTest,
                         testing::Combine(testing::Values("dense-31b-shape", "moe-26b-shape", "edge-e2b-shape",
                                                          "gguf/moe-26b-shape-q4_0", "gguf/edge-e2b-shape-q8_0"),
                                          testing::Values(Kernels::kCpu), testing::Values(1, 2)),
                         SettingName);
INSTANTIATE_TEST_SUITE_P(Reference, BatchingTest,
                         testing::Combine(testing::Values("moe-26b-shape", "gguf/edge-e2b-shape-q8_0"),
                                          testing::Values(Kernels::kRef), testing::Values(1)),
                         SettingName);

}  // namespace
}  // namespace alphecca

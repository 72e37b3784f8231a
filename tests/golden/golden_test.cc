// Every golden case through `verify`, on both kernels, as the plans and weight types allow. The data: tests/data.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"
#include "worker/verify/golden_case.h"
#include "worker/verify/reference.h"
#include "worker/verify/verify.h"

namespace alphecca::golden {
namespace {

namespace fs = std::filesystem;
using verify::Kernels;
using verify::VerifyOptions;

struct Plan {
  int tp = 1;
  int ep = 1;
};

std::vector<std::string> CasesIn(const std::string& directory) {
  std::vector<std::string> cases;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (fs::exists(entry.path() / "golden.json")) {
      cases.push_back(entry.path().string());
    }
  }
  std::sort(cases.begin(), cases.end());
  return cases;
}

std::string CaseName(const testing::TestParamInfo<std::string>& param) {
  return absl::StrReplaceAll(fs::path(param.param).filename().string(), {{"-", "_"}});
}

model::ModelConfig ConfigOf(const std::string& directory) {
  const auto golden = verify::ReadGoldenCase(directory);
  EXPECT_TRUE(golden.ok()) << golden.status();
  const auto checkpoint = model::Checkpoint::Open(golden->checkpoint);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return (*checkpoint)->config();
}

void ExpectPass(const std::string& directory, const VerifyOptions& options) {
  const auto report = verify::VerifyCase(directory, options);
  ASSERT_TRUE(report.ok()) << directory << " tp " << options.tp << ": " << report.status();
  EXPECT_TRUE(report->verdict.pass()) << verify::ToJson(*report).dump();
}

class SafetensorsGolden : public testing::TestWithParam<std::string> {};

TEST_P(SafetensorsGolden, PassesOnCpuUnderEveryPlan) {
  const model::ModelConfig config = ConfigOf(GetParam());
  std::vector<Plan> plans = {{1, 1}, {2, 1}};
  if (config.experts > 0) {
    plans = {{1, 1}, {2, 2}, {1, 2}, {2, 1}, {4, 4}, {4, 1}, {1, 4}, {2, 4}, {4, 2}, {3, 3}, {1, 3}};
    if (config.heads >= 8) {
      plans.insert(plans.end(), {{8, 8}, {8, 2}, {2, 8}});
    }
  } else {
    for (const int tp : {3, 4, 8}) {  // as evenly as the heads allow: 3 splits 4 heads into 1, 1 and 2
      if (tp <= config.heads) {
        plans.push_back({tp, 1});
      }
    }
  }
  for (const Plan plan : plans) {
    for (const model::WeightType weights : {model::WeightType::kAsFile, model::WeightType::kF32}) {
      ExpectPass(GetParam(), {.tp = plan.tp, .ep = plan.ep, .weights = weights});
    }
  }
}

TEST_P(SafetensorsGolden, PassesWithWideExperts) {
  if (ConfigOf(GetParam()).experts == 0) {
    EXPECT_EQ(verify::VerifyCase(GetParam(), {.ep = 2, .expert_mode = model::ExpertMode::kWide}).status().code(),
              absl::StatusCode::kInvalidArgument);
    return;
  }
  for (const int ranks : {2, 3, 4, 8}) {  // 3 ranks share 128 experts unevenly
    ExpectPass(GetParam(), {.ep = ranks, .expert_mode = model::ExpertMode::kWide});
  }
}

TEST_P(SafetensorsGolden, PassesOnReferenceKernels) {
  ExpectPass(GetParam(), {.kernels = Kernels::kRef});
}

TEST_P(SafetensorsGolden, PassesWithABf16KvCache) {
  ExpectPass(GetParam(), {.bf16_kv = true});
}

INSTANTIATE_TEST_SUITE_P(Cases, SafetensorsGolden, testing::ValuesIn(CasesIn(ALPHECCA_TEST_DATA "/goldens")), CaseName);

class GgufGolden : public testing::TestWithParam<std::string> {
 protected:
  // tp 1, 2 and 4 with ep 1, 2 and 4, as far as the shape allows.
  static std::vector<Plan> Plans() {
    const auto golden = verify::ReadGoldenCase(GetParam());
    EXPECT_TRUE(golden.ok()) << golden.status();
    const auto checkpoint = model::Checkpoint::Open(golden->checkpoint);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    std::vector<Plan> plans;
    for (const int tp : {1, 2, 4}) {
      for (const int ep : {1, 2, 4}) {
        if (model::MakeShardPlan(**checkpoint, {tp, ep}).ok()) {
          plans.push_back({tp, ep});
        }
      }
    }
    EXPECT_GE(plans.size(), 2U);
    return plans;
  }
};

TEST_P(GgufGolden, PassesOnCpuWithInt8Activations) {
  for (const Plan plan : Plans()) {
    ExpectPass(GetParam(), {.tp = plan.tp, .ep = plan.ep});
  }
}

TEST_P(GgufGolden, PassesWithF32Activations) {
  for (const Plan plan : Plans()) {
    ExpectPass(GetParam(), {.tp = plan.tp, .ep = plan.ep, .f32_activations = true});
  }
  ExpectPass(GetParam(), {.f32_activations = true, .kernels = Kernels::kRef});
}

INSTANTIATE_TEST_SUITE_P(Cases, GgufGolden, testing::ValuesIn(CasesIn(ALPHECCA_TEST_DATA "/goldens/gguf")), CaseName);

// Trained weights: real margins, real attention patterns, 4096 tokens of vocabulary.
class TrainedGolden : public testing::TestWithParam<std::string> {};

TEST_P(TrainedGolden, ContinuesAsTheReferenceDoes) {
  for (const int tp : {1, 2}) {
    ExpectPass(GetParam(), {.tp = tp});
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TrainedGolden, testing::ValuesIn(CasesIn(ALPHECCA_MODELS)), CaseName);

// Weights converted while loading, against the reference kernels on the dequantised weights.
class ConvertedGolden : public testing::TestWithParam<std::string> {
 protected:
  static std::string Directory() { return absl::StrCat(ALPHECCA_TEST_DATA "/goldens/", GetParam()); }
  static std::vector<Plan> Plans() {
    const model::ModelConfig config = ConfigOf(Directory());
    if (config.experts > 0) {
      return {{1, 1}, {2, 2}, {1, 2}, {4, 4}, {2, 4}};
    }
    return config.heads % 4 == 0 ? std::vector<Plan>{{1, 1}, {2, 1}, {4, 1}} : std::vector<Plan>{{1, 1}, {2, 1}};
  }
};

TEST_P(ConvertedGolden, Sfp8PassesUnderEveryPlan) {
  for (const Plan plan : Plans()) {
    ExpectPass(Directory(), {.tp = plan.tp, .ep = plan.ep, .weights = model::WeightType::kSFP8});
  }
}

TEST_P(ConvertedGolden, Q4_0PassesUnderEveryPlan) {
  for (const Plan plan : Plans()) {
    ExpectPass(Directory(), {.tp = plan.tp, .ep = plan.ep, .weights = model::WeightType::kQ4_0});
  }
}

TEST_P(ConvertedGolden, Q4_0PassesWithF32Activations) {
  for (const Plan plan : Plans()) {
    ExpectPass(Directory(),
               {.tp = plan.tp, .ep = plan.ep, .weights = model::WeightType::kQ4_0, .f32_activations = true});
  }
}

TEST_P(ConvertedGolden, PassesOnReferenceKernels) {
  for (const model::WeightType weights : {model::WeightType::kSFP8, model::WeightType::kQ4_0}) {
    ExpectPass(Directory(), {.weights = weights, .f32_activations = true, .kernels = Kernels::kRef});
  }
}

// The reference differs from the stored one, so that passing it says something about the conversion.
TEST_P(ConvertedGolden, IsNotWhatTheFileHolds) {
  const auto golden = verify::ReadGoldenCase(Directory());
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto checkpoint = model::Checkpoint::Open(golden->checkpoint);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const model::WeightType weights : {model::WeightType::kSFP8, model::WeightType::kQ4_0}) {
    const auto own = verify::OwnReference(*golden, **checkpoint, weights, 256);
    ASSERT_TRUE(own.ok()) << own.status();
    for (size_t i = 0; i < own->prompts.size(); ++i) {
      const verify::GoldenTensor* stored = golden->prompts[i].Find("logits_last");
      const verify::GoldenTensor* ours = own->prompts[i].Find("logits_last");
      if (stored == nullptr) {
        stored = golden->prompts[i].Find("logits");
        ours = own->prompts[i].Find("logits");
      }
      ASSERT_EQ(ours->shape, stored->shape);
      double largest = 0.0;
      for (size_t v = 0; v < ours->values.size(); ++v) {
        largest = std::max(largest, std::abs(static_cast<double>(ours->values[v]) - stored->values[v]));
      }
      EXPECT_GT(largest, 0.01) << own->prompts[i].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ConvertedGolden,
                         testing::Values("dense-31b-shape", "moe-26b-shape", "edge-e2b-shape", "edge-e4b-shape",
                                         "gemma3-270m-shape"),
                         CaseName);

TEST(VerifyTest, RefusesWidenedGguf) {
  const auto report =
      verify::VerifyCase(ALPHECCA_TEST_DATA "/goldens/gguf/dense-31b-shape-q4_0", {.weights = model::WeightType::kF32});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(VerifyTest, RefusesAPlanThatTheHeadsDoNotAllow) {
  const auto report = verify::VerifyCase(ALPHECCA_TEST_DATA "/goldens/iso-base", {.tp = 16});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument) << report.status();
}

TEST(VerifyTest, SaysWhereACaseIsMissing) {
  const auto report = verify::VerifyCase(ALPHECCA_TEST_DATA "/goldens/no-such-case", {});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace alphecca::golden

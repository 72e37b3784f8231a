// The decoder on generated weights against the values that the specification states for them (transformers' own).
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/golden/generated_checkpoint.h"
#include "worker/verify/rank_group.h"

namespace alphecca::golden {
namespace {

constexpr int32_t kIds[] = {2, 5, 17, 3, 39, 8, 8, 21, 0, 11};
constexpr int kLength = 10;

constexpr char kTestA[] = R"({
  "model_type": "gemma4_text", "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4,
  "num_key_value_heads": 2, "num_global_key_value_heads": null, "head_dim": 8, "global_head_dim": 16,
  "intermediate_size": 48, "vocab_size": 40, "vocab_size_per_layer_input": 40, "hidden_size_per_layer_input": 4,
  "num_kv_shared_layers": 2, "use_double_wide_mlp": true, "attention_k_eq_v": false, "sliding_window": 3,
  "rms_norm_eps": 1e-6, "final_logit_softcapping": 30.0, "max_position_embeddings": 64, "enable_moe_block": false,
  "tie_word_embeddings": true, "hidden_activation": "gelu_pytorch_tanh",
  "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention",
                  "full_attention"],
  "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}}})";

constexpr char kTestB[] = R"({
  "model_type": "gemma4_text", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 2, "num_global_key_value_heads": 1, "head_dim": 8, "global_head_dim": 16,
  "intermediate_size": 20, "vocab_size": 40, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
  "use_double_wide_mlp": false, "attention_k_eq_v": true, "sliding_window": 3, "rms_norm_eps": 1e-6,
  "final_logit_softcapping": 30.0, "max_position_embeddings": 64, "enable_moe_block": true, "num_experts": 6,
  "top_k_experts": 2, "moe_intermediate_size": 10, "tie_word_embeddings": true,
  "hidden_activation": "gelu_pytorch_tanh",
  "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
  "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}}})";

constexpr char kGemma3[] = R"({
  "model_type": "gemma3_text", "hidden_size": 32, "num_hidden_layers": 7, "num_attention_heads": 4,
  "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "intermediate_size": 48, "vocab_size": 40,
  "sliding_window": 3, "rms_norm_eps": 1e-6, "max_position_embeddings": 64, "tie_word_embeddings": true,
  "hidden_activation": "gelu_pytorch_tanh",
  "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
                  "sliding_attention", "full_attention", "sliding_attention"],
  "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}})";

// The values are stated to five places or six figures.
void ExpectNear(std::span<const float> got, std::initializer_list<double> want, double tolerance) {
  ASSERT_GE(got.size(), want.size());
  size_t i = 0;
  for (const double value : want) {
    EXPECT_NEAR(got[i], value, tolerance) << "value " << i;
    ++i;
  }
}

class GeneratedTest : public testing::TestWithParam<verify::Kernels> {
 protected:
  void Load(const char* config) {
    auto checkpoint = GeneratedCheckpoint::Create(config);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    auto group = verify::RankGroup::Create(*checkpoint_, {.kernels = GetParam(), .context = 16, .block_tokens = 4});
    ASSERT_TRUE(group.ok()) << group.status();
    group_ = *std::move(group);
  }

  void Run(std::vector<kernels::KeyRange> sliding = {}) {
    verify::GroupStep step;
    for (int p = 0; p < kLength; ++p) {
      step.Add(kIds[p], p, true);
    }
    step.sliding = std::move(sliding);
    auto result = group_->Run(step);
    ASSERT_TRUE(result.ok()) << result.status();
    result_ = *std::move(result);
  }

  std::vector<int32_t> Choices() const {
    std::vector<int32_t> tokens;
    for (const kernels::Choice& choice : result_.choices) {
      tokens.push_back(choice.token);
    }
    return tokens;
  }

  double Sum() const {
    double sum = 0.0;
    for (const float logit : result_.logits) {
      sum += logit;
    }
    return sum;
  }

  double AbsSum() const {
    double sum = 0.0;
    for (const float logit : result_.logits) {
      sum += std::abs(logit);
    }
    return sum;
  }

  // Key or value of one head at position 9.
  std::vector<float> Cached(kernels::PoolKind kind, int layer, int head, int heads, int head_dim, bool value) {
    std::vector<float> keys(static_cast<size_t>(heads * head_dim));
    std::vector<float> values(keys.size());
    const absl::Status status = group_->ExportKv(kind, layer, 0, {kLength - 1, kLength}, keys, values);
    EXPECT_TRUE(status.ok()) << status;
    const auto& from = value ? values : keys;
    return {from.begin() + head * head_dim, from.begin() + (head + 1) * head_dim};
  }

  std::span<const float> LastHidden() const { return std::span(result_.hidden).last(32); }

  std::unique_ptr<GeneratedCheckpoint> checkpoint_;
  std::unique_ptr<verify::RankGroup> group_;
  verify::GroupResult result_;
};

TEST(GeneratedValueTest, FollowsTheStatedRule) {
  const std::string embed = "model.embed_tokens.weight";
  EXPECT_FLOAT_EQ(GeneratedValue(embed, 0), 0.244175836F);
  EXPECT_FLOAT_EQ(GeneratedValue(embed, 1), 0.446954012F);
  EXPECT_FLOAT_EQ(GeneratedValue("model.layers.0.self_attn.q_proj.weight", 2), -0.236951262F);
  EXPECT_FLOAT_EQ(GeneratedValue("model.norm.weight", 2), 1.346682072F);
}

TEST_P(GeneratedTest, PerLayerEmbeddingsSharedKvAndDoubleWideMlp) {
  ASSERT_NO_FATAL_FAILURE(Load(kTestA));
  std::vector<float> ple;
  forward::Probe probe;
  probe.on_rows = [&ple](const char* name, int, std::span<const float> values, int64_t, int64_t) {
    if (std::string(name) == "per_layer_inputs") {
      ple.assign(values.begin(), values.end());
    }
  };
  group_->set_probe(0, &probe);
  ASSERT_NO_FATAL_FAILURE(Run());
  ExpectNear(result_.logit_row(9), {-2.14980, -0.23793, -0.31961, 1.30161, -2.73225, -0.95612, -1.36513, 1.51719},
             3e-5);
  ExpectNear(result_.logit_row(0), {-0.31257, -1.39494, 3.04825, -0.42268}, 3e-5);
  EXPECT_EQ(Choices(), (std::vector<int32_t>{4, 5, 4, 3, 39, 14, 25, 21, 0, 11}));
  EXPECT_NEAR(Sum(), -0.2611, 1e-3);
  EXPECT_NEAR(AbsSum(), 586.2743, 1e-3);
  ExpectNear(LastHidden(), {0.19628, -0.30593, 0.24177, -0.16218}, 3e-5);
  ASSERT_EQ(ple.size(), size_t{10 * 6 * 4});
  ExpectNear(std::span(ple).first(4), {-0.579841, -0.549881, 1.056053, 1.164231}, 3e-6);
  ExpectNear(std::span(ple).last(4), {-0.941480, 0.864524, -1.006602, -0.157319}, 3e-6);
}

TEST_P(GeneratedTest, KeysAreNormedAndRotatedValuesNormed) {
  ASSERT_NO_FATAL_FAILURE(Load(kTestA));
  ASSERT_NO_FATAL_FAILURE(Run());
  // Layer 2 is the second sliding layer, layer 3 the second full one.
  ExpectNear(Cached(kernels::kSlidingPool, 1, 0, 2, 8, false),
             {-1.7366, -1.54346, 0.1341, 0.61476, -1.66029, 1.04161, 0.62437, -2.02352}, 3e-5);
  ExpectNear(Cached(kernels::kSlidingPool, 1, 0, 2, 8, true),
             {-0.7894, 0.53346, 0.78599, -0.57447, -0.52436, 0.09519, 2.34854, 0.58719}, 3e-5);
  ExpectNear(Cached(kernels::kFullPool, 1, 1, 2, 16, false),
             {0.80947, 0.88699, 0.99255, -0.74716, -2.28043, 0.37112, 0.37973, -1.15804, 0.87152, 0.39299, -1.14977,
              0.83011, 0.29664, 0.95229, 0.07573, -0.14319},
             3e-5);
}

TEST_P(GeneratedTest, ExpertsAndValuesFromKeys) {
  ASSERT_NO_FATAL_FAILURE(Load(kTestB));
  ASSERT_NO_FATAL_FAILURE(Run());
  ExpectNear(result_.logit_row(9), {-0.11382, 1.90846, 0.88401, -0.38299, -2.77050, -1.06330, 3.04598, -0.62779}, 3e-5);
  ExpectNear(result_.logit_row(0), {1.52457, -1.37654, 5.87171, -2.60431}, 3e-5);
  EXPECT_EQ(Choices(), (std::vector<int32_t>{2, 5, 17, 3, 8, 8, 8, 21, 0, 11}));
  EXPECT_NEAR(Sum(), 29.9576, 1e-3);
  EXPECT_NEAR(AbsSum(), 590.1136, 1e-3);
  ExpectNear(LastHidden(), {0.61930, -0.19957, 1.10448, -0.41040}, 3e-5);
}

TEST_P(GeneratedTest, AnImageBlockSeesItselfBothWaysInSlidingLayers) {
  ASSERT_NO_FATAL_FAILURE(Load(kTestB));
  std::vector<kernels::KeyRange> sliding;
  for (int32_t p = 0; p < kLength; ++p) {
    const bool image = p >= 3 && p <= 7;
    sliding.push_back({std::max(0, p - 2), image ? 7 : p});
  }
  ASSERT_NO_FATAL_FAILURE(Run(std::move(sliding)));
  ExpectNear(result_.logit_row(9), {-0.05389, 1.81574, 1.25763, -0.59209, -2.68087, -0.94574, 3.23005, -0.85726}, 3e-5);
  ExpectNear(result_.logit_row(3), {-1.26016, -0.70137, 1.00601, 6.23236}, 3e-5);
  EXPECT_NEAR(Sum(), 21.7455, 1e-3);
}

TEST(GeneratedValueTest, RowsThatAreNoWholeBlocksAreRefused) {
  const auto checkpoint = GeneratedCheckpoint::Create(kTestB);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const absl::Status status =
      verify::RankGroup::Create(**checkpoint, {.weights = model::WeightType::kQ4_0, .context = 16}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("layers.0.mlp.down_proj.weight has rows of 20 weights"), absl::string_view::npos)
      << status;
}

TEST_P(GeneratedTest, Gemma3ScalesAttentionAndLeavesValuesUnnormed) {
  ASSERT_NO_FATAL_FAILURE(Load(kGemma3));
  ASSERT_NO_FATAL_FAILURE(Run());
  ExpectNear(result_.logit_row(9), {-2.85309, -0.64286, -1.90251, 2.25307, -0.50571, 1.88920, 1.59355, 1.00940}, 3e-5);
  ExpectNear(result_.logit_row(0), {0.30366, 0.74692, 5.87930, 2.14863}, 3e-5);
  EXPECT_NEAR(Sum(), 22.9641, 1e-3);
  EXPECT_NEAR(AbsSum(), 609.6596, 1e-3);
  EXPECT_EQ(Choices(), (std::vector<int32_t>{2, 5, 17, 37, 19, 19, 31, 21, 0, 16}));
}

INSTANTIATE_TEST_SUITE_P(Kernels, GeneratedTest, testing::Values(verify::Kernels::kRef, verify::Kernels::kCpu),
                         [](const auto& param) { return std::string(verify::KernelsName(param.param)); });

}  // namespace
}  // namespace alphecca::golden

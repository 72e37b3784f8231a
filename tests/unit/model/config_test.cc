#include "model/config.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/published.h"
#include "nlohmann/json.hpp"
#include "test_files.h"

namespace alphecca::model {
namespace {

using ::nlohmann::json;
using ::testing::HasSubstr;

ModelConfig Parse(const std::string& text) {
  const auto config = ConfigFromJson(text);
  EXPECT_TRUE(config.ok()) << config.status() << "\n" << text;
  return config.ok() ? *config : ModelConfig();
}

void ExpectRefused(const json& config, const std::string& message) {
  const auto parsed = ConfigFromJson(config.dump());
  ASSERT_FALSE(parsed.ok()) << message;
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(message));
}

TEST(ConfigTest, BothFormsOfEveryGoldenAreTheSame) {
  int compared = 0;
  for (const std::string& name : SafetensorsCases()) {
    const std::string newer = GoldenDir(name) + "/config.hf5.json";
    const ModelConfig config = Parse(ReadFile(GoldenDir(name) + "/config.json"));
    if (std::filesystem::exists(newer)) {
      EXPECT_EQ(config, Parse(ReadFile(newer))) << name;
      ++compared;
    }
  }
  EXPECT_GE(compared, 10);
}

TEST(ConfigTest, E2B) {
  const ModelConfig config = Parse(PublishedConfigJson(Published::kE2B));
  EXPECT_EQ(config.family, Family::kGemma4);
  EXPECT_EQ(config.hidden, 1536);
  EXPECT_EQ(config.heads, 8);
  EXPECT_EQ(config.vocab, 262144);
  EXPECT_EQ(config.sliding_window, 512);
  EXPECT_EQ(config.context, 131072);
  EXPECT_EQ(config.attention_scale, 1.0F);
  EXPECT_EQ(config.softcap, 30.0F);
  EXPECT_EQ(config.per_layer_width, 256);
  EXPECT_EQ(config.per_layer_vocab, 262144);
  EXPECT_EQ(config.experts, 0);
  EXPECT_FALSE(config.bidirectional_images);
  EXPECT_EQ(config.rope_sliding, (RopeConfig{.theta = 10000.0, .factor = 1.0, .rotating = 128}));
  EXPECT_EQ(config.rope_full, (RopeConfig{.theta = 1000000.0, .factor = 1.0, .rotating = 64}));
  ASSERT_EQ(config.layers.size(), 35U);
  EXPECT_EQ(config.layers[0], (LayerConfig{false, 1, 256, 6144, false, 0}));
  EXPECT_EQ(config.layers[14], (LayerConfig{true, 1, 512, 6144, false, 14}));
  EXPECT_EQ(config.layers[15], (LayerConfig{false, 1, 256, 12288, false, 13}));
  EXPECT_EQ(config.layers[34], (LayerConfig{true, 1, 512, 12288, false, 14}));
  EXPECT_TRUE(config.OwnsKv(14));
  EXPECT_FALSE(config.OwnsKv(15));
}

TEST(ConfigTest, MoeAndDenseModels) {
  const ModelConfig moe = Parse(PublishedConfigJson(Published::k26B));
  EXPECT_EQ(moe.experts, 128);
  EXPECT_EQ(moe.experts_per_token, 8);
  EXPECT_EQ(moe.expert_width, 704);
  EXPECT_TRUE(moe.bidirectional_images);
  EXPECT_EQ(moe.per_layer_width, 0);
  EXPECT_EQ(moe.layers[4], (LayerConfig{false, 8, 256, 2112, false, 4}));
  EXPECT_EQ(moe.layers[5], (LayerConfig{true, 2, 512, 2112, true, 5}));
  const ModelConfig e4b = Parse(PublishedConfigJson(Published::kE4B));
  EXPECT_EQ(e4b.layers[24].kv_source, 22);
  EXPECT_EQ(e4b.layers[29].kv_source, 23);
  EXPECT_EQ(e4b.layers[41].mlp_width, 10240);
  const ModelConfig dense = Parse(PublishedConfigJson(Published::k12B));
  EXPECT_EQ(dense.layers[47], (LayerConfig{true, 1, 512, 15360, true, 47}));
}

TEST(ConfigTest, GoldenWithEverything) {
  const ModelConfig config = Parse(ReadFile(GoldenDir("all-features") + "/config.json"));
  EXPECT_EQ(config.hidden, 64);
  EXPECT_EQ(config.softcap, 20.0F);
  EXPECT_EQ(config.per_layer_width, 32);
  EXPECT_EQ(config.experts, 8);
  ASSERT_EQ(config.layers.size(), 6U);
  EXPECT_EQ(config.layers[2], (LayerConfig{true, 4, 64, 128, true, 2}));
  EXPECT_EQ(config.layers[3], (LayerConfig{false, 8, 32, 256, false, 1}));
  EXPECT_EQ(config.layers[5], (LayerConfig{true, 4, 64, 256, false, 2}));
  EXPECT_EQ(config.rope_full.rotating, 8);
}

TEST(ConfigTest, Gemma3) {
  const ModelConfig config = Parse(ReadFile(GoldenDir("gemma3-270m-shape") + "/config.json"));
  EXPECT_EQ(config.family, Family::kGemma3);
  EXPECT_FLOAT_EQ(config.attention_scale, 0.17677669F);  // 32^-1/2
  EXPECT_EQ(config.softcap, 0.0F);
  EXPECT_EQ(config.rope_full, (RopeConfig{.theta = 1000000.0, .factor = 1.0, .rotating = 16}));
  EXPECT_FALSE(config.layers[4].full_attention);
  EXPECT_TRUE(config.layers[5].full_attention);
}

// As published: fields left to defaults, older RoPE keys, and a last layer that slides.
TEST(ConfigTest, OlderGemma3) {
  const ModelConfig config = Parse(
      R"({"model_type":"gemma3","text_config":{"hidden_size":2560,"intermediate_size":10240,"model_type":"gemma3_text",
          "num_hidden_layers":34,"rope_scaling":{"factor":8.0,"rope_type":"linear"},"sliding_window":1024}})");
  EXPECT_EQ(config.heads, 8);
  EXPECT_EQ(config.vocab, 262208);
  EXPECT_EQ(config.layers[0].kv_heads, 4);
  EXPECT_EQ(config.layers[0].head_dim, 256);
  EXPECT_EQ(config.attention_scale, 1.0F / 16.0F);
  EXPECT_EQ(config.rope_full, (RopeConfig{.theta = 1000000.0, .factor = 8.0, .rotating = 128}));
  EXPECT_EQ(config.rope_sliding, (RopeConfig{.theta = 10000.0, .factor = 1.0, .rotating = 128}));
  EXPECT_FALSE(config.layers[33].full_attention);
  EXPECT_TRUE(config.layers[29].full_attention);
}

TEST(ConfigTest, LayerTypesDefaultToEverySixthAndTheLastIsFull) {
  json config = json::parse(PublishedConfigJson(Published::k31B));
  json& text = config["text_config"];
  text.erase("layer_types");
  EXPECT_EQ(Parse(config.dump()), Parse(PublishedConfigJson(Published::k31B)));
  text["num_hidden_layers"] = 8;
  const ModelConfig short_model = Parse(config.dump());
  EXPECT_TRUE(short_model.layers[5].full_attention);
  EXPECT_FALSE(short_model.layers[6].full_attention);
  EXPECT_TRUE(short_model.layers[7].full_attention);
}

TEST(ConfigTest, TextOnlyExportReadsTheSame) {
  const json config = json::parse(PublishedConfigJson(Published::kE4B));
  EXPECT_EQ(Parse(config["text_config"].dump()), Parse(config.dump()));
}

TEST(ConfigTest, ProportionalRopeTakesItsFactor) {
  json config = json::parse(PublishedConfigJson(Published::k31B));
  json& rope = config["text_config"]["rope_parameters"];
  rope["full_attention"]["factor"] = 4.0;
  rope["sliding_attention"]["rope_type"] = "proportional";
  rope["sliding_attention"]["partial_rotary_factor"] = 0.5;
  const ModelConfig parsed = Parse(config.dump());
  EXPECT_EQ(parsed.rope_full.factor, 4.0);
  EXPECT_EQ(parsed.rope_sliding.rotating, 64);
}

TEST(ConfigTest, BadValuesNameTheKey) {
  const json good = json::parse(PublishedConfigJson(Published::k26B));
  const std::vector<std::tuple<std::string, json, std::string>> cases = {
      {"hidden_size", nullptr, "text_config.hidden_size is missing"},
      {"hidden_size", "64", "text_config.hidden_size is \"64\""},
      {"hidden_size", -1, "hidden_size is -1"},
      {"hidden_size", 0, "hidden_size is 0"},
      {"hidden_size", 1ULL << 40, "hidden_size is 1099511627776"},
      {"hidden_size", 1.5, "hidden_size is 1.5"},
      {"num_hidden_layers", 1000000000, "num_hidden_layers"},
      {"num_hidden_layers", 0, "num_hidden_layers"},
      {"num_hidden_layers", 31, "layer_types"},
      {"layer_types", "full_attention", "layer_types"},
      {"layer_types", json::array({1}), "layer_types"},
      {"num_attention_heads", 0, "num_attention_heads"},
      {"num_attention_heads", 12, "num_key_value_heads"},
      {"num_key_value_heads", 0, "num_key_value_heads"},
      {"head_dim", 255, "head_dim"},
      {"head_dim", 0, "head_dim"},
      {"global_head_dim", 1 << 20, "head_dim"},
      {"intermediate_size", nullptr, "intermediate_size"},
      {"intermediate_size", json::array({1, 2}), "intermediate_size"},
      {"vocab_size", 0, "vocab_size"},
      {"vocab_size", ~uint64_t{0}, "vocab_size"},
      {"sliding_window", 0, "sliding_window"},
      {"max_position_embeddings", 0, "max_position_embeddings"},
      {"rms_norm_eps", 0.0, "rms_norm_eps"},
      {"final_logit_softcapping", -1.0, "final_logit_softcapping"},
      {"num_experts", nullptr, "num_experts"},
      {"num_experts", 0, "num_experts"},
      {"top_k_experts", 129, "top_k_experts"},
      {"moe_intermediate_size", 0, "moe_intermediate_size"},
      {"num_kv_shared_layers", 30, "num_kv_shared_layers"},
      {"num_kv_shared_layers", 26, "num_kv_shared_layers"},
      {"hidden_size_per_layer_input", -5, "hidden_size_per_layer_input"},
      {"hidden_activation", "silu", "hidden_activation"},
      {"attention_bias", true, "attention_bias"},
      {"tie_word_embeddings", false, "tie_word_embeddings"},
      {"attn_logit_softcapping", 50.0, "attn_logit_softcapping"},
      {"use_bidirectional_attention", "all", "use_bidirectional_attention"},
      {"rope_parameters", 5, "rope_parameters"},
      {"rope_parameters", {{"full_attention", {{"rope_type", "yarn"}}}}, "rope_type"},
      {"rope_parameters", {{"full_attention", {{"rope_theta", 0.0}}}}, "rope_parameters.full_attention"},
      {"rope_parameters",
       {{"sliding_attention", {{"rope_type", "linear"}, {"factor", 0.0}}}},
       "rope_parameters.sliding"},
      {"rope_parameters", {{"rope_theta", 5.0}}, "rope_theta"},
      {"per_layer_config", {{"30", json::object()}}, "per_layer_config.30"},
      {"per_layer_config", {{"x", json::object()}}, "per_layer_config.x"},
      {"per_layer_config", {{"5", 1}}, "per_layer_config.5"},
      {"per_layer_config", {{"5", {{"hidden_size", 1}}}}, "per_layer_config.5.hidden_size"},
      {"per_layer_config", {{"5", {{"head_dim", "x"}}}}, "per_layer_config.5.head_dim"},
      {"per_layer_config", {{"5", {{"head_dim", 128}}}}, "head_dim of layer 11"},
  };
  for (const auto& [key, value, message] : cases) {
    json bad = good;
    bad["text_config"][key] = value;
    SCOPED_TRACE(key + " = " + value.dump());
    ExpectRefused(bad, message);
  }
}

TEST(ConfigTest, OtherModelsAndTextsAreRefused) {
  json config = json::parse(PublishedConfigJson(Published::kE2B));
  for (const char* type : {"gemma4_assistant", "llama", ""}) {
    config["model_type"] = type;
    ExpectRefused(config, "model_type");
  }
  config.erase("model_type");
  ExpectRefused(config, "model_type is missing");
  for (const char* text : {"", "{", "[]", "null", "\xff", "{\"model_type\":1e999}"}) {
    EXPECT_FALSE(ConfigFromJson(text).ok()) << text;
  }
  EXPECT_FALSE(ConfigFromJson(std::string(200000, '[')).ok());
  EXPECT_FALSE(ConfigFromJson(std::string(17 << 20, ' ')).ok());
}

TEST(ConfigTest, AnyTruncationIsAnError) {
  const std::string text = PublishedConfigJson(Published::kE2B);
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_FALSE(ConfigFromJson(text.substr(0, length)).ok());
  }
}

}  // namespace
}  // namespace alphecca::model

#include "coordinator/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

namespace alphecca::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

TEST(ClusterConfig, EachModelSaysWhereItDiffersFromTheDefaults) {
  ServeOptions defaults;
  defaults.context = 4096;
  defaults.replicas = 3;
  const auto config = ParseClusterConfig(R"(
models:
  - path: /m/31b
    name: chat
    tp: auto
    ep: 1
    replicas: auto
    on_loss: replan
    context: 32768
    max_sequences: 7
    kv_type: f32
    weights: f32
    resident_tables: true
    activations: f32
    expert_mode: wide
    expert_load: /m/load.json
    hot_experts: 3
  - path: /m/edge.gguf
    tp: 2
)",
                                         defaults);
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->models.size(), 2U);
  EXPECT_TRUE(config->tenant_weights.empty());
  const ServeOptions& chat = config->models.at(0);
  EXPECT_EQ(chat.name, "chat");
  EXPECT_EQ(chat.path, "/m/31b");
  EXPECT_EQ(chat.tp, 0);
  EXPECT_EQ(chat.ep, 1);
  EXPECT_EQ(chat.replicas, 0);
  EXPECT_EQ(chat.on_loss, OnLoss::kReplan);
  EXPECT_EQ(chat.context, 32768);
  EXPECT_EQ(chat.max_sequences, 7);
  EXPECT_EQ(chat.kv_type, "f32");
  EXPECT_EQ(chat.weights, "f32");
  EXPECT_TRUE(chat.resident_tables);
  EXPECT_EQ(chat.activations, "f32");
  EXPECT_EQ(chat.expert_mode, "wide");
  EXPECT_EQ(chat.expert_load, "/m/load.json");
  EXPECT_EQ(chat.hot_experts, 3);
  const ServeOptions& edge = config->models.at(1);
  EXPECT_EQ(edge.name, "");
  EXPECT_FALSE(edge.resident_tables);
  EXPECT_EQ(edge.tp, 2);
  EXPECT_EQ(edge.context, 4096);
  EXPECT_EQ(edge.replicas, 3);
}

TEST(ClusterConfig, TheExampleOfTheDocsIsRead) {
  std::stringstream text;
  text << std::ifstream(ALPHECCA_DOCS "/operations.md").rdbuf();
  const std::string docs = text.str();
  const size_t begin = docs.find("```yaml\nmodels:");
  ASSERT_NE(begin, std::string::npos);
  const auto config = ParseClusterConfig(docs.substr(begin + 8, docs.find("\n```", begin + 8) - begin - 8), {});
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->models.size(), 3U);
  EXPECT_EQ(config->models.at(1).expert_mode, "wide");
  EXPECT_EQ(config->models.at(1).hot_experts, 8);
  EXPECT_TRUE(config->models.at(2).resident_tables);
}

TEST(ClusterConfig, TenantsHaveWeights) {
  const auto config = ParseClusterConfig("tenants:\n  batch:\n    weight: 0.25\n  \"a:b\": {weight: 4}\n", {});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->models.empty());  // flags may name them
  EXPECT_THAT(config->tenant_weights, ElementsAre(Pair("batch", 0.25), Pair("a:b", 4.0)));
}

struct BadFile {
  const char* name;
  const char* yaml;
  const char* says;
};

class BadClusterConfig : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadClusterConfig, IsRefusedWithTheLineAndWhatIsRight) {
  const auto models = ParseClusterConfig(GetParam().yaml, {});
  EXPECT_EQ(models.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(models.status().message()), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadClusterConfig,
    ::testing::Values(BadFile{"Empty", "", "models"}, BadFile{"NoYaml", "models: [", "line"},
                      BadFile{"AList", "- a", "models"}, BadFile{"UnknownTop", "models: []\nmodel: 1", "line 2"},
                      BadFile{"NoModels", "models: []", "at least one"}, BadFile{"ModelIsText", "models: [a]", "path"},
                      BadFile{"NoPath", "models:\n  - name: a", "line 2: a model has no path"},
                      BadFile{"UnknownKey", "models:\n  - path: a\n    ttp: 1", "line 3: unknown key \"ttp\""},
                      BadFile{"TpText", "models:\n  - path: a\n    tp: two", "line 3: tp"},
                      BadFile{"TpNegative", "models:\n  - path: a\n    tp: -1", "line 3: tp"},
                      BadFile{"TpFraction", "models:\n  - path: a\n    tp: 1.5", "line 3: tp"},
                      BadFile{"TpHuge", "models:\n  - path: a\n    tp: 99999999999999", "line 3: tp"},
                      BadFile{"ContextAuto", "models:\n  - path: a\n    context: auto", "line 3: context"},
                      BadFile{"PathList", "models:\n  - path: [a]", "line 2: path"},
                      BadFile{"OnLoss", "models:\n  - path: a\n    on_loss: panic", "wait or replan"},
                      BadFile{"TenantsList", "tenants: [a]", "line 1: tenants"},
                      BadFile{"TenantIsText", "tenants:\n  a: b", "line 2: tenants"},
                      BadFile{"TenantKey", "tenants:\n  a: {wait: 1}", "line 2: tenants"},
                      BadFile{"TenantTwoKeys", "tenants:\n  a: {weight: 1, wait: 1}", "line 2: tenants"},
                      BadFile{"TenantWeightText", "tenants:\n  a:\n    weight: much", "line 3: weight"},
                      BadFile{"TenantsAndNoModels", "models: []\ntenants:\n  a: {weight: 1}", "at least one"},
                      BadFile{"KeyIsList", "models:\n  - path: a\n    ? [x]\n    : 1", "unknown key"}),
    [](const auto& param) { return param.param.name; });

TEST(ClusterConfig, AMissingFileIsNamed) {
  const auto models = ReadClusterConfig("/no/such/cluster.yaml", {});
  EXPECT_EQ(models.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(models.status().message()), HasSubstr("/no/such/cluster.yaml"));
}

}  // namespace
}  // namespace alphecca::coordinator

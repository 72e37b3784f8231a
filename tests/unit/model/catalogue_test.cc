#include "model/catalogue.h"

#include <map>
#include <set>

#include "gtest/gtest.h"
#include "model/published.h"

namespace alphecca::model {
namespace {

ModelConfig Config(Published model) {
  const auto config = ConfigFromJson(PublishedConfigJson(model));
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

// Parameters by kind of tensor.
std::map<TensorKind, int64_t> Parameters(const ModelConfig& config) {
  std::map<TensorKind, int64_t> sums;
  for (const TensorSpec& spec : Catalogue(config)) {
    sums[spec.kind] += spec.elements();
  }
  return sums;
}

int64_t Total(const ModelConfig& config) {
  int64_t sum = 0;
  for (const TensorSpec& spec : Catalogue(config)) {
    sum += spec.elements();
  }
  return sum;
}

// Spec gemma4-models, section 2.
TEST(CatalogueTest, ParameterCountsOfThePublishedModels) {
  EXPECT_EQ(Total(Config(Published::kE2B)), 4'628'569'379);
  EXPECT_EQ(Total(Config(Published::kE4B)), 7'463'013'418);
  EXPECT_EQ(Total(Config(Published::k26B)), 25'233'141'790);
  EXPECT_EQ(Total(Config(Published::k31B)), 30'697'345'340);
  EXPECT_EQ(Total(Config(Published::k12B)), 11'907'350'320);
}

TEST(CatalogueTest, ParameterCountsByPart) {
  auto e2b = Parameters(Config(Published::kE2B));
  EXPECT_EQ(e2b[TensorKind::kEmbedding], 402'653'184);
  EXPECT_EQ(e2b[TensorKind::kPerLayerEmbedding], 2'348'810'240);
  EXPECT_EQ(e2b[TensorKind::kPerLayerModelProj], 13'762'560);
  EXPECT_EQ(e2b[TensorKind::kQ] + e2b[TensorKind::kK] + e2b[TensorKind::kV] + e2b[TensorKind::kO], 278'396'928);
  EXPECT_EQ(e2b[TensorKind::kGate] + e2b[TensorKind::kUp] + e2b[TensorKind::kDown], 1'557'135'360);
  EXPECT_EQ(e2b[TensorKind::kPerLayerGate] + e2b[TensorKind::kPerLayerProj], 27'525'120);
  auto moe = Parameters(Config(Published::k26B));
  EXPECT_EQ(moe[TensorKind::kExpertGateUp] + moe[TensorKind::kExpertDown], 22'837'985'280);
  EXPECT_EQ(moe[TensorKind::kRouter], 10'813'440);
  EXPECT_EQ(moe[TensorKind::kQ] + moe[TensorKind::kK] + moe[TensorKind::kV] + moe[TensorKind::kO], 1'110'179'840);
  EXPECT_EQ(moe[TensorKind::kGate] + moe[TensorKind::kUp] + moe[TensorKind::kDown], 535'265'280);
}

// Spec gemma4-models, section 4.2: the tensors of the files, less rope_freqs of GGUF and the unused k, v and k_norm of
// layers that share KV.
TEST(CatalogueTest, TensorCountsOfThePublishedModels) {
  EXPECT_EQ(Catalogue(Config(Published::kE2B)).size(), 601U - 1 - 3 * 20);
  EXPECT_EQ(Catalogue(Config(Published::kE4B)).size(), 720U - 1 - 3 * 18);
  EXPECT_EQ(Catalogue(Config(Published::k26B)).size(), 658U - 1);
  EXPECT_EQ(Catalogue(Config(Published::k31B)).size(), 833U - 1);
  EXPECT_EQ(Catalogue(Config(Published::k12B)).size(), 667U - 1);
}

TEST(CatalogueTest, NamesAreUniqueInBothForms) {
  std::set<std::string> canonical;
  std::set<std::string> gguf;
  const auto specs = Catalogue(Config(Published::k26B));
  for (const TensorSpec& spec : specs) {
    canonical.insert(CanonicalName(spec.kind, spec.layer));
    gguf.insert(GgufName(spec.kind, spec.layer));
  }
  EXPECT_EQ(canonical.size(), specs.size());
  EXPECT_EQ(gguf.size(), specs.size());
  EXPECT_TRUE(canonical.contains("layers.3.self_attn.q_proj.weight"));
  EXPECT_TRUE(canonical.contains("layers.29.experts.down_proj"));
  EXPECT_FALSE(canonical.contains("layers.29.self_attn.v_proj.weight"));
  EXPECT_TRUE(gguf.contains("blk.3.attn_q.weight"));
  EXPECT_TRUE(gguf.contains("output_norm.weight"));
}

}  // namespace
}  // namespace alphecca::model

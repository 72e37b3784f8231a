#include "model/checkpoint.h"

#include <cstring>
#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf.h"
#include "nlohmann/json.hpp"
#include "test_files.h"

namespace alphecca::model {
namespace {

using ::nlohmann::json;
using ::testing::HasSubstr;

std::unique_ptr<Checkpoint> OpenOrDie(const std::string& path) {
  auto checkpoint = Checkpoint::Open(path);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
}

// Every tensor of the catalogue, its bytes read once.
void ExpectComplete(const Checkpoint& checkpoint) {
  for (const TensorSpec& spec : Catalogue(checkpoint.config())) {
    const auto tensor = checkpoint.Find(spec.kind, spec.layer);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_EQ(tensor->items * tensor->rows * tensor->cols, spec.elements());
    const int64_t bytes = tensor->items * tensor->rows * kernels::RowBytes(tensor->type, tensor->cols);
    unsigned sum = 0;
    for (int64_t i = 0; i < bytes; ++i) {
      sum |= static_cast<unsigned>(tensor->data[i]);
    }
    EXPECT_NE(sum, 0U) << CanonicalName(spec.kind, spec.layer);
  }
}

TEST(CheckpointTest, EveryGoldenOpens) {
  for (const std::string& name : SafetensorsCases()) {
    SCOPED_TRACE(name);
    const auto checkpoint = OpenOrDie(GoldenDir(name));
    ASSERT_NE(checkpoint, nullptr);
    ExpectComplete(*checkpoint);
    EXPECT_EQ(checkpoint->config().name, name);
    EXPECT_EQ(checkpoint->gguf(), nullptr);
    EXPECT_EQ(checkpoint->norm_offset(), name == "gemma3-270m-shape" ? 1.0F : 0.0F);
    EXPECT_EQ(checkpoint->Find(TensorKind::kEmbedding, -1)->type, kernels::DType::kBF16);
  }
}

TEST(CheckpointTest, EmbeddedModelsOpen) {
  for (const char* name : {"tiny-moe", "tiny-dense", "tiny-draft"}) {
    const auto checkpoint = OpenOrDie(std::string(ALPHECCA_MODELS "/") + name);
    ASSERT_NE(checkpoint, nullptr);
    ExpectComplete(*checkpoint);
  }
}

// A GGUF file made from a case has the same configuration, but for what GGUF cannot say.
TEST(CheckpointTest, EveryGgufGoldenOpensWithTheConfigurationOfItsCase) {
  for (const std::string& name : GgufCases()) {
    SCOPED_TRACE(name);
    const auto checkpoint = OpenOrDie(GoldenDir(name) + "/model.gguf");
    ASSERT_NE(checkpoint, nullptr);
    ExpectComplete(*checkpoint);
    EXPECT_NE(checkpoint->gguf(), nullptr);
    EXPECT_EQ(checkpoint->norm_offset(), 0.0F);
    const std::string base = name.substr(5, name.rfind('-') - 5);
    const auto original = OpenOrDie(GoldenDir(base));
    ASSERT_NE(original, nullptr);
    ModelConfig expected = original->config();
    expected.name = checkpoint->config().name;
    expected.bidirectional_images = false;
    EXPECT_EQ(checkpoint->config(), expected);
    EXPECT_NE(checkpoint->Revision(), original->Revision());
    const auto directory = OpenOrDie(GoldenDir(name));
    ASSERT_NE(directory, nullptr);
    EXPECT_EQ(directory->Revision(), checkpoint->Revision());
  }
}

TEST(CheckpointTest, BytesAreThoseOfTheFile) {
  const std::string bytes = ReadFile(GoldenDir("iso-base") + "/model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  const json index = json::parse(bytes.substr(8, header));
  const uint64_t begin = index["model.layers.1.mlp.down_proj.weight"]["data_offsets"][0];
  const auto checkpoint = OpenOrDie(GoldenDir("iso-base"));
  ASSERT_NE(checkpoint, nullptr);
  const auto tensor = checkpoint->Find(TensorKind::kDown, 1);
  ASSERT_TRUE(tensor.ok());
  EXPECT_EQ(tensor->rows, checkpoint->config().hidden);
  EXPECT_EQ(tensor->cols, checkpoint->config().layers[1].mlp_width);
  EXPECT_EQ(std::memcmp(tensor->data, bytes.data() + 8 + header + begin,
                        static_cast<size_t>(tensor->rows * tensor->cols * 2)),
            0);
}

TEST(CheckpointTest, LayersThatShareKvHaveNone) {
  const auto checkpoint = OpenOrDie(GoldenDir("iso-kv-share"));
  ASSERT_NE(checkpoint, nullptr);
  const int last = static_cast<int>(checkpoint->config().layers.size()) - 1;
  EXPECT_TRUE(checkpoint->Has(TensorKind::kQ, last));
  EXPECT_FALSE(checkpoint->Has(TensorKind::kK, last));
  EXPECT_EQ(checkpoint->Find(TensorKind::kV, last).status().code(), absl::StatusCode::kNotFound);
}

// A copy of the golden iso-moe that tests may break: header fields, and files.
class BrokenCheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_ = json::parse(ReadFile(GoldenDir("iso-moe") + "/config.json"));
    const std::string bytes = ReadFile(GoldenDir("iso-moe") + "/model.safetensors");
    uint64_t size = 0;
    std::memcpy(&size, bytes.data(), 8);
    header_ = json::parse(bytes.substr(8, size));
    data_ = bytes.substr(8 + size);
  }
  absl::StatusOr<std::unique_ptr<Checkpoint>> Open() {
    std::string header = header_.dump();
    header.resize((header.size() + 7) / 8 * 8 + misalignment_, ' ');
    WriteFile(dir_.File("config.json"), config_.dump());
    WriteFile(dir_.File("model.safetensors"), Le<uint64_t>(header.size()) + header + data_);
    return Checkpoint::Open(dir_.path());
  }
  void ExpectFails(const std::string& message) {
    const auto checkpoint = Open();
    ASSERT_FALSE(checkpoint.ok()) << message;
    EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(message));
  }
  static constexpr const char* kQ = "model.layers.0.self_attn.q_proj.weight";
  static constexpr const char* kExperts = "model.layers.1.experts.gate_up_proj";

  TempDir dir_;
  json config_;
  json header_;
  std::string data_;
  size_t misalignment_ = 0;
};

TEST_F(BrokenCheckpointTest, UnbrokenItOpens) {
  const auto checkpoint = Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  // Only the JSON's spelling differs from the original's.
  EXPECT_EQ((*checkpoint)->config().experts, 8);
}

TEST_F(BrokenCheckpointTest, MissingTensorsAreNamed) {
  for (const std::string name : {kQ, kExperts, "model.norm.weight", "model.layers.0.layer_scalar"}) {
    const json entry = header_[name];
    header_.erase(name);
    ExpectFails(name.substr(name.find('.') + 1) + " is missing");
    header_[name] = entry;
  }
  header_.erase("model.embed_tokens.weight");
  ExpectFails("embed_tokens.weight is missing");
}

TEST_F(BrokenCheckpointTest, WrongShapesAndTypesAreNamed) {
  const json q = header_[kQ];
  const int64_t rows = q["shape"][0];
  const int64_t cols = q["shape"][1];
  header_[kQ]["shape"] = {rows / 2, cols * 2};
  ExpectFails(std::string("tensor ") + kQ + " has the shape");
  header_[kQ]["shape"] = {rows * cols};
  ExpectFails(std::string("tensor ") + kQ + " has the shape");
  header_[kQ]["shape"] = {1, 1, rows, cols};
  ExpectFails(kQ);
  header_[kQ]["shape"] = {rows, cols};
  header_[kQ]["dtype"] = "I16";
  ExpectFails(std::string(kQ) + " has the dtype I16");
  header_[kQ] = q;
  config_["hidden_size"] = 128;
  ExpectFails("embed_tokens.weight has the shape");
}

TEST_F(BrokenCheckpointTest, ExtraTensorsAreIgnored) {
  header_["model.layers.0.self_attn.extra.weight"] = {{"dtype", "U8"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
  header_["lm_head.weight"] = {{"dtype", "BF16"}, {"shape", {0, 64}}, {"data_offsets", {0, 0}}};
  EXPECT_TRUE(Open().ok());
}

TEST_F(BrokenCheckpointTest, FewerEmbeddingRowsThanTheConfigurationSays) {
  const auto before = Open();
  ASSERT_TRUE(before.ok());
  const int64_t rows = (*before)->config().vocab;
  config_["vocab_size"] = rows + 64;
  const auto checkpoint = Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->config().vocab, rows);
  config_["vocab_size"] = rows - 1;
  ExpectFails("embed_tokens.weight has the shape");
}

TEST_F(BrokenCheckpointTest, MultimodalPrefixIsFound) {
  json renamed;
  for (const auto& [name, entry] : header_.items()) {
    renamed[name.starts_with("model.") ? "model.language_model." + name.substr(6) : name] = entry;
  }
  header_ = renamed;
  EXPECT_TRUE(Open().ok());
}

TEST_F(BrokenCheckpointTest, MisalignedDataIsCopied) {
  const auto before = Open();
  ASSERT_TRUE(before.ok());
  const auto expected = (*before)->Find(TensorKind::kQ, 0);
  ASSERT_TRUE(expected.ok());
  const std::string bytes(reinterpret_cast<const char*>(expected->data), 64);
  misalignment_ = 1;
  const auto checkpoint = Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto tensor = (*checkpoint)->Find(TensorKind::kQ, 0);
  ASSERT_TRUE(tensor.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->data) % 2, 0U);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensor->data), 64), bytes);
}

TEST_F(BrokenCheckpointTest, RevisionFollowsContentNotPlace) {
  const auto first = Open();
  ASSERT_TRUE(first.ok());
  const std::string revision = (*first)->Revision();
  EXPECT_EQ(revision.size(), 32U);
  EXPECT_EQ((*Checkpoint::Open(dir_.path() + "/."))->Revision(), revision);
  config_["dtype"] = "float32";  // says nothing about the computation
  EXPECT_EQ((*Open())->Revision(), revision);
  config_["final_logit_softcapping"] = 12.5;
  EXPECT_NE((*Open())->Revision(), revision);
  config_["final_logit_softcapping"] =
      json::parse(ReadFile(GoldenDir("iso-moe") + "/config.json"))["final_logit_softcapping"];
  EXPECT_EQ((*Open())->Revision(), revision);
  const uint64_t norm = header_["model.norm.weight"]["data_offsets"][0];
  data_[norm] = static_cast<char>(data_[norm] ^ 1);
  EXPECT_NE((*Open())->Revision(), revision);
}

TEST(CheckpointTest, BadPathsSayWhatIsWanted) {
  EXPECT_EQ(Checkpoint::Open("/nonexistent/model").status().code(), absl::StatusCode::kNotFound);
  TempDir dir;
  EXPECT_THAT(std::string(Checkpoint::Open(dir.path()).status().message()), HasSubstr("neither config.json"));
  WriteFile(dir.File("config.json"), "{}");
  EXPECT_THAT(std::string(Checkpoint::Open(dir.path()).status().message()),
              HasSubstr("config.json: model_type is missing"));
  WriteFile(dir.File("x.gguf"), "not one");
  EXPECT_THAT(std::string(Checkpoint::Open(dir.File("x.gguf")).status().message()), HasSubstr("not a GGUF file"));
}

TEST(CheckpointTest, NewerConfigurationAloneIsEnough) {
  TempDir dir;
  std::filesystem::copy_file(GoldenDir("iso-base") + "/config.hf5.json", dir.File("config.hf5.json"));
  std::filesystem::copy_file(GoldenDir("iso-base") + "/model.safetensors", dir.File("model.safetensors"));
  const auto checkpoint = OpenOrDie(dir.path());
  ASSERT_NE(checkpoint, nullptr);
  EXPECT_EQ(checkpoint->Revision(), OpenOrDie(GoldenDir("iso-base"))->Revision());
}

}  // namespace
}  // namespace alphecca::model

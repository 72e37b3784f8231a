// Converted checkpoints hold what the source gives when it is converted while loading.
#include "model/convert.h"

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/host/host_matrix.h"
#include "kernels/quant/quant.h"
#include "model/gguf.h"
#include "model/shard_plan.h"
#include "test_files.h"

namespace alphecca::model {
namespace {

namespace fs = std::filesystem;
using kernels::DType;
using kernels::HostMatrix;
using kernels::HostTensor;
using testing::HasSubstr;

std::unique_ptr<Checkpoint> Open(const std::string& path) {
  auto checkpoint = Checkpoint::Open(path);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
}

std::unique_ptr<HostMatrix> Pack(const HostTensor& t, DType type) {
  const std::vector<kernels::PackSource> sources = {{t, {0, t.items}, {0, t.rows}, {0, t.cols}}};
  auto matrix = kernels::PackHost(sources, type);
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  return *std::move(matrix);
}

std::vector<float> Vector(const Checkpoint& checkpoint, const TensorSpec& spec) {
  const HostTensor t = *checkpoint.Find(spec.kind, spec.layer);
  std::vector<float> values(static_cast<size_t>(t.cols));
  kernels::DecodeRow(t.type, t.data, {0, t.cols}, 1.0F, values.data());
  for (float& value : values) {
    value += checkpoint.norm_offset();
  }
  return values;
}

void ExpectSame(const Checkpoint& source, const Checkpoint& written, WeightType weights) {
  for (const TensorSpec& spec : TensorsOf(source)) {
    const std::string name = CanonicalName(spec.kind, spec.layer);
    if (IsVector(spec.kind)) {
      EXPECT_EQ(Vector(written, spec), Vector(source, spec)) << name;
      continue;
    }
    const HostTensor from = *source.Find(spec.kind, spec.layer);
    const HostTensor to = *written.Find(spec.kind, spec.layer);
    const DType held = *HeldType(spec.kind, from.type, weights);
    ASSERT_EQ(*HeldType(spec.kind, to.type, WeightType::kAsFile), held) << name;
    const auto want = Pack(from, held);
    const auto got = Pack(to, held);
    ASSERT_EQ(got->bytes, want->bytes) << name;
    EXPECT_EQ(got->scales, want->scales) << name;
    const auto bytes = static_cast<size_t>(want->items * want->rows * want->row_bytes);
    EXPECT_EQ(std::memcmp(got->memory.data(), want->memory.data(), bytes), 0) << name;
  }
}

ConvertOptions To(const std::string& out, WeightType weights) {
  return {.weights = weights, .out = out, .force = false, .threads = 2, .progress = nullptr};
}

class ConvertTest : public testing::TestWithParam<std::string> {
 protected:
  TempDir dir_;
};

TEST_P(ConvertTest, GgufPacksIntoTheSameMatrices) {
  const auto source = Open(GoldenDir(GetParam()));
  for (const WeightType weights : {WeightType::kBF16, WeightType::kQ4_0}) {
    const std::string out = dir_.File(std::string(WeightTypeName(weights)) + ".gguf");
    const absl::Status status = ConvertToGguf(*source, {}, To(out, weights));
    ASSERT_TRUE(status.ok()) << status;
    const auto written = Open(out);
    ASSERT_NE(written, nullptr);
    ModelConfig config = written->config();
    config.name = source->config().name;
    EXPECT_EQ(config, source->config());
    ExpectSame(*source, *written, weights);
  }
}

TEST_P(ConvertTest, SafetensorsPackIntoTheSameMatrices) {
  const auto source = Open(GoldenDir(GetParam()));
  const std::string out = dir_.File("sfp8");
  const absl::Status status = ConvertToSafetensors(*source, To(out, WeightType::kSFP8));
  ASSERT_TRUE(status.ok()) << status;
  const auto written = Open(out);
  ASSERT_NE(written, nullptr);
  ModelConfig config = written->config();
  config.name = source->config().name;
  EXPECT_EQ(config, source->config());
  ExpectSame(*source, *written, WeightType::kSFP8);
  EXPECT_TRUE(MakeShardPlan(*written, {2, 1}).ok());
}

INSTANTIATE_TEST_SUITE_P(Cases, ConvertTest,
                         testing::Values("dense-31b-shape", "moe-26b-shape", "edge-e2b-shape", "edge-e4b-shape",
                                         "gemma3-270m-shape", "all-features"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class ConvertFilesTest : public testing::Test {
 protected:
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_.path())) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  TempDir dir_;
  std::unique_ptr<Checkpoint> source_ = Open(GoldenDir("iso-base"));
};

TEST_F(ConvertFilesTest, GgufGoesOnFromGgufWithItsMetadata) {
  GgufMetadata extra;
  extra.Strings("tokenizer.ggml.tokens", {"a", "b"});
  ASSERT_TRUE(ConvertToGguf(*source_, extra, To(dir_.File("a.gguf"), WeightType::kBF16)).ok());
  const auto middle = Open(dir_.File("a.gguf"));
  const absl::Status status = ConvertToGguf(*middle, {}, To(dir_.File("b.gguf"), WeightType::kQ4_0));
  ASSERT_TRUE(status.ok()) << status;
  const auto written = Open(dir_.File("b.gguf"));
  ExpectSame(*source_, *written, WeightType::kQ4_0);
  EXPECT_EQ(*written->gguf()->Strings("tokenizer.ggml.tokens"), (std::vector<std::string_view>{"a", "b"}));
  EXPECT_EQ(*written->gguf()->Int("general.file_type"), 2);
}

TEST_F(ConvertFilesTest, NothingIsReplacedWithoutForce) {
  WriteFile(dir_.File("a.gguf"), "precious");
  ConvertOptions options = To(dir_.File("a.gguf"), WeightType::kQ4_0);
  EXPECT_EQ(ConvertToGguf(*source_, {}, options).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReadFile(dir_.File("a.gguf")), "precious");
  options.force = true;
  EXPECT_TRUE(ConvertToGguf(*source_, {}, options).ok());
  ExpectSame(*source_, *Open(options.out), WeightType::kQ4_0);

  fs::create_directory(dir_.File("d"));
  options = To(dir_.File("d"), WeightType::kSFP8);
  EXPECT_EQ(ConvertToSafetensors(*source_, options).code(), absl::StatusCode::kAlreadyExists);
  options.force = true;
  WriteFile(dir_.File("d/thesis.txt"), "precious");
  const absl::Status refused = ConvertToSafetensors(*source_, options);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("'thesis.txt'"));
  EXPECT_EQ(ReadFile(dir_.File("d/thesis.txt")), "precious");
  fs::remove(dir_.File("d/thesis.txt"));
  EXPECT_TRUE(ConvertToSafetensors(*source_, options).ok());
  EXPECT_TRUE(ConvertToSafetensors(*source_, options).ok()) << "over its own result";
  EXPECT_EQ(Names(), (std::vector<std::string>{"a.gguf", "d"})) << "nothing partial stays";
}

TEST_F(ConvertFilesTest, WhatCannotBeConvertedLeavesNothingBehind) {
  const auto q8 = Open(GoldenDir("gguf/dense-31b-shape-q8_0"));
  const absl::Status twice = ConvertToGguf(*q8, {}, To(dir_.File("a.gguf"), WeightType::kQ4_0));
  EXPECT_EQ(twice.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(twice.message()), HasSubstr("embed_tokens.weight: the file has it as Q8_0"));
  EXPECT_THAT(std::string(ConvertToSafetensors(*q8, To(dir_.File("d"), WeightType::kSFP8)).message()),
              HasSubstr("config.json"));
  EXPECT_THAT(std::string(ConvertToGguf(*source_, {}, To(dir_.File("a"), WeightType::kSFP8)).message()),
              HasSubstr("no SFP8 type"));
  EXPECT_THAT(std::string(ConvertToGguf(*source_, {}, To(dir_.path(), WeightType::kBF16)).message()),
              HasSubstr("is a directory"));
  ConvertOptions onto = To(q8->path(), WeightType::kQ4_0);
  onto.force = true;
  EXPECT_THAT(std::string(ConvertToGguf(*q8, {}, onto).message()), HasSubstr("is the checkpoint that is read"));
  EXPECT_FALSE(ConvertToGguf(*source_, {}, To(dir_.File("none/a.gguf"), WeightType::kBF16)).ok());
  EXPECT_TRUE(Names().empty());
}

TEST_F(ConvertFilesTest, ReadersRefuseSfp8WithoutSoundScales) {
  const std::string out = dir_.File("d");
  ASSERT_TRUE(ConvertToSafetensors(*source_, To(out, WeightType::kSFP8)).ok());
  const std::string file = out + "/model.safetensors";
  const std::string bytes = ReadFile(file);
  const auto message = [&](const std::string& changed) {
    WriteFile(file, changed);
    return std::string(Checkpoint::Open(out).status().message());
  };
  const std::string name = "model.layers.0.mlp.down_proj.weight.sfp8_scale";
  std::string changed = bytes;
  changed.replace(changed.find(name), name.size(), "model.layers.0.mlp.down_proj.weight.sfp8_other");
  EXPECT_THAT(message(changed), HasSubstr("model.layers.0.mlp.down_proj.weight has the dtype U8"));
  changed = bytes;
  const size_t entry = changed.find(name);
  changed.replace(changed.find("\"F32\"", entry), 5, "\"I32\"");
  EXPECT_THAT(message(changed), HasSubstr("a factor for each row of model.layers.0.mlp.down_proj.weight"));
  changed = bytes;
  const size_t data = 8 + static_cast<size_t>(bytes[0] & 0xFF) + 256 * static_cast<size_t>(bytes[1] & 0xFF);
  std::memset(changed.data() + data, 0, sizeof(float));  // the scales come first
  EXPECT_THAT(message(changed), HasSubstr("holds 0 at 0; a positive number is expected"));
  EXPECT_EQ(message(bytes), "");
}

}  // namespace
}  // namespace alphecca::model

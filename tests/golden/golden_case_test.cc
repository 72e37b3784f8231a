// Reading golden cases: what is there, and what is said of files that are not as they should be.
#include "worker/verify/golden_case.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace alphecca::verify {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class GoldenCaseTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::path(testing::TempDir()) / "alphecca_golden_case";
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text) const { std::ofstream(directory_ / name) << text; }

  absl::Status StatusOf(const std::string& golden_json) const {
    Write("golden.json", golden_json);
    return ReadGoldenCase(directory_.string()).status();
  }

  fs::path directory_;
};

TEST_F(GoldenCaseTest, ReadsPromptsShortestFirst) {
  const auto golden = ReadGoldenCase(ALPHECCA_TEST_DATA "/goldens/moe-26b-shape/");
  ASSERT_TRUE(golden.ok()) << golden.status();
  EXPECT_EQ(golden->name, "moe-26b-shape");
  EXPECT_FALSE(golden->gguf);
  ASSERT_EQ(golden->prompts.size(), size_t{2});
  EXPECT_EQ(golden->prompts[0].name, "short");
  EXPECT_EQ(golden->prompts[0].input_ids.size(), size_t{12});
  EXPECT_EQ(golden->prompts[1].greedy_ids.size(), size_t{32});
  EXPECT_EQ(golden->prompts[1].margins.size(), size_t{32});
  EXPECT_NEAR(golden->prompts[0].bf16->max_abs, 0.8011, 1e-4);
  EXPECT_EQ(golden->prompts[0].Find("moe_out")->shape, (std::vector<int64_t>{4, 12, 64}));
  EXPECT_EQ(golden->prompts[1].Find("moe_out"), nullptr);
}

TEST_F(GoldenCaseTest, ReadsThePeerOfGgufCases) {
  const auto golden = ReadGoldenCase(ALPHECCA_TEST_DATA "/goldens/gguf/moe-26b-shape-q4_0");
  ASSERT_TRUE(golden.ok()) << golden.status();
  EXPECT_TRUE(golden->gguf);
  EXPECT_THAT(golden->checkpoint, testing::EndsWith("model.gguf"));
  EXPECT_NEAR(golden->peer->rel_rms, 0.01103, 1e-5);
}

TEST_F(GoldenCaseTest, ReadsContinuationsOfTrainedModels) {
  const auto golden = ReadGoldenCase(ALPHECCA_MODELS "/tiny-moe");
  ASSERT_TRUE(golden.ok()) << golden.status();
  EXPECT_EQ(golden->name, "tiny-moe");
  ASSERT_FALSE(golden->prompts.empty());
  EXPECT_EQ(golden->prompts[0].Find("logits_last"), nullptr);
  EXPECT_EQ(golden->prompts[0].greedy_ids.size(), golden->prompts[0].margins.size());
}

TEST_F(GoldenCaseTest, NamesWhatIsWrong) {
  EXPECT_EQ(ReadGoldenCase(directory_.string()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(StatusOf("[1, 2").message()), HasSubstr("not a JSON object"));
  EXPECT_THAT(std::string(StatusOf("{}").message()), HasSubstr("names a prompt"));
  EXPECT_THAT(std::string(StatusOf(R"({"greedy": [{"input_ids": [1, -2], "greedy_ids": [1]}]})").message()),
              HasSubstr("-2 is not a token id"));
  EXPECT_THAT(std::string(StatusOf(R"({"greedy": [{"input_ids": "no", "greedy_ids": [1]}]})").message()),
              HasSubstr("input_ids: not a list"));
  EXPECT_THAT(std::string(StatusOf(R"({"greedy": [{"input_ids": [], "greedy_ids": [1]}]})").message()),
              HasSubstr("0 input ids"));
  EXPECT_THAT(std::string(StatusOf(R"({"greedy": 3})").message()), HasSubstr("not a list"));
  EXPECT_FALSE(StatusOf(R"({"prompts": {"short": {}}})").ok());
}

TEST_F(GoldenCaseTest, RefusesTensorsOfAnotherKind) {
  // Ids as I64, but logits of one dimension where rows are wanted.
  const std::string header = R"({"p.input_ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                             R"("p.greedy_ids":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},)"
                             R"("p.greedy_logits":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}})";
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) {
    file[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  }
  Write("golden.safetensors", file + header + std::string(24, '\0'));
  EXPECT_THAT(std::string(StatusOf(R"({"prompts": {"p": {}}})").message()), HasSubstr("p.greedy_logits"));
  EXPECT_THAT(std::string(StatusOf(R"({"prompts": {"q": {}}})").message()), HasSubstr("q.input_ids is missing"));
}

}  // namespace
}  // namespace alphecca::verify

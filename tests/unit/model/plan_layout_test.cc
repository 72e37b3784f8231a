// Files laid out for a plan: what they say of themselves, and which of them readers refuse.
#include "model/plan_layout.h"

#include <memory>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/convert.h"
#include "model/gguf.h"
#include "test_files.h"
#include "tests/fuzz/touch.h"

namespace alphecca::model {
namespace {

using testing::HasSubstr;

std::string MessageOf(const absl::Status& status) {
  return std::string(status.message());
}

TEST(LayoutTextTest, SaysThePlan) {
  const PlanLayout layout = {.tp = 8, .ep = 4, .column_unit = 256, .vocab = 262144};
  EXPECT_EQ(LayoutText(layout), "tp=8,ep=4,columns=256,vocab=262144");
  const auto read = ParseLayout(LayoutText(layout));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(LayoutText(*read), LayoutText(layout));
}

TEST(LayoutTextTest, RefusesOtherTexts) {
  for (const char* text :
       {"", "tp=2", "tp=2,ep=1,columns=32", "tp=2,ep=1,columns=32,vocab=9,", "tp=0,ep=1,columns=32,vocab=9",
        "tp=-2,ep=1,columns=32,vocab=9", "tp=2,ep=1,columns=32,vocab=99999999999999999999",
        "tp=2000000000,ep=1,columns=32,vocab=9", "ep=1,tp=2,columns=32,vocab=9", "tp=2,ep=1,columns=32,vocab="}) {
    EXPECT_THAT(MessageOf(ParseLayout(text).status()), HasSubstr("alphecca.plan is '")) << text;
  }
}

class PlanFileTest : public testing::Test {
 protected:
  PlanFileTest() {
    auto source = Checkpoint::Open(GoldenDir("moe-26b-shape"));
    EXPECT_TRUE(source.ok()) << source.status();
    const ConvertOptions options = {.weights = WeightType::kBF16, .tp = 2, .ep = 2, .out = file_};
    const absl::Status status = ConvertToGguf(**source, {}, options);
    EXPECT_TRUE(status.ok()) << status;
    bytes_ = ReadFile(file_);
  }

  // What opening says of the file after `from` in it became `to`, of the same length.
  std::string Changed(const std::string& from, const std::string& to) {
    std::string changed = bytes_;
    EXPECT_EQ(from.size(), to.size());
    EXPECT_NE(changed.find(from), std::string::npos);
    changed.replace(changed.find(from), from.size(), to);
    WriteFile(file_, changed);
    return MessageOf(Checkpoint::Open(file_).status());
  }

  TempDir dir_;
  std::string file_ = dir_.File("a.gguf");
  std::string bytes_;
};

TEST_F(PlanFileTest, ServesItsPlanAndNoOther) {
  const auto written = Checkpoint::Open(file_);
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_TRUE(MakeShardPlan(**written, {2, 2}).ok());
  EXPECT_TRUE(MakeShardPlan(**written, {2, 2}, WeightType::kQ4_0).ok());
  for (const auto& [tp, ep] : {std::pair(1, 1), std::pair(2, 1), std::pair(4, 4)}) {
    const absl::Status status = MakeShardPlan(**written, {tp, ep}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(MessageOf(status), HasSubstr("is laid out for tp 2, ep 2, fused, not for tp " + std::to_string(tp) +
                                             ", ep " + std::to_string(ep)));
  }
  for (const Sharding& other :
       {Sharding{.ep = 2, .mode = ExpertMode::kWide}, Sharding{.tp = 2, .ep = 2, .replicas = {{{1}, {0}}}}}) {
    const absl::Status status = MakeShardPlan(**written, other).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(MessageOf(status), HasSubstr(other.replicas.empty() ? "ep 2, wide" : "fused, with copies of experts"));
  }
  // Scales of SFP8 are of whole rows, which the file has not together.
  EXPECT_THAT(MessageOf(MakeShardPlan(**written, {2, 2}, WeightType::kSFP8).status()),
              HasSubstr("--weights sfp8 --plan"));
}

TEST_F(PlanFileTest, AWholeTensorThatLiesInPartsIsRefused) {
  const auto written = Checkpoint::Open(file_);
  ASSERT_TRUE(written.ok()) << written.status();
  const absl::Status status = (*written)->Find(TensorKind::kDown, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(MessageOf(status), HasSubstr("layers.0.mlp.down_proj.weight lies in parts for tp 2, ep 2"));
  EXPECT_TRUE((*written)->Find(TensorKind::kRouter, 0).ok()) << "all ranks hold it whole";
  EXPECT_EQ(*(*written)->TypeOf(TensorKind::kDown, 0), kernels::DType::kBF16);
  EXPECT_EQ((*written)->Find(TensorKind::kPerLayerEmbedding, -1).status().code(), absl::StatusCode::kNotFound);
  TensorSlice other = ShardSlices((*written)->config(), *(*written)->layout(), 0)[0];
  other.rows.end -= 1;
  EXPECT_EQ((*written)->Cut(other).status().code(), absl::StatusCode::kFailedPrecondition);
  // convert reads whole tensors, or those of the same plan; then the plan is written once.
  EXPECT_FALSE(ConvertToGguf(**written, {}, {.weights = WeightType::kQ4_0, .out = dir_.File("b.gguf")}).ok());
  const absl::Status again =
      ConvertToGguf(**written, {}, {.weights = WeightType::kQ4_0, .tp = 2, .ep = 2, .out = dir_.File("b.gguf")});
  EXPECT_TRUE(again.ok()) << again;
}

TEST_F(PlanFileTest, PartsOfARankLieTogether) {
  const auto written = Checkpoint::Open(file_);
  ASSERT_TRUE(written.ok()) << written.status();
  const ModelConfig& config = (*written)->config();
  const std::vector<PlanPart> parts = PartsOf(config, *(*written)->layout());
  const std::vector<GgufTensor>& tensors = (*written)->gguf()->tensors();
  ASSERT_LE(parts.size(), tensors.size());
  int section = -1;
  int split = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_EQ(tensors[i].name, GgufName(parts[i].slice.kind, parts[i].slice.layer) + PartSuffix(parts[i]));
    EXPECT_LE(tensors[i].name.size(), 63U) << "what other readers of the format take";
    EXPECT_GE(parts[i].section, section);
    section = parts[i].section;
    split += parts[i].whole ? 0 : 1;
  }
  EXPECT_EQ(section, 1);
  EXPECT_GT(split, 20);
}

TEST_F(PlanFileTest, HostileFilesAreRefused) {
  EXPECT_EQ(Changed("tp=2,ep=2", "tp=2,ep=2"), "");
  EXPECT_THAT(Changed("tp=2,ep=2", "tp=2,ep=x"), HasSubstr("alphecca.plan is 'tp=2,ep=x"));
  EXPECT_THAT(Changed("tp=2,ep=2", "tp=4,ep=4"), HasSubstr("is missing; the configuration and alphecca.plan want"));
  EXPECT_THAT(Changed("tp=2,ep=2", "tp=3,ep=2"), HasSubstr("the smaller must divide the larger"));
  EXPECT_THAT(Changed("columns=32", "columns=96"), HasSubstr("is missing"));
  const size_t vocab = bytes_.find("vocab=");
  EXPECT_THAT(Changed(bytes_.substr(vocab, 8), "vocab=99"), HasSubstr("tensor token_embd.weight[0:1,0:"));
  EXPECT_THAT(Changed(bytes_.substr(vocab, 8), "vocab=-1"), HasSubstr("alphecca.plan is 'tp=2,ep=2"));
  const std::string name = "blk.0.ffn_down.weight[";
  EXPECT_THAT(Changed(name, "blk.0.ffn_down.weight("), HasSubstr("tensor blk.0.ffn_down.weight[0:1,"));
  // The shape in the file is not the slice's.
  std::string changed = bytes_;
  char& columns = changed[bytes_.find(']', bytes_.find(name)) + 1 + sizeof(uint32_t)];
  ASSERT_EQ(columns, 64);
  columns = 32;
  WriteFile(file_, changed);
  EXPECT_THAT(MessageOf(Checkpoint::Open(file_).status()), HasSubstr("the configuration wants"));
}

TEST_F(PlanFileTest, ATruncatedFileIsRefused) {
  for (const size_t size : {bytes_.size() - 64, bytes_.size() / 2, size_t{1000}}) {
    WriteFile(file_, bytes_.substr(0, size));
    EXPECT_FALSE(Checkpoint::Open(file_).ok()) << size;
  }
}

// Every head that readers accept names bytes of the file, whatever is wrong with it.
TEST_F(PlanFileTest, DamagedHeadsStayInsideTheFile) {
  std::mt19937 random(7);
  const size_t head = bytes_.find("tp=2") + 8000;  // up to the middle of the tensors' descriptions
  int accepted = 0;
  for (int round = 0; round < 200; ++round) {
    std::string damaged = bytes_;
    damaged[random() % head] ^= static_cast<char>(1 << random() % 8);
    auto file = GgufFile::FromBytes(damaged);
    if (file.ok()) {
      const auto checkpoint = Checkpoint::FromGguf(*std::move(file));
      if (checkpoint.ok()) {
        ++accepted;
        fuzz::TouchCheckpoint(**checkpoint);
      }
    }
  }
  EXPECT_GT(accepted, 0) << "all damage was seen: nothing was touched";
}

}  // namespace
}  // namespace alphecca::model

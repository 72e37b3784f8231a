#include "model/gguf.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test_files.h"

namespace alphecca::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

GgufBuilder Small() {
  GgufBuilder builder;
  builder.U32("a.count", 7).F32("a.rate", 0.5F).Bool("a.flag", true).String("a.name", "abc");
  builder.Strings("a.words", {"x", "", "yz"}).U32s("a.numbers", {3, 1, 2});
  builder.Tensor("one.weight", {2, 3}, 0, std::string(24, '\1'));
  builder.Tensor("two.weight", {32}, 8, std::string(34, '\2'));
  return builder;
}

void ExpectRefused(const std::string& bytes, const std::string& message) {
  const auto file = GgufFile::FromBytes(bytes);
  ASSERT_FALSE(file.ok()) << message;
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(message));
}

TEST(GgufTest, ReadsValuesAndTensors) {
  const auto file = GgufFile::FromBytes(Small().bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  const GgufFile& gguf = **file;
  EXPECT_EQ(*gguf.Int("a.count"), 7);
  EXPECT_EQ(*gguf.Float("a.rate"), 0.5);
  EXPECT_EQ(*gguf.Float("a.count"), 7.0);
  EXPECT_TRUE(*gguf.Bool("a.flag"));
  EXPECT_EQ(*gguf.String("a.name"), "abc");
  EXPECT_THAT(*gguf.Strings("a.words"), ElementsAre("x", "", "yz"));
  EXPECT_THAT(*gguf.Ints("a.numbers"), ElementsAre(3, 1, 2));
  EXPECT_THAT(*gguf.Floats("a.numbers"), ElementsAre(3.0, 1.0, 2.0));
  EXPECT_EQ(gguf.keys().front(), "a.count");
  ASSERT_EQ(gguf.tensors().size(), 2U);
  const GgufTensor* one = gguf.FindTensor("one.weight");
  ASSERT_NE(one, nullptr);
  EXPECT_EQ(one->type, kernels::DType::kF32);
  EXPECT_THAT(one->size, ElementsAre(2, 3, 1, 1));
  EXPECT_EQ(one->data.size(), 24U);
  EXPECT_EQ(one->data[0], std::byte{1});
  const GgufTensor* two = gguf.FindTensor("two.weight");
  ASSERT_NE(two, nullptr);
  EXPECT_EQ(two->data.size(), 34U);
  EXPECT_EQ(two->data[33], std::byte{2});
  EXPECT_EQ(gguf.FindTensor("three.weight"), nullptr);
}

TEST(GgufTest, VersionTwoReadsTheSame) {
  GgufBuilder builder = Small();
  builder.version = 2;
  EXPECT_TRUE(GgufFile::FromBytes(builder.bytes()).ok());
}

TEST(GgufTest, ReadsEveryIntegerWidth) {
  GgufBuilder builder;
  builder.Raw("u8", 0, Le<uint8_t>(200)).Raw("i8", 1, Le<int8_t>(-2)).Raw("u16", 2, Le<uint16_t>(60000));
  builder.Raw("i16", 3, Le<int16_t>(-300)).Raw("i32", 5, Le<int32_t>(-70000)).Raw("u64", 10, Le<uint64_t>(1ULL << 40));
  builder.Raw("i64", 11, Le<int64_t>(-(1LL << 40))).Raw("big", 10, Le<uint64_t>(1ULL << 63)).Raw("f64", 12, Le(0.25));
  const auto file = GgufFile::FromBytes(builder.bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*(*file)->Int("u8"), 200);
  EXPECT_EQ(*(*file)->Int("i8"), -2);
  EXPECT_EQ(*(*file)->Int("u16"), 60000);
  EXPECT_EQ(*(*file)->Int("i16"), -300);
  EXPECT_EQ(*(*file)->Int("i32"), -70000);
  EXPECT_EQ(*(*file)->Int("u64"), 1LL << 40);
  EXPECT_EQ(*(*file)->Int("i64"), -(1LL << 40));
  EXPECT_FALSE((*file)->Int("big").ok());
  EXPECT_EQ(*(*file)->Float("f64"), 0.25);
  EXPECT_FALSE((*file)->Int("f64").ok());
}

TEST(GgufTest, WrongTypeAndAbsentKeyNameTheKey) {
  const auto file = GgufFile::FromBytes(Small().bytes());
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Int("b").status().code(), absl::StatusCode::kNotFound);
  for (const absl::Status& status :
       {(*file)->Int("a.words").status(), (*file)->Ints("a.words").status(), (*file)->Floats("a.words").status(),
        (*file)->Strings("a.numbers").status(), (*file)->String("a.words").status(), (*file)->Bool("a.words").status(),
        (*file)->Float("a.words").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ((*file)->Int("a.flag").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string((*file)->Array("a.name").status().message()), HasSubstr("a.name"));
}

TEST(GgufTest, AnyTruncationIsAnError) {
  const std::string bytes = Small().bytes();
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(GgufFile::FromBytes(std::string_view(bytes).substr(0, length)).ok()) << length;
  }
}

TEST(GgufTest, AnyChangedByteOfTheHeaderIsSurvived) {
  const GgufBuilder builder = Small();
  const std::string bytes = builder.bytes();
  for (size_t i = 0; i < builder.header().size(); ++i) {
    for (const int change : {0x01, 0x80, 0xff}) {
      std::string broken = bytes;
      broken[i] = static_cast<char>(broken[i] ^ change);
      const auto file = GgufFile::FromBytes(broken);
      if (file.ok()) {  // whatever was accepted must be readable
        for (const std::string_view key : (*file)->keys()) {
          (*file)->Strings(key).status().IgnoreError();
          (*file)->Ints(key).status().IgnoreError();
        }
        unsigned sum = 0;
        for (const GgufTensor& tensor : (*file)->tensors()) {
          for (const std::byte byte : tensor.data) {
            sum += static_cast<unsigned>(byte);
          }
        }
        EXPECT_LE(sum, 256U * bytes.size());
      }
    }
  }
}

TEST(GgufTest, HugeCountsAreRefusedBeforeAllocation) {
  GgufBuilder builder = Small();
  builder.extra_tensors = 1ULL << 60;
  ExpectRefused(builder.bytes(), "tensors, more than");
  builder.extra_tensors = 0;
  builder.extra_values = ~uint64_t{0} - 100;
  ExpectRefused(builder.bytes(), "metadata values, more than");
  ExpectRefused(GgufBuilder().Raw("k", 9, Le<uint32_t>(4) + Le<uint64_t>(1ULL << 62)).bytes(), "array 'k'");
  ExpectRefused(GgufBuilder().Raw("k", 9, Le<uint32_t>(8) + Le<uint64_t>(1ULL << 61)).bytes(), "array 'k'");
  ExpectRefused(GgufBuilder().Raw("k", 8, Le<uint64_t>(~uint64_t{0})).bytes(), "'k'");
}

TEST(GgufTest, NestedArraysAreSkippedToALimit) {
  std::string payload = Le<uint32_t>(0) + Le<uint64_t>(1) + "x";
  for (int depth = 0; depth < 4; ++depth) {
    payload = Le<uint32_t>(9) + Le<uint64_t>(1) + payload;
  }
  EXPECT_TRUE(GgufFile::FromBytes(GgufBuilder().Raw("k", 9, payload).U32("after", 1).bytes()).ok());
  for (int depth = 0; depth < 100; ++depth) {
    payload = Le<uint32_t>(9) + Le<uint64_t>(1) + payload;
  }
  ExpectRefused(GgufBuilder().Raw("k", 9, payload).bytes(), "nests more than");
}

TEST(GgufTest, LyingTensorsAreNamed) {
  const std::string data(64, '\0');
  ExpectRefused(GgufBuilder().TensorAt("t", {4}, 0, 32).Tensor("u", {1}, 0, "1234").bytes(), "tensor 't' reaches past");
  ExpectRefused(GgufBuilder().TensorAt("t", {1ULL << 32, 1ULL << 32, 4}, 0, 0).bytes(), "tensor 't' reaches past");
  ExpectRefused(GgufBuilder().TensorAt("t", {1ULL << 63}, 0, 0).bytes(), "tensor 't'");
  ExpectRefused(GgufBuilder().TensorAt("t", {4}, 0, ~uint64_t{0} - 31).Tensor("u", {8}, 0, data).bytes(), "tensor 't'");
  ExpectRefused(GgufBuilder().TensorAt("t", {4}, 0, 4).Tensor("u", {16}, 0, data).bytes(), "multiple of the alignment");
  ExpectRefused(GgufBuilder().TensorAt("t", {0}, 0, 0).bytes(), "tensor 't' has dimension 0 of size 0");
  ExpectRefused(GgufBuilder().TensorAt("t", {}, 0, 0).bytes(), "tensor 't' has 0 dimensions");
  ExpectRefused(GgufBuilder().TensorAt("t", {1, 1, 1, 1, 1}, 0, 0).bytes(), "tensor 't' has 5 dimensions");
  ExpectRefused(GgufBuilder().TensorAt("t", {33}, 2, 0).Tensor("u", {16}, 0, data).bytes(), "not whole Q4_0 blocks");
  ExpectRefused(GgufBuilder().TensorAt("t", {1}, 99, 0).bytes(), "tensor 't' has the GGML type 99");
  ExpectRefused(GgufBuilder().Tensor("t", {1}, 0, "1234").Tensor("t", {1}, 0, "1234").bytes(), "'t' occurs twice");
  ExpectRefused(GgufBuilder().U32("k", 1).U32("k", 1).bytes(), "'k' occurs twice");
  ExpectRefused(GgufBuilder().Raw("k", 13, "").U32("l", 1).bytes(), "'k' has the unknown type 13");
  ExpectRefused(GgufBuilder().Raw("k", 9, Le<uint32_t>(13) + Le<uint64_t>(0)).bytes(),
                "'k' has the unknown element type");
}

TEST(GgufTest, RefusesOtherFilesAndVersions) {
  ExpectRefused("", "not a GGUF file");
  ExpectRefused("GGUX" + std::string(100, '\0'), "not a GGUF file");
  GgufBuilder builder = Small();
  builder.version = 1;
  ExpectRefused(builder.bytes(), "version 1");
  builder.version = 0x03000000;  // big endian
  ExpectRefused(builder.bytes(), "little endian");
}

TEST(GgufTest, AlignmentKeyIsUsedAndChecked) {
  GgufBuilder builder;
  builder.alignment = 256;
  builder.U32("general.alignment", 256).Tensor("t", {1}, 0, "abcd").Tensor("u", {1}, 0, "efgh");
  const auto file = GgufFile::FromBytes(builder.bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->FindTensor("u")->data[0], std::byte{'e'});
  EXPECT_EQ((*file)->FindTensor("u")->offset % 256, 0U);
  for (const uint32_t bad : {0U, 3U, 1U << 30}) {
    ExpectRefused(GgufBuilder().U32("general.alignment", bad).Tensor("t", {1}, 0, "abcd").bytes(), "general.alignment");
  }
}

TEST(GgufTest, OpenNamesTheFile) {
  EXPECT_EQ(GgufFile::Open("/nonexistent/x.gguf").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GgufFile::Open(GoldenDir("")).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace alphecca::model

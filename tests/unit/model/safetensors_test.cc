#include "model/safetensors.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test_files.h"

namespace alphecca::model {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kSmall =
    R"({"__metadata__":{"format":"pt","deep":{"a":[1,{"b":null}]}},"a.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
    R"("b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},"c":{"shape":[],"data_offsets":[16,20],"dtype":"F32"}})";

void ExpectRefused(const std::string& bytes, const std::string& message) {
  const auto file = SafetensorsFile::FromBytes(bytes);
  ASSERT_FALSE(file.ok()) << message;
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(message));
}

// One tensor 't' described by `fields`, before 64 bytes of data.
void ExpectTensorRefused(std::string_view fields, const std::string& message) {
  ExpectRefused(Safetensors("{\"t\":{" + std::string(fields) + "}}", 64), message);
}

TEST(SafetensorsTest, ReadsTensors) {
  std::string bytes = Safetensors(kSmall, 20);
  bytes[bytes.size() - 8] = 'x';
  const auto file = SafetensorsFile::FromBytes(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 3U);
  const SafetensorsTensor* a = (*file)->Find("a.weight");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->type, kernels::DType::kBF16);
  EXPECT_EQ(a->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(a->data.size(), 12U);
  const SafetensorsTensor* b = (*file)->Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->data[0], std::byte{'x'});
  EXPECT_TRUE((*file)->Find("c")->shape.empty());
  EXPECT_EQ((*file)->Find("__metadata__"), nullptr);
}

TEST(SafetensorsTest, AnyTruncationIsAnError) {
  const std::string bytes = Safetensors(kSmall, 20);
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(SafetensorsFile::FromBytes(std::string_view(bytes).substr(0, length)).ok()) << length;
  }
}

TEST(SafetensorsTest, AnyChangedByteOfTheHeaderIsSurvived) {
  const std::string bytes = Safetensors(kSmall, 20);
  for (size_t i = 0; i < kSmall.size() + 8; ++i) {
    for (const int change : {0x01, 0x10, 0x80, 0xff}) {
      std::string broken = bytes;
      broken[i] = static_cast<char>(broken[i] ^ change);
      const auto file = SafetensorsFile::FromBytes(broken);
      if (file.ok()) {
        for (const SafetensorsTensor& tensor : (*file)->tensors()) {
          EXPECT_LE(tensor.offset + tensor.data.size(), bytes.size());
        }
      }
    }
  }
}

TEST(SafetensorsTest, LyingTensorsAreNamed) {
  ExpectTensorRefused(R"("dtype":"F32","shape":[4],"data_offsets":[0,15])", "tensor 't' of F32 [4] has 15 bytes");
  ExpectTensorRefused(R"("dtype":"F32","shape":[17],"data_offsets":[0,68])", "tensor 't' reaches to byte 68");
  ExpectTensorRefused(R"("dtype":"F32","shape":[1],"data_offsets":[8,4])", "tensor 't' ends at 4 before");
  ExpectTensorRefused(R"("dtype":"F99","shape":[1],"data_offsets":[0,4])", "unknown dtype 'F99'");
  ExpectTensorRefused(R"("dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0])",
                      "more than 2^64");
  ExpectTensorRefused(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])", "tensor 't' has a shape");
  ExpectTensorRefused(R"("dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4])", "in shape");
  ExpectTensorRefused(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", "negative number -1 in shape");
  ExpectTensorRefused(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])", "1.5 in shape");
  ExpectTensorRefused(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])", "an array in shape");
  ExpectTensorRefused(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])", "more than 8 dimensions");
  ExpectTensorRefused(R"("dtype":"F32","shape":[1],"data_offsets":[0])", "lacks one of");
  ExpectTensorRefused(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])", "more than two data_offsets");
  ExpectTensorRefused(R"("dtype":"F32","shape":[1])", "lacks one of");
  ExpectTensorRefused(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])", "dtype twice");
  ExpectTensorRefused(R"("dtype":"F32","size":1,"shape":[1],"data_offsets":[0,4])", "unknown field 'size'");
  ExpectTensorRefused(R"("dtype":7,"shape":[1],"data_offsets":[0,4])", "the number 7 in dtype");
}

TEST(SafetensorsTest, NamesThatRepeatOrOverlapAreRefused) {
  const std::string field = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const std::string next = R"({"dtype":"F32","shape":[1],"data_offsets":[3,7]})";
  ExpectRefused(Safetensors("{\"t\":" + field + ",\"t\":" + field + "}", 8), "'t' occurs twice");
  ExpectRefused(Safetensors("{\"t\":" + field + ",\"u\":" + next + "}", 8), "'t' and 'u' overlap at byte 3");
}

TEST(SafetensorsTest, RefusesOtherFiles) {
  ExpectRefused("", "too few");
  ExpectRefused(Le<uint64_t>(~uint64_t{0}) + "{}", "not a safetensors file");
  ExpectRefused(Le<uint64_t>(50'000'000) + "{}", "the file ends after 2");
  ExpectRefused(Safetensors("[1]", 0), "not a JSON object");
  ExpectRefused(Safetensors("{\"t\":1}", 0), "tensor 't'");
  ExpectRefused(Safetensors("{\"t\"", 0), "not valid JSON");
  ExpectRefused(Safetensors("{} {}", 0), "not valid JSON");
  ExpectRefused(Safetensors(std::string(100000, '['), 0), "not a JSON object");
  EXPECT_TRUE(SafetensorsFile::FromBytes(Safetensors("{}   ", 0)).ok());
}

class SafetensorsSetTest : public ::testing::Test {
 protected:
  void Index(std::string_view weight_map) {
    WriteFile(dir_.File("model.safetensors.index.json"),
              "{\"metadata\":{},\"weight_map\":" + std::string(weight_map) + "}");
  }
  void ExpectOpenFails(absl::StatusCode code, const std::string& message) {
    const auto set = SafetensorsSet::Open(dir_.path());
    ASSERT_FALSE(set.ok());
    EXPECT_EQ(set.status().code(), code);
    EXPECT_THAT(std::string(set.status().message()), HasSubstr(message));
  }
  TempDir dir_;
};

TEST_F(SafetensorsSetTest, ReadsTheFilesOfAnIndex) {
  WriteFile(dir_.File("one.safetensors"), Safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4));
  WriteFile(dir_.File("two.safetensors"), Safetensors(R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8));
  Index(R"({"a":"one.safetensors","b":"two.safetensors"})");
  const auto set = SafetensorsSet::Open(dir_.path());
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ((*set)->size(), 2U);
  ASSERT_TRUE((*set)->Find("b"));
  EXPECT_THAT((*set)->Find("b")->file->path(), HasSubstr("two.safetensors"));
  EXPECT_FALSE((*set)->Find("c"));
}

TEST_F(SafetensorsSetTest, IndexMayNotLeaveTheDirectory) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", "..", ".", "", "a/b", "a\\\\b", "a\\u0000b"}) {
    Index("{\"a\":\"" + std::string(name) + "\"}");
    ExpectOpenFails(absl::StatusCode::kInvalidArgument, "no plain file name");
  }
}

TEST_F(SafetensorsSetTest, BadIndexesAreErrors) {
  ExpectOpenFails(absl::StatusCode::kNotFound, "neither model.safetensors");
  Index(R"({"a":"gone.safetensors"})");
  ExpectOpenFails(absl::StatusCode::kNotFound, "gone.safetensors");
  Index(R"({"a":5})");
  ExpectOpenFails(absl::StatusCode::kInvalidArgument, "tensor 'a'");
  Index("[]");
  ExpectOpenFails(absl::StatusCode::kInvalidArgument, "weight_map");
  WriteFile(dir_.File("one.safetensors"), Safetensors("{}", 0));
  Index(R"({"a":"one.safetensors"})");
  ExpectOpenFails(absl::StatusCode::kInvalidArgument, "says tensor 'a' is in one.safetensors");
  WriteFile(dir_.File("model.safetensors.index.json"), "{");
  ExpectOpenFails(absl::StatusCode::kInvalidArgument, "weight_map");
}

}  // namespace
}  // namespace alphecca::model

#include "coordinator/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace alphecca::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

absl::StatusOr<CoordinatorFlags> Parse(std::vector<std::string> arguments) {
  std::vector<const char*> argv = {"alphecca-coordinator", "--model", ALPHECCA_MODELS "/tiny-moe"};
  for (const std::string& argument : arguments) {
    argv.push_back(argument.c_str());
  }
  return ParseFlags(static_cast<int>(argv.size()), argv.data());
}

std::string ConfigFile(const std::string& yaml) {
  const std::string path = ::testing::TempDir() + "/flags_test.yaml";
  std::ofstream(path) << yaml;
  return path;
}

TEST(TenantWeights, ComeFromFlagsAndTheFile) {
  const std::string file = ConfigFile("tenants:\n  batch: {weight: 0.25}\n");
  const auto flags = Parse({"--tenant-weight", "alice=2", "--config", file, "--tenant-weight", "a:b=1e-3"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_THAT(flags->tenant_weights, ElementsAre(Pair("a:b", 0.001), Pair("alice", 2), Pair("batch", 0.25)));
  EXPECT_TRUE(Parse({})->tenant_weights.empty());
}

TEST(TenantWeights, AreChecked) {
  for (const char* bad : {"alice", "=1", "alice=", "alice=much", "alice=0", "alice=-1", "alice=nan", "alice=inf",
                          "alice=1001", "al ice=1"}) {
    const auto flags = Parse({"--tenant-weight", bad});
    EXPECT_EQ(flags.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(flags.status().message()), HasSubstr("want")) << bad;
  }
  const auto twice = Parse({"--tenant-weight", "a=1", "--config", ConfigFile("tenants: {a: {weight: 2}}")});
  EXPECT_THAT(std::string(twice.status().message()), HasSubstr("tenant a has two weights, 1 and 2"));
  const auto low = Parse({"--config", ConfigFile("tenants: {a: {weight: 0}}")});
  EXPECT_THAT(std::string(low.status().message()), HasSubstr("flags_test.yaml: tenant a: weight 0"));
}

TEST(KvType, IsOneOfThree) {
  for (const char* good : {"bf16", "f32", "q8_0"}) {
    const auto flags = Parse({"--kv-type", good});
    ASSERT_TRUE(flags.ok()) << flags.status();
    EXPECT_EQ(flags->models.at(0).kv_type, good);
  }
  for (const char* bad : {"", "q4_0", "Q8_0", "int8"}) {
    const auto flags = Parse({"--kv-type", bad});
    EXPECT_EQ(flags.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(flags.status().message()), HasSubstr("want bf16, f32 or q8_0")) << bad;
  }
}

}  // namespace
}  // namespace alphecca::coordinator

#include "model/planner/devices.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/published.h"

namespace alphecca::model {
namespace {

using ::testing::HasSubstr;

TEST(DevicesTest, KnownNamesHaveAllFigures) {
  for (const char* name : {"h100-80g", "h200", "b200", "a100-40g", "a100-80g", "l40s", "l4", "rtx4090", "rtx5090",
                           "rtxpro6000", "cpu:64", "cpu:0.5"}) {
    const absl::StatusOr<Device> device = FindDevice(name);
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_EQ(device->name, name);
    EXPECT_GT(device->memory_bytes, 0);
    EXPECT_GT(device->memory_bandwidth, 1e11);
    EXPECT_GT(device->flops, 1e12);
    EXPECT_GT(device->link_bandwidth, 1e9);
    EXPECT_GT(device->link_latency, 0);
  }
  EXPECT_EQ(FindDevice("cpu:64")->memory_bytes, int64_t{64} << 30);
  EXPECT_EQ(FindDevice("cpu:0.5")->memory_bytes, int64_t{1} << 29);
}

TEST(DevicesTest, ListsAreParsed) {
  const auto pools = ParseDevices("4xh100-80g, 2xl4,1xcpu:16,3xl4");
  ASSERT_TRUE(pools.ok()) << pools.status();
  ASSERT_EQ(pools->size(), 3U);
  EXPECT_EQ((*pools)[0].device.name, "h100-80g");
  EXPECT_EQ((*pools)[0].count, 4);
  EXPECT_EQ((*pools)[1].device.name, "l4");
  EXPECT_EQ((*pools)[1].count, 5);
  EXPECT_EQ((*pools)[2].device.name, "cpu:16");
}

TEST(DevicesTest, WrongListsNameThePart) {
  const auto fails = [](std::string_view list, const std::string& message) {
    const auto pools = ParseDevices(list);
    ASSERT_EQ(pools.status().code(), absl::StatusCode::kInvalidArgument) << list;
    EXPECT_THAT(std::string(pools.status().message()), HasSubstr(message)) << list;
  };
  fails("", "<count>x<name>");
  fails("l4", "<count>x<name>");
  fails("2xl4,", "<count>x<name>");
  fails("x", "<count>x<name>");
  fails("2xl5", "there are h100-80g, h200");
  fails("2xL4 ", "'L4' is not known");
  fails("0xl4", "1 to 4096");
  fails("-1xl4", "1 to 4096");
  fails("5000xl4", "1 to 4096");
  fails("99999999999999999999xl4", "<count>x<name>");
  fails("4000xl4,4000xh200", "at most 4096");
  fails("1xcpu:0", "above 0");
  fails("1xcpu:-4", "above 0");
  fails("1xcpu:nan", "above 0");
  fails("1xcpu:inf", "above 0");
  fails("1xcpu:lots", "above 0");
  fails("1xcpu", "cpu:<GiB>");
}

TEST(PublishedTest, NamesGoBothWays) {
  for (const Published model : kAllPublished) {
    EXPECT_EQ(*ParsePublished(PublishedName(model)), model);
    EXPECT_TRUE(PublishedConfig(model).ok());
  }
  EXPECT_THAT(std::string(ParsePublished("27b").status().message()), HasSubstr("e2b, e4b, 12b, 26b-a4b, 31b"));
}

}  // namespace
}  // namespace alphecca::model

#include "common/cpus.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

namespace alphecca {
namespace {

class CpuQuotaTest : public testing::Test {
 protected:
  CpuQuotaTest() : mount_(std::filesystem::path(testing::TempDir()) / "cpu_quota_test") {
    std::filesystem::remove_all(mount_);
  }
  ~CpuQuotaTest() override { std::filesystem::remove_all(mount_); }

  void Write(const std::string& group, const std::string& file, const std::string& text) {
    std::filesystem::create_directories(mount_ / group);
    std::ofstream(mount_ / group / file) << text;
  }
  std::optional<double> Quota(const std::string& path) { return CpuQuota(mount_.string(), path); }

  const std::filesystem::path mount_;
};

TEST_F(CpuQuotaTest, NoFilesMeanNoQuota) {
  EXPECT_EQ(Quota("/a/b"), std::nullopt);
}

TEST_F(CpuQuotaTest, TheLeastOfAGroupAndThoseItLiesIn) {
  Write("a/b", "cpu.max", "max 100000\n");
  EXPECT_EQ(Quota("/a/b"), std::nullopt);
  Write("a", "cpu.max", "150000 100000\n");
  EXPECT_EQ(Quota("/a/b"), 1.5);
  Write("a/b", "cpu.max", "25000 50000\n");
  EXPECT_EQ(Quota("/a/b"), 0.5);
  EXPECT_EQ(Quota("/a"), 1.5);
  EXPECT_EQ(Quota("/"), std::nullopt);
  EXPECT_EQ(Quota("/other"), std::nullopt);
}

// In a namespace of its own a process sees its group's files at the mount, whatever its path.
TEST_F(CpuQuotaTest, TheMountItself) {
  Write("", "cpu.max", "400000 100000\n");
  EXPECT_EQ(Quota("/"), 4.0);
  EXPECT_EQ(Quota("/not/visible"), 4.0);
}

TEST_F(CpuQuotaTest, FilesOfVersion1) {
  Write("a", "cpu.cfs_quota_us", "-1\n");
  Write("a", "cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Quota("/a"), std::nullopt);
  Write("a", "cpu.cfs_quota_us", "300000\n");
  EXPECT_EQ(Quota("/a"), 3.0);
}

TEST(CpusTest, OfTheCallingThread) {
  const std::vector<int> before = AllowedCpus();
  ASSERT_FALSE(before.empty());
  EXPECT_TRUE(std::is_sorted(before.begin(), before.end()));
  EXPECT_GE(UsableThreads(), 1);
  EXPECT_LE(UsableThreads(), static_cast<int>(before.size()));
  std::thread bound([&] {
    cpu_set_t last;
    CPU_ZERO(&last);
    CPU_SET(static_cast<size_t>(before.back()), &last);
    ASSERT_EQ(sched_setaffinity(0, sizeof last, &last), 0);
    EXPECT_EQ(AllowedCpus(), std::vector<int>{before.back()});
    EXPECT_EQ(UsableThreads(), 1);
  });
  bound.join();
  EXPECT_EQ(AllowedCpus(), before);
}

}  // namespace
}  // namespace alphecca

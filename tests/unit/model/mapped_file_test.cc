#include "model/mapped_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>

namespace alphecca::model {
namespace {

// KiB of this process's mapping of the file that are resident; -1: it is not mapped.
int ResidentKib(const std::string& path) {
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool ours = false;
  while (std::getline(smaps, line)) {
    int kib = 0;
    if (line.find(path) != std::string::npos) {
      ours = true;
    } else if (ours && std::sscanf(line.c_str(), "Rss: %d kB", &kib) == 1) {
      return kib;
    }
  }
  return -1;
}

int Sum(const MappedFile& file) {
  int sum = 0;
  for (const std::byte b : file.bytes()) {
    sum += static_cast<int>(b);
  }
  return sum;
}

TEST(MappedFileTest, DroppedPagesLeaveTheProcessAndComeBack) {
  const std::string path = testing::TempDir() + "mapped_file_test.bin";
  std::ofstream(path, std::ios::binary) << std::string(1 << 20, '\1');
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(Sum(**file), 1 << 20);
  EXPECT_EQ(ResidentKib(path), 1024);
  (*file)->Advise((*file)->bytes().subspan(0, 512 << 10), Residency::kDrop);
  EXPECT_EQ(ResidentKib(path), 512);
  EXPECT_EQ(Sum(**file), 1 << 20);
  (*file)->Advise((*file)->bytes(), Residency::kDrop);
  EXPECT_EQ(ResidentKib(path), 0);
  (*file)->Advise((*file)->bytes().subspan(0, 256 << 10), Residency::kResident);
  EXPECT_GE(ResidentKib(path), 256) << "read without being touched";
}

// The same advice on ordinary memory would clear it.
TEST(MappedFileTest, ACopyInMemoryTakesNoAdvice) {
  const auto file = MappedFile::FromBytes("copy", std::string(1 << 20, '\1'));
  for (const Residency residency : {Residency::kDrop, Residency::kRandom, Residency::kResident}) {
    file->Advise(file->bytes(), residency);
  }
  EXPECT_EQ(Sum(*file), 1 << 20);
}

}  // namespace
}  // namespace alphecca::model

// Progress on stderr: bars on a terminal, a line at each change elsewhere.
#pragma once

#include <cstdint>
#include <string>

#include "alphecca/v1/cluster.pb.h"

namespace alphecca::cli {

// "[#####.....]  52 %"
std::string Bar(int64_t done, int64_t total, int width = 24);
// "1.9 GiB"
std::string Bytes(int64_t bytes);

// How far each rank of each group has loaded.
class LoadProgress {
 public:
  explicit LoadProgress(bool quiet);
  void Show(const v1::ClusterStatus& status);
  void Done();

 private:
  const bool quiet_;
  const bool terminal_;
  std::string last_;
};

// One line a file, rewritten on a terminal.
class DownloadProgress {
 public:
  DownloadProgress();
  void operator()(const std::string& file, int64_t done, int64_t total);

 private:
  bool terminal_;
  std::string last_file_;
  int64_t last_percent_ = -1;
};

}  // namespace alphecca::cli

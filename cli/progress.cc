#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace alphecca::cli {

std::string Bar(int64_t done, int64_t total, int width) {
  const double share = total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0.0;
  const auto filled = static_cast<size_t>(share * width);
  return absl::StrFormat("[%s%s] %3d %%", std::string(filled, '#'),
                         std::string(static_cast<size_t>(width) - filled, '.'), static_cast<int>(share * 100));
}

std::string Bytes(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= int64_t{1} << 30) {
    return absl::StrFormat("%.1f GiB", value / (1 << 30));
  }
  if (bytes >= 1 << 20) {
    return absl::StrFormat("%.1f MiB", value / (1 << 20));
  }
  return absl::StrFormat("%d KiB", bytes >> 10);
}

LoadProgress::LoadProgress(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0) {}

void LoadProgress::Show(const v1::ClusterStatus& status) {
  if (quiet_) {
    return;
  }
  std::string line;
  for (const v1::ModelStatus& model : status.models()) {
    for (const v1::GroupStatus& group : model.groups()) {
      absl::StrAppend(&line, line.empty() ? "" : "  ", model.name(), ": ");
      if (group.ranks().empty() || !terminal_) {
        absl::StrAppend(&line, group.state());
        continue;
      }
      for (const v1::RankStatus& rank : group.ranks()) {
        const bool ready = rank.state() == v1::SHARD_STATE_READY;
        absl::StrAppend(&line, " rank ", rank.rank(), " ",
                        Bar(ready ? 1 : rank.loaded_bytes(), ready ? 1 : rank.total_bytes()));
      }
    }
  }
  if (line == last_) {
    return;
  }
  last_ = line;
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::fflush(stderr);
}

void LoadProgress::Done() {
  if (!quiet_ && terminal_) {
    std::fputs("\r\033[K", stderr);
    std::fflush(stderr);
  }
}

DownloadProgress::DownloadProgress() : terminal_(isatty(STDERR_FILENO) != 0) {}

void DownloadProgress::operator()(const std::string& file, int64_t done, int64_t total) {
  const int64_t percent = total > 0 ? done * 100 / total : 0;
  if (file == last_file_ && percent == last_percent_) {
    return;
  }
  const bool new_file = file != last_file_;
  last_file_ = file;
  last_percent_ = percent;
  if (terminal_) {
    std::fprintf(stderr, "%s\r\033[K%s %s of %s  %s", new_file ? "\n" : "", Bar(done, total).c_str(),
                 Bytes(done).c_str(), Bytes(total).c_str(), file.c_str());
    std::fflush(stderr);
  } else if (new_file) {
    std::fprintf(stderr, "downloading %s (%s)\n", file.c_str(), Bytes(total).c_str());
  }
}

}  // namespace alphecca::cli

#include "worker/rpc/host_info.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace alphecca::worker {
namespace {

std::string ReadFirstLine(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return std::string(absl::StripAsciiWhitespace(line));
}

// The value of "key: value" or "key   value" lines; empty if there is none.
std::string FindField(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, key)) {
      const size_t colon = line.find(':');
      return colon == std::string::npos ? "" : std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    }
  }
  return "";
}

std::string ReadLink(const char* path) {
  char target[256];
  const ssize_t n = readlink(path, target, sizeof(target));
  return n > 0 ? std::string(target, static_cast<size_t>(n)) : "";
}

}  // namespace

int64_t AvailableMemoryBytes() {
  int64_t bytes = std::numeric_limits<int64_t>::max();
  std::istringstream available(FindField("/proc/meminfo", "MemAvailable"));
  if (int64_t kib = 0; available >> kib) {
    bytes = kib * 1024;
  }
  int64_t limit = 0;
  int64_t used = 0;
  if (absl::SimpleAtoi(ReadFirstLine("/sys/fs/cgroup/memory.max"), &limit) &&
      absl::SimpleAtoi(ReadFirstLine("/sys/fs/cgroup/memory.current"), &used)) {
    bytes = std::min(bytes, std::max<int64_t>(limit - used, 0));
  }
  return bytes == std::numeric_limits<int64_t>::max() ? int64_t{4} << 30 : bytes;
}

std::string CpuName() {
  const std::string name = FindField("/proc/cpuinfo", "model name");
  return name.empty() ? "CPU" : name;
}

std::string HostIdentity() {
  struct stat shm {};
  const bool has_shm = stat("/dev/shm", &shm) == 0;
  return absl::StrCat(ReadFirstLine("/proc/sys/kernel/random/boot_id"), "/", ReadLink("/proc/self/ns/net"), "/",
                      has_shm ? static_cast<int64_t>(shm.st_dev) : -1);
}

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 && name[0] != '\0' ? name : "localhost";
}

}  // namespace alphecca::worker

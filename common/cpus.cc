#include "common/cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "absl/strings/str_split.h"

namespace alphecca {
namespace {

// Of one group alone.
std::optional<double> OwnQuota(const std::string& directory) {
  std::ifstream v2(directory + "/cpu.max");
  std::string quota;
  double period = 0.0;
  if (!(v2 >> quota >> period)) {
    std::ifstream quota_v1(directory + "/cpu.cfs_quota_us");
    std::ifstream period_v1(directory + "/cpu.cfs_period_us");
    if (!(quota_v1 >> quota) || !(period_v1 >> period)) {
      return std::nullopt;
    }
  }
  const double limit = std::strtod(quota.c_str(), nullptr);  // "max" and -1: no limit
  return limit > 0.0 && period > 0.0 ? std::optional(limit / period) : std::nullopt;
}

std::optional<double> Least(std::optional<double> a, std::optional<double> b) {
  return a && b ? std::min(*a, *b) : (a ? a : b);
}

// Of this process, in whichever hierarchy controls CPU time.
std::optional<double> ProcessQuota() {
  std::ifstream groups("/proc/self/cgroup");
  std::optional<double> least;
  for (std::string line; std::getline(groups, line);) {
    // hierarchy:controllers:path; version 2 names no controllers.
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) {
      continue;
    }
    const std::vector<std::string> controllers = absl::StrSplit(fields[1], ',');
    if (fields[1].empty()) {
      least = Least(least, CpuQuota("/sys/fs/cgroup", fields[2]));
    } else if (std::find(controllers.begin(), controllers.end(), "cpu") != controllers.end()) {
      least = Least(least, CpuQuota("/sys/fs/cgroup/cpu", fields[2]));
    }
  }
  return least;
}

}  // namespace

std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(static_cast<size_t>(cpu), &set)) {
        cpus.push_back(cpu);
      }
    }
  }
  return cpus;
}

std::optional<double> CpuQuota(const std::string& mount, const std::string& path) {
  std::optional<double> least = OwnQuota(mount);
  std::string directory = mount;
  const std::vector<std::string> parts = absl::StrSplit(path, '/', absl::SkipEmpty());
  for (const std::string& part : parts) {
    directory.append("/").append(part);
    least = Least(least, OwnQuota(directory));
  }
  return least;
}

int UsableThreads() {
  const std::vector<int> cpus = AllowedCpus();
  double threads = cpus.empty() ? std::thread::hardware_concurrency() : static_cast<double>(cpus.size());
  if (const std::optional<double> quota = ProcessQuota()) {
    threads = std::min(threads, std::ceil(*quota));
  }
  return std::max(static_cast<int>(threads), 1);
}

}  // namespace alphecca

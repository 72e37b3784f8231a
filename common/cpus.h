// How much of the machine's processors this process may use.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace alphecca {

// The CPUs that the calling thread may run on, ascending. Empty if the system does not say.
std::vector<int> AllowedCpus();

// Threads that may run at once: the allowed CPUs, limited by the control group's CPU quota. At least 1.
int UsableThreads();

// The least of the CPU quotas of a control group and of those it lies in, in CPUs; none: no quota. `mount` is where the
// hierarchy is mounted, `path` the group's in it, as in /proc/self/cgroup. Reads the files of version 2 (cpu.max) and
// of version 1 (cpu.cfs_quota_us, cpu.cfs_period_us); groups whose files are not visible have no quota.
std::optional<double> CpuQuota(const std::string& mount, const std::string& path);

}  // namespace alphecca

#include "kernels/cpu/isa.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace alphecca::kernels::cpu {
namespace {

#if defined(__x86_64__)
// Not every compiler's __builtin_cpu_supports knows F16C.
bool HasF16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
}

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

// Tiles with products of bytes, and the system's leave to use their registers, which is asked for once a process.
bool HasAmx() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned kTileInt8 = 3U << 24U;  // AMX-TILE, AMX-INT8
  constexpr unsigned kGfni = 1U << 8U;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kTileInt8) != kTileInt8 || (ecx & kGfni) == 0) {
    return false;
  }
  constexpr long kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return granted;
}
#endif

// CPUs that the cgroup's quota amounts to, rounded up; 0 if there is none.
int QuotaThreads() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0.0;
  if (!(v2 >> quota >> period)) {
    std::ifstream quota_v1("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    std::ifstream period_v1("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (!(quota_v1 >> quota) || !(period_v1 >> period)) {
      return 0;
    }
  }
  const double limit = std::strtod(quota.c_str(), nullptr);  // "max" and -1: no limit
  if (!(limit > 0.0) || !(period > 0.0)) {
    return 0;
  }
  return static_cast<int>(std::clamp((limit + period - 1.0) / period, 1.0, 4096.0));
}

}  // namespace

std::vector<const KernelTable*> SupportedKernels() {
  std::vector<const KernelTable*> tables = {&ScalarKernels()};
#if defined(__x86_64__)
  if (HasAvx2()) {
    tables.push_back(&Avx2Kernels());
    if (HasAvx512()) {
      tables.push_back(&Avx512Kernels());
      if (__builtin_cpu_supports("avx512vnni")) {
        tables.push_back(&Avx512VnniKernels());
        if (HasAmx()) {
          tables.push_back(&AmxKernels());
        }
      }
    }
  }
#endif
  return tables;
}

const KernelTable& ChooseKernels(const std::string& name) {
  const std::vector<const KernelTable*> tables = SupportedKernels();
  for (const KernelTable* table : tables) {
    if (name == table->name) {
      return *table;
    }
  }
  return *tables.back();
}

int UsableThreads() {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    threads = CPU_COUNT(&set);
  }
  if (const int quota = QuotaThreads(); quota > 0) {
    threads = std::min(threads, quota);
  }
  return std::max(threads, 1);
}

}  // namespace alphecca::kernels::cpu

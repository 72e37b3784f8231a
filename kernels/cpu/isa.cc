#include "kernels/cpu/isa.h"

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

}  // namespace alphecca::kernels::cpu

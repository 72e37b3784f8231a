#include "kernels/cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
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

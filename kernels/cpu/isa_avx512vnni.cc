// The kernels, compiled for the instruction set "avx512vnni".
#include "kernels/cpu/simd_avx512.h"
// What follows is written in terms of it.
#include "kernels/cpu/kernels.h"

namespace alphecca::kernels::cpu {

const KernelTable& Avx512VnniKernels() {
  static constexpr KernelTable kTable = MakeTable("avx512vnni");
  return kTable;
}

}  // namespace alphecca::kernels::cpu

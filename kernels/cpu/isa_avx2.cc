// The kernels, compiled for the instruction set "avx2".
#include "kernels/cpu/simd_avx2.h"
// What follows is written in terms of it.
#include "kernels/cpu/kernels.h"

namespace alphecca::kernels::cpu {

const KernelTable& Avx2Kernels() {
  static constexpr KernelTable kTable = MakeTable("avx2");
  return kTable;
}

}  // namespace alphecca::kernels::cpu

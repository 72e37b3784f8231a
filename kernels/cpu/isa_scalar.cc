// The kernels, compiled for the instruction set "scalar".
#include "kernels/cpu/simd_scalar.h"
// What follows is written in terms of it.
#include "kernels/cpu/kernels.h"

namespace alphecca::kernels::cpu {

const KernelTable& ScalarKernels() {
  static constexpr KernelTable kTable = MakeTable("scalar");
  return kTable;
}

}  // namespace alphecca::kernels::cpu

// The kernels, compiled for the instruction set "amx": AVX-512 VNNI, with tiles for many rows.
#include "kernels/cpu/simd_avx512.h"
// What follows is written in terms of it.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/tiles_inl.h"

namespace alphecca::kernels::cpu {

const KernelTable& AmxKernels() {
  static constexpr KernelTable kTable = MakeTiledTable("amx");
  return kTable;
}

}  // namespace alphecca::kernels::cpu

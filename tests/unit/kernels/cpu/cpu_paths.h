// Every way in which the CPU backend may compute on this machine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/isa.h"

namespace alphecca::kernels::cpu {

struct CpuPath {
  const KernelTable* kernels = nullptr;
  Activations activations = Activations::kDefault;
  int threads = 1;

  std::unique_ptr<CpuBackend> Create() const { return std::make_unique<CpuBackend>(*kernels, activations, threads); }
  std::string Name() const {
    return std::string(kernels->name) + (activations == Activations::kF32 ? "_f32_" : "_int8_") +
           std::to_string(threads);
  }
};

inline std::vector<CpuPath> AllPaths(const std::vector<int>& threads,
                                     const std::vector<Activations>& all_activations = {Activations::kDefault,
                                                                                        Activations::kF32}) {
  std::vector<CpuPath> paths;
  for (const KernelTable* kernels : SupportedKernels()) {
    for (const Activations activations : all_activations) {
      for (const int count : threads) {
        paths.push_back({kernels, activations, count});
      }
    }
  }
  return paths;
}

}  // namespace alphecca::kernels::cpu

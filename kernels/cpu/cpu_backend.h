// The backend for CPUs: weights re-laid in groups of rows, vector kernels chosen at run time by what the machine has, a
// pool of threads.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace alphecca::kernels {

// The environment variable ALPHECCA_CPU_ISA (scalar, avx2, avx512, avx512vnni, amx) selects a lower instruction set
// than the machine's best; one that it does not have, or does not exist, is ignored. options.threads 0: as many as the
// process may run at once (affinity, cgroup quota).
std::unique_ptr<Backend> CreateCpuBackend(const BackendOptions& options);

}  // namespace alphecca::kernels

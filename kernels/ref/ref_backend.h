// The yardstick: every op as its definition reads, one thread, sums in double, rounded once to F32.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace alphecca::kernels {

// Computes in F32 whatever options.activations says.
std::unique_ptr<Backend> CreateRefBackend(const BackendOptions& options);

}  // namespace alphecca::kernels

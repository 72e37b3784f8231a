// What this machine can run.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace alphecca::kernels::cpu {

// The tables that this machine can run, worst first: "scalar" always.
std::vector<const KernelTable*> SupportedKernels();

// The one called `name`, or the best, if there is none such here.
const KernelTable& ChooseKernels(const std::string& name);

}  // namespace alphecca::kernels::cpu

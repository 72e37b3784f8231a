// All kernels of one instruction set: included once by each isa_*.cc, after its simd_*.h. Each file is written in terms
// of those before it.
#pragma once

// clang-format off
#include "kernels/cpu/kernel_table.h"
#include "kernels/quant/quant.h"
#include "kernels/cpu/math_inl.h"
#include "kernels/cpu/dot_int8_inl.h"
#include "kernels/cpu/dot_f32_inl.h"
#include "kernels/cpu/dot_minima_inl.h"
#if defined(__AVX512VNNI__)
#include "kernels/cpu/sliced_inl.h"
#else
#include "kernels/cpu/eights_inl.h"
#endif
#include "kernels/cpu/rows_inl.h"
#include "kernels/cpu/attend_inl.h"
#include "kernels/cpu/scan_inl.h"
#include "kernels/cpu/table_inl.h"
// clang-format on

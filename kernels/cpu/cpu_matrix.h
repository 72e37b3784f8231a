// A weight matrix re-laid for the CPU's kernels.
//
// Rows come in groups of 16; the rows of a group lie interleaved, so that one vector holds the same columns of several
// rows and a block of activations serves all of them. Missing rows of the last group are zero. Within a group:
//   F32, BF16, SFP8   [column][16 rows], an element each
//   Q4_0, Q8_0        per block of 32 columns: the rows' d (f16 [16]), then the rows' numbers four bytes at a time,
//                     [4 or 8][16 rows][4 bytes]: the order inside a row's block is the file's
//   Q4_K, Q5_K        per block of 256: d [16], dmin [16], scales [12][16 rows], then the rows' numbers (Q5_K: their
//                     high bits first) four bytes at a time, [32 or 40][16 rows][4 bytes], in the file's order
//   Q6_K              per block of 256: d [16], scales [16][16 rows], then for each half and k = 0..7 the bytes
//                     ql[4k..], ql[32 + 4k..], qh[4k..] of that half, each [16 rows][4 bytes]
// so a packed matrix is as large as the file's rows, but for the padding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/host/host_memory.h"

namespace alphecca::kernels::cpu {

class CpuMatrix : public Matrix {
 public:
  int64_t groups = 0;  // of one item
  int64_t group_bytes = 0;
  HostMemory memory;          // [items, groups, group_bytes]
  std::vector<float> scales;  // SFP8: [items, groups, 16]; empty for other types

  const std::byte* Group(int64_t item, int64_t group) const {
    return memory.data() + (item * groups + group) * group_bytes;
  }
  // Of a group's rows, or null.
  const float* GroupScales(int64_t item, int64_t group) const {
    return scales.empty() ? nullptr : scales.data() + (item * groups + group) * kGroupRows;
  }
  int GroupWidth(int64_t group) const {
    return static_cast<int>(std::min<int64_t>(kGroupRows, rows - group * kGroupRows));
  }
  // A row as files hold it. out: RowBytes(type, cols).
  void CopyRow(int64_t item, int64_t row, std::byte* out) const;
  // encoded: scratch of RowBytes(type, cols); out: cols values.
  void DecodeRow(int64_t item, int64_t row, std::byte* encoded, float* out) const;
};

// Backend::Pack. Errors as PackHost (kernels/host/host_matrix.h).
absl::StatusOr<std::unique_ptr<CpuMatrix>> PackCpu(std::span<const PackSource> sources, DType type, ThreadPool& pool);

}  // namespace alphecca::kernels::cpu

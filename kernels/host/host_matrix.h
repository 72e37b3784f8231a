// A weight matrix in host memory, row after row in the encoding that files use (see kernels/quant/quant.h).
//
// Backends with another layout begin from it: PackHost checks and converts, they rearrange.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/host/host_memory.h"

namespace alphecca::kernels {

class HostMatrix : public Matrix {
 public:
  int64_t row_bytes = 0;
  HostMemory memory;          // [items, rows, row_bytes]
  std::vector<float> scales;  // SFP8: [items, rows], multiplies the values of a row; empty for other types

  const std::byte* Row(int64_t item, int64_t row) const { return memory.data() + (item * rows + row) * row_bytes; }
  float Scale(int64_t item, int64_t row) const {
    return scales.empty() ? 1.0F : scales[static_cast<size_t>(item * rows + row)];
  }
  // out: cols values.
  void DecodeRow(int64_t item, int64_t row, float* out) const;
};

// Sources in runs that share items: within a run they stand one under another, runs follow each other item by item.
std::vector<std::span<const PackSource>> ItemRuns(std::span<const PackSource> sources);
// Sets items and rows of the matrix that the sources make. InvalidArgument: they don't fit each other.
absl::Status CountItemsAndRows(std::span<const PackSource> sources, Matrix& matrix);

// Values of scratch that ConvertRow needs for rows of the sources: the longest row of those that are not empty.
int64_t ConversionScratch(std::span<const PackSource> sources);

// Backend::Pack for a row-by-row layout. InvalidArgument where sources do not fit each other, their tensors or `type`;
// ResourceExhausted.
absl::StatusOr<std::unique_ptr<HostMatrix>> PackHost(std::span<const PackSource> sources, DType type);

}  // namespace alphecca::kernels

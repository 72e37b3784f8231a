#include "kernels/cpu/cpu_matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/host/host_matrix.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels::cpu {
namespace {

// A piece of a row's block and where it lies in the group's: bytes [from, from + size) of the row's block go to
// to + row * size.
struct Piece {
  int64_t from = 0;
  int64_t to = 0;
  int64_t size = 0;
};

std::vector<Piece> Pieces(DType type) {
  std::vector<Piece> pieces;
  int64_t to = 0;
  const auto add = [&](int64_t from, int64_t size) {
    pieces.push_back({from, to, size});
    to += size * kGroupRows;
  };
  switch (type) {
    case DType::kQ4_0:
    case DType::kQ8_0:
      add(0, 2);
      for (int64_t from = 2; from < Info(type).block_bytes; from += 4) {
        add(from, 4);
      }
      break;
    case DType::kQ4_K:
    case DType::kQ5_K:
      add(0, 2);
      add(2, 2);
      for (int64_t scale = 0; scale < 12; ++scale) {
        add(4 + scale, 1);
      }
      for (int64_t from = 16; from < Info(type).block_bytes; from += 4) {
        add(from, 4);
      }
      break;
    case DType::kQ6_K:
      add(208, 2);
      for (int64_t scale = 0; scale < 16; ++scale) {
        add(192 + scale, 1);
      }
      for (int64_t half = 0; half < 2; ++half) {
        for (int64_t k = 0; k < 8; ++k) {
          add(64 * half + 4 * k, 4);
          add(64 * half + 32 + 4 * k, 4);
          add(128 + 32 * half + 4 * k, 4);
        }
      }
      break;
    default:
      add(0, Info(type).block_bytes);
  }
  return pieces;
}

// Calls copy(offset in the row, offset in the group, size) for each piece of a row.
template <typename Copy>
void ForEachPiece(DType type, int64_t cols, int64_t row, Copy copy) {
  const std::vector<Piece> pieces = Pieces(type);
  const int64_t block_bytes = Info(type).block_bytes;
  const int64_t blocks = cols / Info(type).block_elements;
  for (int64_t block = 0; block < blocks; ++block) {
    for (const Piece& p : pieces) {
      copy(block * block_bytes + p.from, block * block_bytes * kGroupRows + p.to + row * p.size, p.size);
    }
  }
}

// memcpy of a size that is one of few: calls of the library would cost more than the copies.
void CopyPiece(std::byte* to, const std::byte* from, int64_t size) {
  switch (size) {
    case 1:
      *to = *from;
      break;
    case 2:
      std::memcpy(to, from, 2);
      break;
    default:
      std::memcpy(to, from, 4);
  }
}

bool Within(Range part, int64_t whole) {
  return part.begin >= 0 && part.begin <= part.end && part.end <= whole;
}

// The checks of PackHost, which converts nothing if it is given no rows: of how many items it cannot say either.
absl::Status CheckSources(std::span<const PackSource> sources, DType type, CpuMatrix& matrix) {
  std::vector<PackSource> shapes(sources.begin(), sources.end());
  for (PackSource& source : shapes) {
    const HostTensor& t = source.tensor;
    if (!Within(source.rows, t.rows) || !Within(source.items, t.items)) {
      return absl::InvalidArgumentError(absl::StrCat("items [", source.items.begin, ", ", source.items.end, "), rows [",
                                                     source.rows.begin, ", ", source.rows.end, ") of a tensor of ",
                                                     t.items, " items of ", t.rows, " rows"));
    }
    if (t.data == nullptr && !source.items.empty() && !source.rows.empty() && !source.cols.empty()) {
      return absl::InvalidArgumentError("weights without data");
    }
    source.rows.end = source.rows.begin;
    source.items.end = source.items.begin;
  }
  RETURN_IF_ERROR(CountItemsAndRows(sources, matrix));
  ASSIGN_OR_RETURN(const std::unique_ptr<HostMatrix> empty, PackHost(shapes, type));
  matrix.type = type;
  matrix.cols = empty->cols;
  return absl::OkStatus();
}

absl::Status AllocateGroups(CpuMatrix& matrix) {
  matrix.groups = matrix.rows / kGroupRows + (matrix.rows % kGroupRows != 0 ? 1 : 0);
  matrix.group_bytes = RowBytes(matrix.type, matrix.cols) * kGroupRows;
  int64_t all_groups = 0;
  int64_t bytes = 0;
  if (__builtin_mul_overflow(matrix.items, matrix.groups, &all_groups) ||
      __builtin_mul_overflow(all_groups, std::max<int64_t>(matrix.group_bytes, 1), &bytes) ||
      all_groups > INT64_MAX / 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("matrix [", matrix.items, ", ", matrix.rows, ", ", matrix.cols, "] is too large"));
  }
  bytes = all_groups * matrix.group_bytes;
  ASSIGN_OR_RETURN(matrix.memory, HostMemory::Create(bytes));
  // Weights stream through the processor once a step: huge pages spare it the look-ups. Only a hint.
  constexpr int64_t kPage = 4096;
  const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(matrix.memory.data()) % kPage);
  const int64_t first = past == 0 ? 0 : kPage - past;  // of a whole page
  if (const int64_t pages = (bytes - first) / kPage; pages > 0) {
    madvise(matrix.memory.data() + first, static_cast<size_t>(pages * kPage), MADV_HUGEPAGE);
  }
  if (matrix.type == DType::kSFP8) {
    matrix.scales.assign(static_cast<size_t>(all_groups * kGroupRows), 1.0F);
  }
  matrix.bytes = bytes + static_cast<int64_t>(matrix.scales.size() * sizeof(float));
  return absl::OkStatus();
}

// Which row of which source row `row` of the matrix is.
struct RowSource {
  const PackSource* source = nullptr;
  int64_t row = 0;
};
RowSource FindRow(std::span<const PackSource> sources, int64_t row) {
  for (const PackSource& source : sources) {
    if (row < source.rows.size()) {
      return {&source, source.rows.begin + row};
    }
    row -= source.rows.size();
  }
  return {};
}

// Where an item of the matrix comes from: of the sources, item `item` of their range.
struct ItemSource {
  std::span<const PackSource> sources;
  int64_t item = 0;
};

void PackGroup(const ItemSource& from, CpuMatrix& matrix, int64_t item, int64_t group, float* values,
               std::byte* encoded) {
  std::byte* to = matrix.memory.data() + (item * matrix.groups + group) * matrix.group_bytes;
  for (int64_t i = 0; i < matrix.GroupWidth(group); ++i) {
    const auto [source, row] = FindRow(from.sources, group * kGroupRows + i);
    const HostTensor& t = source->tensor;
    const int64_t item_row = (source->items.begin + from.item) * t.rows + row;
    const float scale = ConvertRow(t.type, t.data + item_row * RowBytes(t.type, t.cols), t.cols, source->cols,
                                   t.RowScale(item_row), matrix.type, values, encoded);
    if (!matrix.scales.empty()) {
      matrix.scales[static_cast<size_t>((item * matrix.groups + group) * kGroupRows + i)] = scale;
    }
    ForEachPiece(matrix.type, matrix.cols, i, [&](int64_t in_row, int64_t in_group, int64_t size) {
      CopyPiece(to + in_group, encoded + in_row, size);
    });
  }
}

}  // namespace

void CpuMatrix::CopyRow(int64_t item, int64_t row, std::byte* out) const {
  const std::byte* from = Group(item, row / kGroupRows);
  ForEachPiece(type, cols, row % kGroupRows,
               [&](int64_t in_row, int64_t in_group, int64_t size) { CopyPiece(out + in_row, from + in_group, size); });
}

void CpuMatrix::DecodeRow(int64_t item, int64_t row, std::byte* encoded, float* out) const {
  CopyRow(item, row, encoded);
  const float* row_scales = GroupScales(item, row / kGroupRows);
  kernels::DecodeRow(type, encoded, {0, cols}, row_scales != nullptr ? row_scales[row % kGroupRows] : 1.0F, out);
}

absl::StatusOr<std::unique_ptr<CpuMatrix>> PackCpu(std::span<const PackSource> sources, DType type, ThreadPool& pool) {
  auto matrix = std::make_unique<CpuMatrix>();
  RETURN_IF_ERROR(CheckSources(sources, type, *matrix));
  RETURN_IF_ERROR(AllocateGroups(*matrix));
  const auto scratch = static_cast<size_t>(ConversionScratch(sources));
  std::vector<ItemSource> items;
  for (const std::span<const PackSource> run : ItemRuns(sources)) {
    for (int64_t item = 0; matrix->groups > 0 && item < run[0].items.size(); ++item) {
      items.push_back({run, item});
    }
  }
  pool.Run(matrix->items * matrix->groups, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> values(scratch);
    std::vector<std::byte> encoded(static_cast<size_t>(RowBytes(type, matrix->cols)));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t item = i / matrix->groups;
      PackGroup(items[static_cast<size_t>(item)], *matrix, item, i % matrix->groups, values.data(), encoded.data());
    }
  });
  return matrix;
}

}  // namespace alphecca::kernels::cpu

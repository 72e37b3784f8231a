#include "kernels/host/host_matrix.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels {
namespace {

// Wider rows than any model's by far; keeps sizes of rows far from overflow.
constexpr int64_t kMaxCols = int64_t{1} << 40;

bool Within(Range part, int64_t whole) {
  return part.begin >= 0 && part.begin <= part.end && part.end <= whole;
}

std::string Text(Range r) {
  return absl::StrCat("[", r.begin, ", ", r.end, ")");
}

absl::Status CheckSource(const PackSource& source, const PackSource& first, DType type) {
  const HostTensor& t = source.tensor;
  RETURN_IF_ERROR(CheckConversion(t.type, type));
  if (!Within(source.items, t.items) || !Within(source.rows, t.rows) || !Within(source.cols, t.cols) ||
      t.cols > kMaxCols) {
    return absl::InvalidArgumentError(absl::StrCat("slice ", Text(source.items), Text(source.rows), Text(source.cols),
                                                   " of a tensor [", t.items, ", ", t.rows, ", ", t.cols, "]"));
  }
  if (source.cols.size() != first.cols.size()) {
    return absl::InvalidArgumentError(absl::StrCat("sources of one matrix differ: ", source.cols.size(),
                                                   " columns, the first has ", first.cols.size()));
  }
  for (const DType block_type : {t.type, type}) {
    const int block = Info(block_type).block_elements;
    const bool is_source = block_type == t.type;
    const bool aligned =
        source.cols.size() % block == 0 && (!is_source || (t.cols % block == 0 && source.cols.begin % block == 0));
    if (!aligned) {
      return absl::InvalidArgumentError(absl::StrCat("columns ", Text(source.cols), " of ", t.cols, ": want whole ",
                                                     TypeName(block_type), " blocks of ", block));
    }
  }
  if (t.scales != nullptr && !IsEncodable(type)) {
    return absl::InvalidArgumentError(absl::StrCat("scales of rows on ", TypeName(type), ": want none"));
  }
  if (t.data == nullptr && !source.items.empty() && !source.rows.empty() && !source.cols.empty()) {
    return absl::InvalidArgumentError("weights without data");
  }
  return absl::OkStatus();
}

// The matrix with its shape and memory, no values yet.
absl::StatusOr<std::unique_ptr<HostMatrix>> Shape(std::span<const PackSource> sources, DType type) {
  if (!IsRuntimeType(type)) {
    return absl::InvalidArgumentError(
        absl::StrCat("matrix of type ", TypeName(type), ": want F32, BF16, SFP8, Q4_0, Q8_0, Q4_K, Q5_K or Q6_K"));
  }
  if (sources.empty()) {
    return absl::InvalidArgumentError("matrix of no sources: want at least one");
  }
  auto matrix = std::make_unique<HostMatrix>();
  matrix->type = type;
  matrix->cols = sources[0].cols.size();
  for (const PackSource& source : sources) {
    RETURN_IF_ERROR(CheckSource(source, sources[0], type));
  }
  RETURN_IF_ERROR(CountItemsAndRows(sources, *matrix));
  matrix->row_bytes = RowBytes(type, matrix->cols);
  int64_t all_rows = 0;
  int64_t bytes = 0;
  const bool overflow = __builtin_mul_overflow(matrix->items, matrix->rows, &all_rows) ||
                        __builtin_mul_overflow(all_rows, matrix->row_bytes, &bytes);
  if (overflow) {
    return absl::InvalidArgumentError(
        absl::StrCat("matrix [", matrix->items, ", ", matrix->rows, ", ", matrix->cols, "] is too large"));
  }
  ASSIGN_OR_RETURN(matrix->memory, HostMemory::Create(bytes));
  if (type == DType::kSFP8) {
    matrix->scales.assign(static_cast<size_t>(all_rows), 1.0F);
  }
  matrix->bytes = bytes + static_cast<int64_t>(matrix->scales.size() * sizeof(float));
  return matrix;
}

}  // namespace

std::vector<std::span<const PackSource>> ItemRuns(std::span<const PackSource> sources) {
  std::vector<std::span<const PackSource>> runs;
  for (size_t begin = 0; begin < sources.size();) {
    size_t end = begin + 1;
    while (end < sources.size() && !sources[end].next_items) {
      ++end;
    }
    runs.push_back(sources.subspan(begin, end - begin));
    begin = end;
  }
  return runs;
}

absl::Status CountItemsAndRows(std::span<const PackSource> sources, Matrix& matrix) {
  matrix.items = 0;
  matrix.rows = 0;
  for (const std::span<const PackSource> run : ItemRuns(sources)) {
    int64_t rows = 0;
    for (const PackSource& source : run) {
      if (source.items.size() != run[0].items.size()) {
        return absl::InvalidArgumentError(absl::StrCat("sources of one matrix differ: ", source.items.size(),
                                                       " items, the first has ", run[0].items.size()));
      }
      if (__builtin_add_overflow(rows, source.rows.size(), &rows)) {
        return absl::InvalidArgumentError("matrix of more rows than a number holds");
      }
    }
    if (run.data() != sources.data() && rows != matrix.rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("items ", Text(run[0].items), " have ", rows, " rows, those before ", matrix.rows));
    }
    matrix.rows = rows;
    matrix.items += run[0].items.size();
  }
  return absl::OkStatus();
}

int64_t ConversionScratch(std::span<const PackSource> sources) {
  int64_t cols = 0;
  for (const PackSource& source : sources) {
    const bool empty = source.items.empty() || source.rows.empty() || source.cols.empty();
    cols = std::max(cols, empty ? 0 : source.tensor.cols);
  }
  return cols;
}

void HostMatrix::DecodeRow(int64_t item, int64_t row, float* out) const {
  kernels::DecodeRow(type, Row(item, row), {0, cols}, Scale(item, row), out);
}

absl::StatusOr<std::unique_ptr<HostMatrix>> PackHost(std::span<const PackSource> sources, DType type) {
  ASSIGN_OR_RETURN(std::unique_ptr<HostMatrix> matrix, Shape(sources, type));
  std::vector<float> scratch(static_cast<size_t>(ConversionScratch(sources)));
  std::byte* out = matrix->memory.data();
  size_t index = 0;
  const auto pack = [&](const PackSource& source, int64_t item) {
    const HostTensor& t = source.tensor;
    const int64_t row_bytes = RowBytes(t.type, t.cols);
    for (int64_t row = source.rows.begin; row < source.rows.end; ++row, ++index, out += matrix->row_bytes) {
      const int64_t item_row = (source.items.begin + item) * t.rows + row;
      const float scale = ConvertRow(t.type, t.data + item_row * row_bytes, t.cols, source.cols, t.RowScale(item_row),
                                     type, scratch.data(), out);
      if (!matrix->scales.empty()) {
        matrix->scales[index] = scale;
      }
    }
  };
  for (const std::span<const PackSource> run : ItemRuns(sources)) {
    for (int64_t item = 0; item < run[0].items.size(); ++item) {
      for (const PackSource& source : run) {
        pack(source, item);
      }
    }
  }
  return matrix;
}

}  // namespace alphecca::kernels

#include "tests/unit/kernels/op_run.h"

#include <cmath>
#include <cstring>
#include <span>

#include "kernels/check.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels {
namespace {

constexpr float kMark = -12345.0F;

// Random blocks for types that nothing here encodes: random numbers under scales that give values of about sigma.
void FillRandomBlocks(std::mt19937& random, DType type, double sigma, std::vector<std::byte>& bytes) {
  for (std::byte& b : bytes) {
    b = static_cast<std::byte>(random() & 0xFFU);
  }
  const auto put_f16 = [&](size_t at, double value) {
    const uint16_t bits = F32ToF16(static_cast<float>(value));
    std::memcpy(bytes.data() + at, &bits, sizeof bits);
  };
  const auto block = static_cast<size_t>(Info(type).block_bytes);
  for (size_t at = 0; at < bytes.size(); at += block) {
    switch (type) {
      case DType::kQ6_K:  // scales +-128 (sigma 74) times numbers +-32 (sigma 18)
        put_f16(at + 208, sigma / (74.0 * 18.0));
        break;
      case DType::kQ4_K:
      case DType::kQ5_K:  // scales to 63 times numbers to 15 or 31, less a minimum of up to 63
        put_f16(at, sigma / (32.0 * 10.0));
        put_f16(at + 2, sigma / 32.0);
        break;
      case DType::kQ4_1:
      case DType::kQ5_1:
        put_f16(at, sigma / 6.0);
        put_f16(at + 2, -sigma);
        break;
      case DType::kIQ4_NL:
        put_f16(at, sigma / 70.0);
        break;
      case DType::kQ5_0:
        put_f16(at, sigma / 9.0);
        break;
      default:
        Check(false, "random blocks of this type");
    }
  }
}

}  // namespace

std::vector<float> OpRun::Normal(int64_t count, double sigma, double mean) {
  // Close to normal, fast, and the same everywhere: sums of four uniform numbers of 16 bits each.
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) {
    const uint32_t a = random_();
    const uint32_t b = random_();
    const auto sum = static_cast<double>((a & 0xFFFFU) + (a >> 16U) + (b & 0xFFFFU) + (b >> 16U));
    v = static_cast<float>(mean + sigma * std::sqrt(3.0) * (sum * 0x1p-16 - 2.0));
  }
  return values;
}

Buffer& OpRun::Allocate(int64_t bytes) {
  auto buffer = backend_.Allocate(bytes);
  Check(buffer.ok(), "allocation of a test");
  buffers_.push_back(*std::move(buffer));
  return *buffers_.back();
}

Tensor OpRun::Put(const std::vector<float>& values, int64_t rows, int64_t cols, int pad) {
  const int64_t stride = cols + pad;
  std::vector<float> padded(static_cast<size_t>(rows * stride), kMark);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(values.begin() + r * cols, cols, padded.begin() + r * stride);
  }
  Buffer& buffer = Allocate(static_cast<int64_t>(padded.size() * sizeof(float)));
  backend_.Write(*stream_, buffer, 0, std::as_bytes(std::span(padded)));
  return {buffer.data, DType::kF32, rows, cols, stride};
}

Tensor OpRun::PutInts(const std::vector<int32_t>& values, int64_t rows, int64_t cols) {
  Buffer& buffer = Allocate(static_cast<int64_t>(values.size() * sizeof(int32_t)));
  backend_.Write(*stream_, buffer, 0, std::as_bytes(std::span(values)));
  return {buffer.data, DType::kI32, rows, cols, cols};
}

Tensor OpRun::Random(int64_t rows, int64_t cols, int pad, double sigma) {
  return Put(Normal(rows * cols, sigma), rows, cols, pad);
}

Tensor OpRun::Empty(int64_t rows, int64_t cols, int pad) {
  return Put(std::vector<float>(static_cast<size_t>(rows * cols), kMark), rows, cols, pad);
}

Tensor OpRun::EmptyInts(int64_t rows, int64_t cols) {
  return PutInts(std::vector<int32_t>(static_cast<size_t>(rows * cols), -1), rows, cols);
}

const Buffer* OpRun::Floats(const std::vector<float>& values) {
  Buffer& buffer = Allocate(static_cast<int64_t>(values.size() * sizeof(float)));
  backend_.Write(*stream_, buffer, 0, std::as_bytes(std::span(values)));
  return &buffer;
}

HostTensor OpRun::Encoded(int64_t items, int64_t rows, int64_t cols, DType type) {
  const double sigma = 1.0 / std::sqrt(static_cast<double>(std::max<int64_t>(cols, 1)));
  const int64_t row_bytes = RowBytes(type, cols);
  auto bytes = std::make_unique<std::vector<std::byte>>(static_cast<size_t>(items * rows * row_bytes));
  if (IsEncodable(type)) {
    for (int64_t r = 0; r < items * rows; ++r) {
      EncodeRow(type, Normal(cols, sigma), 1.0F, bytes->data() + r * row_bytes);
    }
  } else if (type == DType::kF16) {
    for (size_t at = 0; at < bytes->size(); at += 2) {
      const uint16_t bits = F32ToF16(Normal(1, sigma)[0]);
      std::memcpy(bytes->data() + at, &bits, sizeof bits);
    }
  } else {
    FillRandomBlocks(random_, type, sigma, *bytes);
  }
  files_.push_back(std::move(bytes));
  return {type, files_.back()->data(), items, rows, cols};
}

const float* OpRun::Scales(int64_t rows) {
  std::vector<float>& scales = *scales_.emplace_back(std::make_unique<std::vector<float>>());
  for (int64_t row = 0; row < rows; ++row) {
    scales.push_back(0.5F + static_cast<float>(Uniform(0, 11)) / 4.0F);
  }
  return scales.data();
}

const Matrix& OpRun::Packed(const std::vector<PackSource>& sources, DType type) {
  auto matrix = backend_.Pack(sources, type);
  if (!matrix.ok()) {
    std::fprintf(stderr, "%s\n", std::string(matrix.status().message()).c_str());
  }
  Check(matrix.ok(), "packing weights of a test");
  matrices_.push_back(*std::move(matrix));
  return *matrices_.back();
}

const Matrix& OpRun::Weights(int64_t items, int64_t rows, int64_t cols, DType type) {
  return Packed({{Encoded(items, rows, cols, type), {0, items}, {0, rows}, {0, cols}}}, type);
}

KvPool* OpRun::Pool(const KvPoolSpec& spec) {
  auto pool = backend_.CreateKvPool(spec);
  Check(pool.ok(), "KV pool of a test");
  pools_.push_back(*std::move(pool));
  return pools_.back().get();
}

const Step& OpRun::Upload(const StepInput& input, KvPool* full, KvPool* sliding) {
  steps_.push_back(backend_.Upload(*stream_, input, full, sliding));
  return *steps_.back();
}

std::vector<float> OpRun::Get(const Tensor& tensor) {
  std::vector<float> padded(static_cast<size_t>(tensor.rows * tensor.stride));
  const absl::Status status = backend_.Read(*stream_, tensor.data, std::as_writable_bytes(std::span(padded)));
  Check(status.ok(), "reading an output");
  std::vector<float> values;
  values.reserve(static_cast<size_t>(tensor.rows * tensor.cols));
  for (int64_t r = 0; r < tensor.rows; ++r) {
    values.insert(values.end(), padded.begin() + r * tensor.stride, padded.begin() + r * tensor.stride + tensor.cols);
  }
  return values;
}

void OpRun::Collect(const std::string& name, const Tensor& tensor, double relative, double nominal) {
  Tensor whole = tensor;
  whole.cols = tensor.stride;
  const std::vector<float> padded = Get(whole);
  OpOutput between{name + " between rows", {}, 1, 0.0, 1.0};
  for (int64_t r = 0; r < tensor.rows; ++r) {
    for (int64_t i = tensor.cols; i < tensor.stride; ++i) {
      between.values.push_back(padded[static_cast<size_t>(r * tensor.stride + i)]);
    }
  }
  outputs_.push_back({name, Get(tensor), tensor.cols, relative, nominal});
  outputs_.push_back(std::move(between));
}

void OpRun::CollectBytes(const std::string& name, const void* device, int64_t bytes) {
  std::vector<uint8_t> raw(static_cast<size_t>(bytes));
  const absl::Status status = backend_.Read(*stream_, device, std::as_writable_bytes(std::span(raw)));
  Check(status.ok(), "reading bytes");
  outputs_.push_back({name, std::vector<float>(raw.begin(), raw.end()), 1, 0.0, 1.0});
}

double SumTolerance(int64_t n) {
  return 0x1p-24 * (64.0 + 4.0 * static_cast<double>(n));
}

double ProductTolerance(const Backend& backend, DType type, int64_t n) {
  const bool rounded = backend.activations() == Activations::kDefault && IsQuantised(type);
  return SumTolerance(n) + (rounded ? 6.0 * (4.0 / 127.0) / std::sqrt(12.0) : 0.0);
}

}  // namespace alphecca::kernels

// Products of the CPU backend, in the shapes of Gemma 4 E2B: one row (bound by memory: bytes/s counts the weights), and
// many (bound by arithmetic: items/s counts operations, two a weight and row). Set ALPHECCA_CPU_ISA for another
// instruction set.
//   matmul_bench --benchmark_filter=Q4_0
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/registry.h"
#include "kernels/cpu/cpu_backend.h"

namespace {

using alphecca::kernels::Activations;
using alphecca::kernels::Backend;
using alphecca::kernels::Buffer;
using alphecca::kernels::DType;
using alphecca::kernels::HostTensor;
using alphecca::kernels::Matrix;
using alphecca::kernels::PackSource;
using alphecca::kernels::RowBytes;
using alphecca::kernels::Stream;
using alphecca::kernels::TypeName;

struct Shape {
  DType type;
  int64_t rows;
  int64_t cols;
  int64_t tokens;
  int threads;
  Activations activations;
};

// Any bytes are weights; these are numbers of an ordinary size in every format: NaN or a denormal would take another
// time.
std::vector<std::byte> RandomRows(DType type, int64_t rows, int64_t cols) {
  std::vector<std::byte> bytes(static_cast<size_t>(rows * RowBytes(type, cols)));
  std::mt19937 random(1);
  for (std::byte& b : bytes) {
    b = static_cast<std::byte>((random() & 0x1FU) | 0x20U);
  }
  return bytes;
}

std::unique_ptr<Buffer> Ones(Backend& backend, Stream& stream, int64_t count) {
  auto buffer = backend.Allocate(count * static_cast<int64_t>(sizeof(float)));
  if (!buffer.ok()) {
    std::abort();
  }
  const std::vector<float> ones(static_cast<size_t>(count), 1.0F);
  backend.Write(stream, **buffer, 0, std::as_bytes(std::span(ones)));
  return *std::move(buffer);
}

void MatMul(benchmark::State& state, const Shape& s) {
  const auto backend = alphecca::kernels::CreateCpuBackend({.activations = s.activations, .threads = s.threads});
  const auto stream = backend->CreateStream();
  const std::vector<std::byte> file = RandomRows(s.type, s.rows, s.cols);
  const HostTensor tensor = {s.type, file.data(), 1, s.rows, s.cols};
  const std::vector<PackSource> sources = {{tensor, {0, 1}, {0, s.rows}, {0, s.cols}}};
  // Enough copies that none waits in a cache for its next turn, where memory is what counts.
  constexpr int64_t kPastCaches = 256 << 20;
  const int64_t size = static_cast<int64_t>(file.size());
  const int64_t copies = s.tokens <= 16 ? kPastCaches / size + 1 : 1;
  std::vector<std::unique_ptr<Matrix>> matrices;
  for (int64_t i = 0; i < copies; ++i) {
    auto matrix = backend->Pack(sources, s.type);
    if (!matrix.ok()) {
      state.SkipWithError(std::string(matrix.status().message()).c_str());
      return;
    }
    matrices.push_back(*std::move(matrix));
  }
  const auto in = Ones(*backend, *stream, s.tokens * s.cols);
  const auto out = Ones(*backend, *stream, s.tokens * s.rows);
  size_t next = 0;
  for ([[maybe_unused]] auto _ : state) {
    backend->MatMul(*stream, {.in = {in->data, DType::kF32, s.tokens, s.cols, s.cols},
                              .matrix = matrices[next].get(),
                              .scale = 1.0F,
                              .out = {out->data, DType::kF32, s.tokens, s.rows, s.rows}});
    next = (next + 1) % matrices.size();
  }
  state.SetBytesProcessed(state.iterations() * size);
  state.SetItemsProcessed(state.iterations() * 2 * s.tokens * s.rows * s.cols);
}

void Register(const Shape& s) {
  const std::string name = TypeName(s.type) + (s.activations == Activations::kF32 ? "_actf32" : "") + "/" +
                           std::to_string(s.rows) + "x" + std::to_string(s.cols) + "/T" + std::to_string(s.tokens) +
                           "/threads" + std::to_string(s.threads);
  alphecca::bench::Register(name, [s](benchmark::State& state) { MatMul(state, s); });
}

}  // namespace

int main(int argc, char** argv) {
  for (const int threads : {1, 2}) {
    for (const DType type : {DType::kQ4_0, DType::kQ8_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kBF16,
                             DType::kSFP8, DType::kF32}) {
      for (const int64_t tokens : {1, 512}) {
        for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
                 {2048, 1536}, {6144, 1536}, {12288, 1536}, {1536, 6144}, {1536, 12288}}) {
          Register({type, rows, cols, tokens, threads, Activations::kDefault});
        }
      }
      Register({type, 12288, 1536, 1, threads, Activations::kF32});
    }
    Register({DType::kQ6_K, 262144, 1536, 1, threads, Activations::kDefault});
    for (const int64_t tokens : {4, 8, 16}) {
      Register({DType::kQ6_K, 65536, 1536, tokens, threads, Activations::kDefault});
      Register({DType::kQ4_0, 12288, 1536, tokens, threads, Activations::kDefault});
      Register({DType::kBF16, 8960, 1536, tokens, threads, Activations::kDefault});
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

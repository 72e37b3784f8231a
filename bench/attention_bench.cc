// Attention of the CPU backend: one row over a long context, and a chunk of a prompt. bytes/s counts the keys and
// values of the context once; items/s counts operations, four a query element and visible key.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bench/registry.h"
#include "kernels/cpu/cpu_backend.h"

namespace {

using alphecca::kernels::BlockTableUpdate;
using alphecca::kernels::DType;
using alphecca::kernels::KeyRange;
using alphecca::kernels::StepInput;

struct Shape {
  int heads;
  int kv_heads;
  int head_dim;
  int64_t tokens;
  int32_t context;  // keys of the last row
  int threads;
  DType type;
};

constexpr int kBlockTokens = 16;

// The rows of a step: the last `tokens` positions of one sequence, whose blocks lie in order.
struct Rows {
  std::vector<int32_t> zeros;
  std::vector<int32_t> positions;
  std::vector<KeyRange> keys;
  std::vector<BlockTableUpdate> table;

  explicit Rows(const Shape& s) : zeros(static_cast<size_t>(s.tokens), 0) {
    for (int64_t t = 0; t < s.tokens; ++t) {
      positions.push_back(static_cast<int32_t>(s.context - s.tokens + t));
      keys.push_back({0, positions.back()});
    }
    for (int32_t i = 0; i * kBlockTokens < s.context; ++i) {
      table.push_back({0, i, i});
    }
  }
  StepInput Input() const {
    StepInput input;
    input.tokens = zeros;
    input.positions = positions;
    input.slots = zeros;
    input.full = keys;
    input.sliding = keys;
    input.tables[alphecca::kernels::kFullPool] = table;
    return input;
  }
};

void Attend(benchmark::State& state, const Shape& s) {
  const auto backend = alphecca::kernels::CreateCpuBackend({.threads = s.threads});
  const auto stream = backend->CreateStream();
  const Rows rows(s);
  const auto blocks = static_cast<int64_t>(rows.table.size());
  auto pool = backend->CreateKvPool({.layers = {{s.kv_heads, s.head_dim}},
                                     .block_tokens = kBlockTokens,
                                     .num_blocks = blocks,
                                     .num_slots = 1,
                                     .max_blocks_per_slot = blocks,
                                     .type = s.type});
  const int64_t cols = int64_t{s.heads} * s.head_dim;
  auto q = backend->Allocate(s.tokens * cols * 4);
  auto out = backend->Allocate(s.tokens * cols * 4);
  if (!pool.ok() || !q.ok() || !out.ok()) {
    std::abort();
  }
  const auto step = backend->Upload(*stream, rows.Input(), pool->get(), nullptr);
  const std::vector<float> values(static_cast<size_t>(int64_t{s.kv_heads} * s.context * s.head_dim), 0.5F);
  if (!backend->KvImport(*stream, **pool, 0, 0, {0, s.context}, values, values).ok()) {
    std::abort();
  }
  for ([[maybe_unused]] auto _ : state) {
    backend->Attend(*stream, *step,
                    {.q = {(*q)->data, DType::kF32, s.tokens, cols, cols},
                     .heads = s.heads,
                     .head_dim = s.head_dim,
                     .first_head = 0,
                     .first_kv_head = 0,
                     .group = s.heads / s.kv_heads,
                     .scale = 1.0F,
                     .pool_kind = alphecca::kernels::kFullPool,
                     .pool = pool->get(),
                     .pool_layer = 0,
                     .out = {(*out)->data, DType::kF32, s.tokens, cols, cols}});
  }
  int64_t visible = 0;
  for (const KeyRange k : rows.keys) {
    visible += k.last - k.first + 1;
  }
  state.SetBytesProcessed(state.iterations() * s.context * 2 * s.kv_heads *
                          alphecca::kernels::RowBytes(s.type, s.head_dim));
  state.SetItemsProcessed(state.iterations() * visible * 4 * cols);
}

void Register(const Shape& s) {
  const std::string name = "H" + std::to_string(s.heads) + "_K" + std::to_string(s.kv_heads) + "_d" +
                           std::to_string(s.head_dim) + "/T" + std::to_string(s.tokens) + "/context" +
                           std::to_string(s.context) + "/" + alphecca::kernels::TypeName(s.type) + "/threads" +
                           std::to_string(s.threads);
  alphecca::bench::Register(name, [s](benchmark::State& state) { Attend(state, s); });
}

}  // namespace

int main(int argc, char** argv) {
  for (const int threads : {1, 2}) {
    for (const DType type : {DType::kBF16, DType::kQ8_0}) {
      for (const int32_t context : {512, 4096, 32768}) {
        for (const int64_t tokens : {1, 256}) {
          Register({8, 1, 256, tokens, context, threads, type});  // E2B, sliding layers' heads
          Register({8, 1, 512, tokens, context, threads, type});  // E2B, full layers
        }
        Register({16, 8, 256, 1, context, threads, type});  // 26B-A4B, sliding
      }
      Register({16, 8, 256, 256, 4096, threads, type});
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

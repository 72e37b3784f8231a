// Qkv, Attend, and KV outside a step.
#include <cmath>

#include "kernels/check.h"
#include "kernels/kv_type.h"
#include "tests/unit/kernels/op_cases.h"
#include "tests/unit/kernels/step_maker.h"

namespace alphecca::kernels {
namespace {

constexpr int kBlock = 16;
constexpr int kSlots = 3;
constexpr int kBlocksPerSlot = 5;

KvPoolSpec Spec(std::vector<KvLayerShape> layers, DType type) {
  return {.layers = std::move(layers),
          .block_tokens = kBlock,
          .num_blocks = kSlots * kBlocksPerSlot,
          .num_slots = kSlots,
          .max_blocks_per_slot = kBlocksPerSlot,
          .type = type};
}

// Every slot holds its full table, its blocks scattered over the pool.
std::vector<BlockTableUpdate> Scattered() {
  std::vector<BlockTableUpdate> updates;
  for (int32_t slot = 0; slot < kSlots; ++slot) {
    for (int32_t index = 0; index < kBlocksPerSlot; ++index) {
      updates.push_back({slot, index, (slot + 7 * index + 4) % (kSlots * kBlocksPerSlot)});
    }
  }
  return updates;
}

std::vector<float> Frequencies(int head_dim, int turning) {
  std::vector<float> f(static_cast<size_t>(head_dim / 2), 0.0F);
  for (int i = 0; i < turning; ++i) {
    f[static_cast<size_t>(i)] = static_cast<float>(std::pow(10000.0, -2.0 * i / head_dim));
  }
  return f;
}

double StoredTolerance(DType type, int64_t n) {
  switch (type) {
    case DType::kBF16:
      return SumTolerance(n) + 0x1p-8;
    case DType::kQ8_0:  // a step of a block, where the number lies between two
      return SumTolerance(n) + 1.0 / 126;
    default:
      return SumTolerance(n);
  }
}

void CollectKv(OpRun& run, const KvPool& pool, int layer, int32_t slot, Range positions, double relative) {
  const KvLayerShape shape = pool.spec.layers[static_cast<size_t>(layer)];
  const auto count = static_cast<size_t>(shape.kv_heads * positions.size() * shape.head_dim);
  std::vector<float> key(count);
  std::vector<float> value(count);
  Check(run.backend().KvExport(run.stream(), pool, layer, slot, positions, key, value).ok(), "KvExport of a test");
  run.CollectValues({"keys", key, shape.head_dim, relative, 1.0});
  run.CollectValues({"values", value, shape.head_dim, relative, 1.0});
}

struct QkvCase {
  int heads;
  int kv_heads;
  int head_dim;
  bool v_from_k = false;
  bool norm_v = true;
  DType type = DType::kF32;
  int turning = -1;  // pairs that turn; all
};

// Two sequences in one step, rows across a block boundary.
void RunQkv(OpRun& run, const QkvCase& c) {
  const int layer = 1;
  KvPool* pool = run.Pool(Spec({{1, 32}, {c.kv_heads, c.head_dim}}, c.type));
  StepMaker maker;
  maker.tables[kFullPool] = Scattered();
  for (int32_t p = 13; p < 19; ++p) {
    maker.Row(0, 0, p);
  }
  maker.Row(0, 2, 70);
  maker.Row(0, 2, 71);
  const Step& step = run.Upload(maker.Input(), pool, nullptr);
  const int64_t cols = int64_t{c.heads + (c.v_from_k ? 1 : 2) * c.kv_heads} * c.head_dim;
  const Tensor qkv = run.Random(step.rows, cols, 1, 3.0);
  const Buffer* q_norm = run.Floats(run.Normal(c.head_dim, 0.3, 1.0));
  const Buffer* k_norm = c.kv_heads > 0 ? run.Floats(run.Normal(c.head_dim, 0.3, 1.0)) : nullptr;
  const int turning = c.turning < 0 ? c.head_dim / 2 : c.turning;
  run.backend().Qkv(run.stream(), step,
                    {.qkv = qkv,
                     .heads = c.heads,
                     .kv_heads = c.kv_heads,
                     .head_dim = c.head_dim,
                     .v_from_k = c.v_from_k,
                     .norm_v = c.norm_v,
                     .q_norm = q_norm,
                     .k_norm = k_norm,
                     .eps = 1e-6F,
                     .rope = {run.Floats(Frequencies(c.head_dim, turning))},
                     .pool_kind = kFullPool,
                     .pool = c.kv_heads > 0 ? pool : nullptr,
                     .pool_layer = layer});
  Tensor queries = qkv;
  queries.cols = int64_t{c.heads} * c.head_dim;
  run.CollectValues({"queries", run.Get(queries), std::max<int64_t>(1, queries.cols), SumTolerance(c.head_dim), 1.0});
  if (c.kv_heads > 0) {
    // All positions of both sequences: nothing but the step's rows may have changed.
    for (const int32_t slot : {0, 2}) {
      CollectKv(run, *pool, layer, slot, {0, kBlocksPerSlot * kBlock}, StoredTolerance(c.type, c.head_dim));
    }
  }
}

struct AttendCase {
  int heads;
  int group;
  int head_dim;
  DType type = DType::kF32;
  int first_head = 0;
  int first_kv_head = 0;
  float scale = 1.0F;
};

int KvHeads(const AttendCase& c) {
  return (c.first_head + c.heads - 1) / c.group - c.first_kv_head + 1;
}

// Rows at block boundaries, windows, a two-way image block, one key, and none.
StepMaker AttendStep(PoolKind kind) {
  StepMaker maker;
  maker.tables[kind] = Scattered();
  const auto row = [&](int32_t slot, int32_t position, KeyRange keys) {
    maker.Row(0, slot, position);
    (kind == kFullPool ? maker.full : maker.sliding).back() = keys;
  };
  for (const int32_t p : {0, 1, 15, 16, 17, 31, 32, 47, 79}) {
    row(p % kSlots, p, {0, p});
  }
  row(0, 40, {33, 40});
  row(0, 41, {16, 41});
  row(1, 41, {15, 41});
  row(1, 41, {17, 47});  // keys past the row's own: a two-way block
  row(2, 63, {63, 63});
  row(2, 63, {48, 63});
  row(0, 50, {51, 50});  // none
  row(0, 50, {256, 255});
  return maker;
}

void RunAttend(OpRun& run, const AttendCase& c, PoolKind kind) {
  const int kv_heads = KvHeads(c);
  KvPool* pool = run.Pool(Spec({{kv_heads, c.head_dim}}, c.type));
  const StepMaker maker = AttendStep(kind);
  const Step& step =
      kind == kFullPool ? run.Upload(maker.Input(), pool, nullptr) : run.Upload(maker.Input(), nullptr, pool);
  const Range all = {0, kBlocksPerSlot * kBlock};
  for (int32_t slot = 0; slot < kSlots; ++slot) {
    const int64_t count = kv_heads * all.size() * c.head_dim;
    const std::vector<float> key = run.Normal(count);
    const std::vector<float> value = run.Normal(count);
    Check(run.backend().KvImport(run.stream(), *pool, 0, slot, all, key, value).ok(), "KvImport of a test");
  }
  const int64_t cols = int64_t{c.heads} * c.head_dim;
  // Queries under which scores have a deviation of 2: neither flat nor a single key.
  const Tensor q = run.Random(step.rows, cols, 5, 2.0 / std::sqrt(c.head_dim) / c.scale);
  const Tensor out = run.Empty(step.rows, cols);
  run.backend().Attend(run.stream(), step,
                       {.q = q,
                        .heads = c.heads,
                        .head_dim = c.head_dim,
                        .first_head = c.first_head,
                        .first_kv_head = c.first_kv_head,
                        .group = c.group,
                        .scale = c.scale,
                        .pool_kind = kind,
                        .pool = pool,
                        .pool_layer = 0,
                        .out = out});
  run.Collect("out", out, SumTolerance(c.head_dim + all.size()));
}

void RunKvMoves(OpRun& run, DType type) {
  KvPool* pool = run.Pool(Spec({{2, 64}, {1, 32}}, type));
  StepMaker maker;
  maker.tables[kFullPool] = Scattered();
  maker.Row(0, 0, 0);
  run.Upload(maker.Input(), pool, nullptr);
  for (const int layer : {0, 1}) {
    const KvLayerShape shape = pool->spec.layers[static_cast<size_t>(layer)];
    const std::vector<float> key = run.Normal(int64_t{shape.kv_heads} * 30 * shape.head_dim);
    const std::vector<float> value = run.Normal(int64_t{shape.kv_heads} * 30 * shape.head_dim);
    Check(run.backend().KvImport(run.stream(), *pool, layer, 1, {5, 35}, key, value).ok(), "KvImport of a test");
  }
  // Slot 1's second block onto slot 2's second.
  const std::vector<BlockTableUpdate> table = Scattered();
  run.backend().KvCopy(run.stream(), *pool, table[1 * kBlocksPerSlot + 1].block, table[2 * kBlocksPerSlot + 1].block);
  for (const int layer : {0, 1}) {
    for (const int32_t slot : {0, 1, 2}) {
      CollectKv(run, *pool, layer, slot, {3, 60}, 0.0);
    }
  }
}

// Rows [begin, end) of AttendStep through Qkv and Attend, over keys that lie in the pool before.
std::vector<float> AttendRows(OpRun& run, DType type, int64_t begin, int64_t end) {
  constexpr int kHeads = 6;
  constexpr int kWidth = 96;
  KvPool* pool = run.Pool(Spec({{2, kWidth}}, type));
  const StepMaker all = AttendStep(kFullPool);
  StepMaker maker;
  maker.tables[kFullPool] = all.tables[kFullPool];
  for (int64_t t = begin; t < end; ++t) {
    const auto i = static_cast<size_t>(t);
    maker.Row(0, all.slots[i], all.positions[i]);
    maker.full.back() = all.full[i];
  }
  const Step& step = run.Upload(maker.Input(), pool, nullptr);
  const Range positions = {0, kBlocksPerSlot * kBlock};
  for (int32_t slot = 0; slot < kSlots; ++slot) {
    const std::vector<float> key = run.Normal(2 * positions.size() * kWidth);
    const std::vector<float> value = run.Normal(2 * positions.size() * kWidth);
    Check(run.backend().KvImport(run.stream(), *pool, 0, slot, positions, key, value).ok(), "KvImport of a test");
  }
  const auto rows = static_cast<int64_t>(all.tokens.size());
  const std::vector<float> values = run.Normal(rows * kHeads * kWidth);
  const Tensor q = run.Put({values.begin() + begin * kHeads * kWidth, values.begin() + end * kHeads * kWidth},
                           end - begin, kHeads * kWidth);
  // Queries alone: keys that other rows write would change what a row sees.
  run.backend().Qkv(run.stream(), step,
                    {.qkv = q,
                     .heads = kHeads,
                     .kv_heads = 0,
                     .head_dim = kWidth,
                     .q_norm = run.Floats(run.Normal(kWidth, 0.05, 0.1)),
                     .eps = 1e-6F,
                     .rope = {run.Floats(Frequencies(kWidth, kWidth / 2))}});
  const Tensor out = run.Empty(end - begin, kHeads * kWidth);
  run.backend().Attend(
      run.stream(), step,
      {.q = q, .heads = kHeads, .head_dim = kWidth, .group = 3, .pool = pool, .pool_layer = 0, .out = out});
  return run.Get(out);
}

std::string Name(const AttendCase& c) {
  return "Attend_H" + std::to_string(c.heads) + "_g" + std::to_string(c.group) + "_d" + std::to_string(c.head_dim) +
         "_" + TypeName(c.type) + (c.first_head > 0 ? "_from" + std::to_string(c.first_head) : "");
}

std::string Name(const QkvCase& c) {
  return "Qkv_H" + std::to_string(c.heads) + "_K" + std::to_string(c.kv_heads) + "_d" + std::to_string(c.head_dim) +
         "_" + TypeName(c.type) + (c.v_from_k ? "_v_from_k" : "") + (c.norm_v ? "" : "_raw_v") +
         (c.turning >= 0 ? "_turning" + std::to_string(c.turning) : "");
}

}  // namespace

void AddAttentionCases(std::vector<OpCase>& cases) {
  const auto fits = [](DType type, int head_dim) { return CheckKvType(type, head_dim).ok(); };
  for (const DType type : {DType::kF32, DType::kBF16, DType::kQ8_0}) {
    for (const QkvCase& c : std::vector<QkvCase>{{4, 2, 32, false, true, type},
                                                 {1, 1, 8, false, true, type},
                                                 {3, 1, 64, false, false, type},
                                                 {4, 4, 256, false, true, type},
                                                 {8, 2, 512, true, true, type, 64},
                                                 {2, 1, 16, true, true, type, 2},
                                                 {0, 1, 32, false, true, type},
                                                 {4, 0, 48, false, true, type}}) {
      if (fits(type, c.head_dim)) {
        cases.push_back({"Qkv", Name(c), [c](OpRun& run) { RunQkv(run, c); }});
      }
    }
    for (const AttendCase& c : std::vector<AttendCase>{{4, 2, 32, type},
                                                       {8, 8, 64, type},
                                                       {1, 1, 8, type},
                                                       {4, 1, 16, type},
                                                       {8, 4, 256, type},
                                                       {16, 8, 512, type},
                                                       {9, 9, 288, type},
                                                       {5, 3, 48, type, 2, 0},
                                                       {4, 4, 128, type, 4, 1},
                                                       {2, 4, 40, type, 6, 1, 0.0625F},
                                                       {3, 2, 32, type, 5, 2}}) {
      if (fits(type, c.head_dim)) {
        cases.push_back({"Attend", Name(c), [c](OpRun& run) { RunAttend(run, c, kFullPool); }});
      }
    }
    cases.push_back({"Attend", "Attend_sliding_" + TypeName(type), [type](OpRun& run) {
                       RunAttend(run, {4, 2, 64, type}, kSlidingPool);
                     }});
    cases.push_back({"KvCopy", "Kv_moves_" + TypeName(type), [type](OpRun& run) { RunKvMoves(run, type); }});
  }
}

void AddAttentionRowCases(std::vector<RowCase>& cases) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kQ8_0}) {
    cases.push_back({"Attend_rows_" + TypeName(type),
                     [type](OpRun& run) -> RowCase::Rows {
                       return [&run, type](int64_t begin, int64_t end) {
                         OpRun fresh(run.backend(), 1);
                         return AttendRows(fresh, type, begin, end);
                       };
                     },
                     static_cast<int64_t>(AttendStep(kFullPool).tokens.size())});
  }
}

}  // namespace alphecca::kernels

// Head norms, RoPE, the KV cache, and attention over it.
//
// A row's keys are taken in chunks that begin at multiples of kAttendKeys; each gives a partial softmax, and the chunks
// join in rising order. So the sums are grouped alike whether one thread takes all chunks of a row or several do, and
// whatever else the step holds.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_internal.h"

namespace alphecca::kernels::cpu {

// ---- Qkv ------------------------------------------------------------------------------------------------------------

// Cosines and sines of a step, for all layers with these frequencies.
const CpuBackend::Angles& CpuBackend::AnglesOf(const HostStep& step, const Buffer* buffer, int64_t half) {
  const float* frequencies = Floats(buffer, half);
  for (const Angles& known : angles_) {
    if (known.step == &step && known.frequencies == frequencies && known.half == half) {
      return known;
    }
  }
  Angles& made = angles_.emplace_back();
  made.step = &step;
  made.frequencies = frequencies;
  made.half = half;
  made.cosine.resize(static_cast<size_t>(step.rows * half));
  made.sine.resize(static_cast<size_t>(step.rows * half));
  ForRows(step.rows, 32 * half, [&](int64_t t, int) {
    const auto position = static_cast<float>(step.positions[static_cast<size_t>(t)]);
    for (int64_t i = 0; i < half; ++i) {
      // The angle is rounded to F32, as the model's own implementation does.
      const auto angle = static_cast<double>(position * frequencies[i]);
      made.cosine[static_cast<size_t>(t * half + i)] = static_cast<float>(std::cos(angle));
      made.sine[static_cast<size_t>(t * half + i)] = static_cast<float>(std::sin(angle));
    }
  });
  return made;
}

void CpuBackend::Qkv(Stream&, const Step& step, const QkvArgs& a) {
  const HostStep& s = Host(step);
  const int width = a.head_dim;
  Check(a.qkv.rows == s.rows && a.qkv.cols == int64_t{a.heads + (a.v_from_k ? 1 : 2) * a.kv_heads} * width,
        "Qkv: shape of qkv");
  const float* q_norm = Floats(a.q_norm, width);
  const float* k_norm = Floats(a.k_norm, width);
  const Angles& angles = AnglesOf(s, a.rope.frequencies, width / 2);
  HostKvPool* pool = a.kv_heads > 0 ? &Host(*a.pool) : nullptr;

  const auto norm_and_turn = [&](const float* in, const float* norm, int64_t t, float* out) {
    kernels_.scale_row(in, InverseRms(in, width, a.eps), norm, width, out);
    kernels_.rotate(out, angles.cosine.data() + t * angles.half, angles.sine.data() + t * angles.half, width);
  };
  const auto store = [&](const float* x, std::byte* run, int64_t position) {
    const int64_t row_bytes = RowBytes(pool->spec.type, width);
    std::byte* to = run + position % pool->spec.block_tokens * row_bytes;
    if (pool->spec.type == DType::kBF16) {
      kernels_.to_bf16(x, width, to);
    } else {
      std::memcpy(to, x, static_cast<size_t>(row_bytes));
    }
  };
  ForRows(s.rows, 2 * a.qkv.cols, [&](int64_t t, int thread) {
    float* row = FloatRow(a.qkv, t);
    for (int head = 0; head < a.heads; ++head) {
      norm_and_turn(row + int64_t{head} * width, q_norm, t, row + int64_t{head} * width);
    }
    if (pool == nullptr) {
      return;
    }
    float* own = Own(thread).Floats(width);
    const int32_t position = s.positions[static_cast<size_t>(t)];
    const int32_t block = pool->BlockOf(s.slots[static_cast<size_t>(t)], position);
    for (int head = 0; head < a.kv_heads; ++head) {
      const float* key = row + int64_t{a.heads + head} * width;
      const float* value = a.v_from_k ? key : key + int64_t{a.kv_heads} * width;
      norm_and_turn(key, k_norm, t, own);
      store(own, pool->Keys(a.pool_layer, block, head), position);
      if (a.norm_v) {
        kernels_.scale_row(value, InverseRms(value, width, a.eps), nullptr, width, own);
        value = own;
      }
      store(value, pool->Values(a.pool_layer, block, head), position);
    }
  });
}

// ---- Attend ---------------------------------------------------------------------------------------------------------

// How a step's attention is cut up. A unit is some chunks of one block of heads of one row.
struct CpuBackend::AttendPlan {
  struct Heads {  // query heads of one kv head, at most kAttendHeads
    int first = 0;
    int count = 0;
    int kv_head = 0;
  };
  std::vector<Heads> blocks;
  int64_t max_chunks = 0;  // of any row
  int64_t spans = 1;       // units that share a row and block
  int64_t chunks_a_span = 0;
  float* partial = nullptr;  // [T, blocks, max_chunks, kAttendHeads * (head_dim + 2)] if there are several spans

  float* Partial(int64_t row_block, int64_t chunk, int64_t head_dim) const {
    return partial + (row_block * max_chunks + chunk) * kAttendHeads * (head_dim + 2);
  }
};

namespace {

int64_t FirstChunk(KeyRange keys) {
  return keys.first / kAttendKeys;
}
int64_t Chunks(KeyRange keys) {
  return keys.last < keys.first ? 0 : keys.last / kAttendKeys - FirstChunk(keys) + 1;
}

// Where the keys and values of positions [first, last] of a slot lie; returns how many they are.
int Locate(const HostKvPool& pool, int layer, int kv_head, std::span<const int32_t> table, int64_t first, int64_t last,
           const std::byte** key, const std::byte** value) {
  const int64_t block_tokens = pool.spec.block_tokens;
  const int64_t row_bytes = RowBytes(pool.spec.type, pool.spec.layers[static_cast<size_t>(layer)].head_dim);
  int count = 0;
  while (first <= last) {
    const int64_t index = first / block_tokens;
    const int64_t end = std::min(last + 1, (index + 1) * block_tokens);
    const int32_t block = table[static_cast<size_t>(index)];
    Check(block >= 0, "a block at every position that is read");
    const std::byte* keys = pool.Keys(layer, block, kv_head);
    const std::byte* values = pool.Values(layer, block, kv_head);
    for (; first < end; ++first, ++count) {
      key[count] = keys + first % block_tokens * row_bytes;
      value[count] = values + first % block_tokens * row_bytes;
    }
  }
  return count;
}

}  // namespace

void CpuBackend::AttendUnit(const HostStep& s, const AttendArgs& a, const AttendPlan& plan, int64_t unit, int thread) {
  const int64_t width = a.head_dim;
  const int64_t row_block = unit / plan.spans;
  const int64_t t = row_block / static_cast<int64_t>(plan.blocks.size());
  const AttendPlan::Heads& heads = plan.blocks[static_cast<size_t>(row_block) % plan.blocks.size()];
  const HostKvPool& pool = Host(*a.pool);
  const KeyRange keys = s.visible[a.pool_kind][static_cast<size_t>(t)];
  const std::span<const int32_t> table = pool.Table(s.slots[static_cast<size_t>(t)]);
  const int64_t begin = unit % plan.spans * plan.chunks_a_span;
  const int64_t end = std::min(begin + plan.chunks_a_span, Chunks(keys));
  float* out = FloatRow(a.out, t) + heads.first * width;
  float max[kAttendHeads];
  float sum[kAttendHeads];
  std::fill_n(max, kAttendHeads, -INFINITY);
  std::fill_n(sum, kAttendHeads, 0.0F);
  if (plan.spans == 1) {
    std::fill_n(out, heads.count * width, 0.0F);
  }
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const std::byte* key[kAttendKeys];
    const std::byte* value[kAttendKeys];
    const int64_t at = (FirstChunk(keys) + chunk) * kAttendKeys;
    const int count = Locate(pool, a.pool_layer, heads.kv_head, table, std::max<int64_t>(keys.first, at),
                             std::min<int64_t>(keys.last, at + kAttendKeys - 1), key, value);
    float* part =
        plan.spans == 1 ? Own(thread).Floats(kAttendHeads * (width + 2)) : plan.Partial(row_block, chunk, width);
    float* part_max = part + kAttendHeads * width;
    float* part_sum = part_max + kAttendHeads;
    kernels_.attend_chunk({.q = FloatRow(a.q, t) + heads.first * width,
                           .heads = heads.count,
                           .head_dim = a.head_dim,
                           .scale = a.scale,
                           .bf16 = pool.spec.type == DType::kBF16,
                           .keys = count,
                           .key = key,
                           .value = value,
                           .out = part,
                           .max = part_max,
                           .sum = part_sum});
    for (int h = 0; plan.spans == 1 && h < heads.count; ++h) {
      kernels_.merge_chunk(part + h * width, part_max[h], part_sum[h], a.head_dim, out + h * width, &max[h], &sum[h]);
    }
  }
  for (int h = 0; plan.spans == 1 && begin < end && h < heads.count; ++h) {
    kernels_.scale_row(out + h * width, 1.0F / sum[h], nullptr, width, out + h * width);
  }
}

void CpuBackend::Attend(Stream&, const Step& step, const AttendArgs& a) {
  const HostStep& s = Host(step);
  const int64_t width = a.head_dim;
  Check(a.q.rows == s.rows && a.out.rows == s.rows && a.q.cols >= int64_t{a.heads} * width &&
            a.out.cols == int64_t{a.heads} * width,
        "Attend: shapes of q and out");
  AttendPlan plan;
  for (int head = 0; head < a.heads; ++head) {
    const int kv_head = (a.first_head + head) / a.group - a.first_kv_head;
    if (plan.blocks.empty() || plan.blocks.back().kv_head != kv_head || plan.blocks.back().count == kAttendHeads) {
      plan.blocks.push_back({head, 0, kv_head});
    }
    ++plan.blocks.back().count;
  }
  int64_t visible = 0;
  for (const KeyRange keys : s.visible[a.pool_kind]) {
    visible += std::max(0, keys.last - keys.first + 1);
    plan.max_chunks = std::max(plan.max_chunks, Chunks(keys));
  }
  const auto blocks = static_cast<int64_t>(plan.blocks.size());
  const int64_t row_blocks = s.rows * blocks;
  const bool parallel = visible * a.heads * width > kSerialElements;
  // Few rows: cut their keys too, so that every thread has some.
  if (parallel && row_blocks > 0 && row_blocks < 2 * pool_.threads() && plan.max_chunks > 1) {
    plan.spans = std::min(plan.max_chunks, (2 * pool_.threads() + row_blocks - 1) / row_blocks);
  }
  plan.chunks_a_span = (plan.max_chunks + plan.spans - 1) / plan.spans;
  if (plan.spans > 1) {
    plan.partial = partial_.Floats(row_blocks * plan.max_chunks * kAttendHeads * (width + 2));
  }
  const int64_t units = row_blocks * plan.spans;
  pool_.Run(units, parallel ? 1 : units, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t unit = begin; unit < end; ++unit) {
      AttendUnit(s, a, plan, unit, thread);
    }
  });
  if (plan.spans == 1) {
    return;
  }
  for (int64_t row_block = 0; row_block < row_blocks; ++row_block) {
    const AttendPlan::Heads& heads = plan.blocks[static_cast<size_t>(row_block % blocks)];
    const int64_t t = row_block / blocks;
    const int64_t chunks = Chunks(s.visible[a.pool_kind][static_cast<size_t>(t)]);
    for (int h = 0; h < heads.count; ++h) {
      float* out = FloatRow(a.out, t) + (heads.first + h) * width;
      std::fill_n(out, width, 0.0F);
      float max = -INFINITY;
      float sum = 0.0F;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const float* part = plan.Partial(row_block, chunk, width);
        kernels_.merge_chunk(part + h * width, part[kAttendHeads * width + h], part[kAttendHeads * (width + 1) + h],
                             a.head_dim, out, &max, &sum);
      }
      if (chunks > 0) {
        kernels_.scale_row(out, 1.0F / sum, nullptr, width, out);
      }
    }
  }
}

}  // namespace alphecca::kernels::cpu

#include "kernels/host/host_kv_pool.h"

#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/check.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels {
namespace {

void StoreRun(DType type, const float* from, int count, std::byte* to) {
  EncodeRow(type, {from, static_cast<size_t>(count)}, 1.0F, to);
}

absl::Status CheckSpec(const KvPoolSpec& spec) {
  if (spec.type != DType::kF32 && spec.type != DType::kBF16) {
    return absl::InvalidArgumentError(absl::StrCat("KV pool of type ", TypeName(spec.type), ": want F32 or BF16"));
  }
  if (spec.block_tokens <= 0 || spec.num_blocks < 0 || spec.num_blocks > INT32_MAX || spec.num_slots < 0 ||
      spec.max_blocks_per_slot < 0 || spec.max_blocks_per_slot > INT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("KV pool of ", spec.num_blocks, " blocks of ", spec.block_tokens,
                                                   " tokens, ", spec.num_slots, " slots of ", spec.max_blocks_per_slot,
                                                   " blocks: want positive tokens, counts from 0 to 2^31 - 1"));
  }
  for (const KvLayerShape& layer : spec.layers) {
    if (layer.kv_heads < 0 || layer.head_dim < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("KV layer of ", layer.kv_heads, " heads of width ", layer.head_dim, ": want 0 or more"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<HostKvPool>> HostKvPool::Create(const KvPoolSpec& spec) {
  RETURN_IF_ERROR(CheckSpec(spec));
  auto pool = std::make_unique<HostKvPool>();
  pool->spec = spec;
  for (const KvLayerShape& layer : spec.layers) {
    int64_t bytes = 2 * pool->ElementBytes();
    for (const int64_t factor :
         {int64_t{layer.kv_heads}, int64_t{layer.head_dim}, int64_t{spec.block_tokens}, spec.num_blocks}) {
      if (__builtin_mul_overflow(bytes, factor, &bytes)) {
        return absl::InvalidArgumentError(absl::StrCat("KV pool of ", spec.num_blocks, " blocks is too large"));
      }
    }
    ASSIGN_OR_RETURN(HostMemory memory, HostMemory::Create(bytes));
    pool->bytes += bytes;
    pool->layers_.push_back(std::move(memory));
  }
  int64_t entries = 0;
  int64_t table_bytes = 0;
  if (__builtin_mul_overflow(int64_t{spec.num_slots}, spec.max_blocks_per_slot, &entries) ||
      __builtin_mul_overflow(entries, int64_t{sizeof(int32_t)}, &table_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("block table of ", spec.num_slots, " slots of ",
                                                   spec.max_blocks_per_slot, " blocks is too large"));
  }
  try {
    pool->table_.assign(static_cast<size_t>(entries), -1);
  } catch (const std::exception&) {  // bad_alloc, length_error
    return absl::ResourceExhaustedError(absl::StrCat("no memory for a block table of ", table_bytes, " bytes"));
  }
  pool->bytes += table_bytes;
  return pool;
}

void HostKvPool::Update(const BlockTableUpdate& u) {
  Check(u.slot >= 0 && u.slot < spec.num_slots, "slot of a block table update");
  Check(u.index >= 0 && u.index < spec.max_blocks_per_slot, "index of a block table update");
  Check(u.block >= -1 && u.block < spec.num_blocks, "block of a block table update");
  table_[static_cast<size_t>(u.slot * spec.max_blocks_per_slot + u.index)] = u.block;
}

std::span<const int32_t> HostKvPool::Table(int32_t slot) const {
  Check(slot >= 0 && slot < spec.num_slots, "slot of a pool");
  return std::span(table_).subspan(static_cast<size_t>(slot * spec.max_blocks_per_slot),
                                   static_cast<size_t>(spec.max_blocks_per_slot));
}

int32_t HostKvPool::BlockOf(int32_t slot, int64_t position) const {
  const std::span<const int32_t> table = Table(slot);
  const int64_t index = position / spec.block_tokens;
  Check(position >= 0 && index < spec.max_blocks_per_slot, "position of a slot");
  const int32_t block = table[static_cast<size_t>(index)];
  Check(block >= 0, "a block at every position that is read or written");
  return block;
}

void HostKvPool::Store(int layer, int32_t slot, int64_t position, int head, const float* key, const float* value) {
  const int width = spec.layers[Index(layer)].head_dim;
  const int32_t block = BlockOf(slot, position);
  const int64_t offset = position % spec.block_tokens * width * ElementBytes();
  StoreRun(spec.type, key, width, Keys(layer, block, head) + offset);
  StoreRun(spec.type, value, width, Values(layer, block, head) + offset);
}

void HostKvPool::Load(int layer, int32_t slot, int64_t position, int head, float* key, float* value) const {
  const int width = spec.layers[Index(layer)].head_dim;
  const int32_t block = BlockOf(slot, position);
  const int64_t offset = position % spec.block_tokens * width * ElementBytes();
  DecodeRow(spec.type, Keys(layer, block, head) + offset, {0, width}, 1.0F, key);
  DecodeRow(spec.type, Values(layer, block, head) + offset, {0, width}, 1.0F, value);
}

void HostKvPool::CopyBlock(int32_t from, int32_t to) {
  Check(from >= 0 && from < spec.num_blocks && to >= 0 && to < spec.num_blocks, "blocks of a copy");
  if (from == to) {
    return;
  }
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const int64_t size = BlockBytes(static_cast<int>(layer));
    std::memcpy(layers_[layer].data() + to * size, layers_[layer].data() + from * size, static_cast<size_t>(size));
  }
}

}  // namespace alphecca::kernels

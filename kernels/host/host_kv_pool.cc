#include "kernels/host/host_kv_pool.h"

#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/check.h"
#include "kernels/kv_type.h"
#include "kernels/quant/quant.h"

namespace alphecca::kernels {
namespace {

constexpr int kBlock = Info(DType::kQ8_0).block_elements;
constexpr int kScaleBytes = Info(DType::kQ8_0).block_bytes - kBlock;

// Rows of Q8_0 blocks, scale first as files have them, and rows with all scales at the end.
void MoveScalesToEnd(const std::byte* blocks, int width, std::byte* row) {
  for (int i = 0; i < width / kBlock; ++i, blocks += kScaleBytes + kBlock) {
    std::memcpy(row + i * kBlock, blocks + kScaleBytes, kBlock);
    std::memcpy(row + width + i * kScaleBytes, blocks, kScaleBytes);
  }
}
void MoveScalesToBlocks(const std::byte* row, int width, std::byte* blocks) {
  for (int i = 0; i < width / kBlock; ++i, blocks += kScaleBytes + kBlock) {
    std::memcpy(blocks + kScaleBytes, row + i * kBlock, kBlock);
    std::memcpy(blocks, row + width + i * kScaleBytes, kScaleBytes);
  }
}

void EncodeStored(DType type, const float* x, int width, std::byte* row) {
  const std::span<const float> values(x, static_cast<size_t>(width));
  if (type != DType::kQ8_0) {
    return EncodeRow(type, values, 1.0F, row);
  }
  std::vector<std::byte> blocks(static_cast<size_t>(RowBytes(type, width)));
  EncodeRow(type, values, 1.0F, blocks.data());
  MoveScalesToEnd(blocks.data(), width, row);
}
void DecodeStored(DType type, const std::byte* row, int width, float* x) {
  if (type != DType::kQ8_0) {
    return DecodeRow(type, row, {0, width}, 1.0F, x);
  }
  std::vector<std::byte> blocks(static_cast<size_t>(RowBytes(type, width)));
  MoveScalesToBlocks(row, width, blocks.data());
  DecodeRow(type, blocks.data(), {0, width}, 1.0F, x);
}

// Elements of `kBytes`, `stride` elements apart in `from` and `to`.
template <int kBytes>
void CopyStrided(const std::byte* from, int64_t from_stride, int64_t count, std::byte* to, int64_t to_stride) {
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to + i * to_stride * kBytes, from + i * from_stride * kBytes, kBytes);
  }
}

// One key from a group of `from_tokens` to one of `to_tokens`; a row is a group of one.
void CopyKey(DType type, int width, const std::byte* from, int64_t from_token, int64_t from_tokens, std::byte* to,
             int64_t to_token, int64_t to_tokens) {
  switch (type) {
    case DType::kF32:
      return CopyStrided<4>(from + 4 * from_token, from_tokens, width, to + 4 * to_token, to_tokens);
    case DType::kBF16:
      return CopyStrided<2>(from + 2 * from_token, from_tokens, width, to + 2 * to_token, to_tokens);
    default:
      CopyStrided<1>(from + from_token, from_tokens, width, to + to_token, to_tokens);
      return CopyStrided<kScaleBytes>(from + width * from_tokens + kScaleBytes * from_token, from_tokens,
                                      width / kBlock, to + width * to_tokens + kScaleBytes * to_token, to_tokens);
  }
}

absl::Status CheckSpec(const KvPoolSpec& spec) {
  RETURN_IF_ERROR(CheckKvType(spec.type, 0));
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
    RETURN_IF_ERROR(CheckKvType(spec.type, layer.head_dim));
  }
  return absl::OkStatus();
}

}  // namespace

void InterleaveKey(DType type, int width, const std::byte* row, int64_t token, int64_t tokens, std::byte* group) {
  CopyKey(type, width, row, 0, 1, group, token, tokens);
}

void ExtractKey(DType type, int width, const std::byte* group, int64_t token, int64_t tokens, std::byte* row) {
  CopyKey(type, width, group, token, tokens, row, 0, 1);
}

absl::StatusOr<std::unique_ptr<HostKvPool>> HostKvPool::Create(const KvPoolSpec& spec) {
  RETURN_IF_ERROR(CheckSpec(spec));
  auto pool = std::make_unique<HostKvPool>();
  pool->spec = spec;
  for (const KvLayerShape& layer : spec.layers) {
    int64_t bytes = 2 * RowBytes(spec.type, layer.head_dim);
    for (const int64_t factor : {int64_t{layer.kv_heads}, int64_t{spec.block_tokens}, spec.num_blocks}) {
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

void HostKvPool::PutKey(int layer, int32_t block, int head, int64_t token, const std::byte* row) {
  InterleaveKey(spec.type, spec.layers[Index(layer)].head_dim, row, token % key_group(), key_group(),
                KeyGroup(layer, block, head, token));
}

void HostKvPool::GetKey(int layer, int32_t block, int head, int64_t token, std::byte* row) const {
  ExtractKey(spec.type, spec.layers[Index(layer)].head_dim, KeyGroup(layer, block, head, token), token % key_group(),
             key_group(), row);
}

void HostKvPool::Store(int layer, int32_t slot, int64_t position, int head, const float* key, const float* value) {
  const int width = spec.layers[Index(layer)].head_dim;
  const int32_t block = BlockOf(slot, position);
  const int64_t token = position % spec.block_tokens;
  std::vector<std::byte> row(static_cast<size_t>(RowOf(layer)));
  EncodeStored(spec.type, key, width, row.data());
  PutKey(layer, block, head, token, row.data());
  EncodeStored(spec.type, value, width, Value(layer, block, head, token));
}

void HostKvPool::Load(int layer, int32_t slot, int64_t position, int head, float* key, float* value) const {
  const int width = spec.layers[Index(layer)].head_dim;
  const int32_t block = BlockOf(slot, position);
  const int64_t token = position % spec.block_tokens;
  std::vector<std::byte> row(static_cast<size_t>(RowOf(layer)));
  GetKey(layer, block, head, token, row.data());
  DecodeStored(spec.type, row.data(), width, key);
  DecodeStored(spec.type, Value(layer, block, head, token), width, value);
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

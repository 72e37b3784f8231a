// A KV pool in host memory.
//
// Layout: each layer is [num_blocks][K], for each head of a block its S keys, then its S values.
//   A value is a row of Hd elements; in Q8_0 Hd int8 first, then a scale (f16) for every 32 of them.
//   Keys are interleaved in groups of G tokens, G being kKeyGroup, or S if that is no multiple of it: [S / G][Hd][G];
//   in Q8_0 a group is [Hd][G] int8, then [Hd / 32][G] scales. So scores of a group's keys need neither shuffles nor
//   sums across a vector.
// Block tables are [num_slots][max_blocks_per_slot], -1 where a slot has no block.
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

inline constexpr int kKeyGroup = 16;

// Puts a key, given as a row laid out like a value, into its place among the `tokens` of a group; or takes it out.
void InterleaveKey(DType type, int width, const std::byte* row, int64_t token, int64_t tokens, std::byte* group);
void ExtractKey(DType type, int width, const std::byte* group, int64_t token, int64_t tokens, std::byte* row);

class HostKvPool : public KvPool {
 public:
  // InvalidArgument, ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<HostKvPool>> Create(const KvPoolSpec& spec);

  void Update(const BlockTableUpdate& update);

  // The physical block that holds `position` of `slot`; aborts if the slot has none there.
  int32_t BlockOf(int32_t slot, int64_t position) const;
  // Of a slot, by logical block; -1 where none.
  std::span<const int32_t> Table(int32_t slot) const;

  // Tokens of a group, G.
  int key_group() const { return spec.block_tokens % kKeyGroup == 0 ? kKeyGroup : spec.block_tokens; }
  // The group of keys that holds a token of a block.
  std::byte* KeyGroup(int layer, int32_t block, int head, int64_t token) {
    return layers_[Index(layer)].data() + KeyOffset(layer, block, head, token);
  }
  const std::byte* KeyGroup(int layer, int32_t block, int head, int64_t token) const {
    return layers_[Index(layer)].data() + KeyOffset(layer, block, head, token);
  }
  std::byte* Value(int layer, int32_t block, int head, int64_t token) {
    return layers_[Index(layer)].data() + ValueOffset(layer, block, head, token);
  }
  const std::byte* Value(int layer, int32_t block, int head, int64_t token) const {
    return layers_[Index(layer)].data() + ValueOffset(layer, block, head, token);
  }
  // One token's key, laid out like a value. Different tokens may be put at the same time.
  void PutKey(int layer, int32_t block, int head, int64_t token, const std::byte* row);
  void GetKey(int layer, int32_t block, int head, int64_t token, std::byte* row) const;

  // Key and value of one head at one position: Hd floats each, rounded to spec.type.
  void Store(int layer, int32_t slot, int64_t position, int head, const float* key, const float* value);
  void Load(int layer, int32_t slot, int64_t position, int head, float* key, float* value) const;

  void CopyBlock(int32_t from, int32_t to);

 private:
  static size_t Index(int layer) { return static_cast<size_t>(layer); }
  int64_t RowOf(int layer) const { return RowBytes(spec.type, spec.layers[Index(layer)].head_dim); }
  // Bytes of the keys (or values) of one head in one block.
  int64_t RunBytes(int layer) const { return spec.block_tokens * RowOf(layer); }
  int64_t BlockBytes(int layer) const { return 2 * spec.layers[Index(layer)].kv_heads * RunBytes(layer); }
  int64_t KeyOffset(int layer, int32_t block, int head, int64_t token) const {
    return block * BlockBytes(layer) + 2 * head * RunBytes(layer) + (token - token % key_group()) * RowOf(layer);
  }
  int64_t ValueOffset(int layer, int32_t block, int head, int64_t token) const {
    return block * BlockBytes(layer) + (2 * head + 1) * RunBytes(layer) + token * RowOf(layer);
  }

  std::vector<HostMemory> layers_;
  std::vector<int32_t> table_;
};

}  // namespace alphecca::kernels

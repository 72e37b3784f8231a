// A KV pool in host memory.
//
// Layout: each layer is [num_blocks][K][2 (key, value)][S][Hd] of F32 or BF16, so the keys of one head in one block are
// one run of S * Hd values, followed by its values: an attention head streams both. Block tables are
// [num_slots][max_blocks_per_slot], -1 where a slot has no block.
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

class HostKvPool : public KvPool {
 public:
  // InvalidArgument, ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<HostKvPool>> Create(const KvPoolSpec& spec);

  void Update(const BlockTableUpdate& update);

  // The physical block that holds `position` of `slot`; aborts if the slot has none there.
  int32_t BlockOf(int32_t slot, int64_t position) const;
  // Of a slot, by logical block; -1 where none.
  std::span<const int32_t> Table(int32_t slot) const;

  // [S, Hd] of spec.type.
  std::byte* Keys(int layer, int32_t block, int head) {
    return layers_[Index(layer)].data() + Offset(layer, block, head);
  }
  const std::byte* Keys(int layer, int32_t block, int head) const {
    return layers_[Index(layer)].data() + Offset(layer, block, head);
  }
  std::byte* Values(int layer, int32_t block, int head) { return Keys(layer, block, head) + RunBytes(layer); }
  const std::byte* Values(int layer, int32_t block, int head) const {
    return Keys(layer, block, head) + RunBytes(layer);
  }

  // Key and value of one head at one position: Hd floats each, rounded to spec.type.
  void Store(int layer, int32_t slot, int64_t position, int head, const float* key, const float* value);
  void Load(int layer, int32_t slot, int64_t position, int head, float* key, float* value) const;

  void CopyBlock(int32_t from, int32_t to);

 private:
  static size_t Index(int layer) { return static_cast<size_t>(layer); }
  int64_t ElementBytes() const { return Info(spec.type).block_bytes; }
  // Bytes of the keys (or values) of one head in one block.
  int64_t RunBytes(int layer) const {
    return int64_t{spec.block_tokens} * spec.layers[Index(layer)].head_dim * ElementBytes();
  }
  int64_t BlockBytes(int layer) const { return 2 * spec.layers[Index(layer)].kv_heads * RunBytes(layer); }
  int64_t Offset(int layer, int32_t block, int head) const {
    return block * BlockBytes(layer) + 2 * head * RunBytes(layer);
  }

  std::vector<HostMemory> layers_;
  std::vector<int32_t> table_;
};

}  // namespace alphecca::kernels

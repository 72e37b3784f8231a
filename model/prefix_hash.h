// Names for blocks of a KV cache by what they hold: a chain of keyed hashes over a sequence's tokens.
//
// The hash of a block covers its tokens, all blocks before it, the tenant and the model's revision. The key is secret
// and shared by the coordinator and the workers it assigned: so nobody outside can make two prefixes collide, and no
// tenant can find another's prefix by timing. SipHash-2-4 with 128 bits of output (Aumasson, Bernstein, "SipHash: a
// fast short-input PRF", 2012).
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace alphecca::model {

using PrefixKey = std::array<uint64_t, 2>;

// From the system's generator of secrets. Unavailable: it has none to give.
absl::StatusOr<PrefixKey> DrawPrefixKey();

struct BlockHash {
  uint64_t lo = 0;
  uint64_t hi = 0;
  auto operator<=>(const BlockHash&) const = default;
  template <typename H>
  friend H AbslHashValue(H state, const BlockHash& hash) {
    return H::combine(std::move(state), hash.lo, hash.hi);
  }
};

// SipHash-2-4-128 of bytes.
BlockHash SipHash128(const PrefixKey& key, std::span<const std::byte> bytes);

class PrefixHasher {
 public:
  PrefixHasher(const PrefixKey& key, std::string_view revision, int block_tokens);

  int block_tokens() const { return block_tokens_; }

  // What comes before the first block of a tenant's sequences.
  BlockHash Root(std::string_view tenant) const;
  // The block of these tokens (block_tokens of them) after `parent`.
  BlockHash Next(const BlockHash& parent, std::span<const int32_t> tokens) const;
  // The full blocks of a sequence, in order; a last block that is not full has no hash.
  std::vector<BlockHash> Blocks(std::string_view tenant, std::span<const int32_t> tokens) const;

 private:
  PrefixKey key_;
  BlockHash revision_;
  int block_tokens_;
};

}  // namespace alphecca::model

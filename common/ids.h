// Strong identifiers: a bare int never crosses a boundary where it could be taken for another one.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace alphecca {

template <typename Tag, typename T>
struct StrongId {
  T value{};
  constexpr StrongId() = default;
  constexpr explicit StrongId(T v) : value(v) {}
  friend constexpr auto operator<=>(const StrongId&, const StrongId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const StrongId& id) {
    return H::combine(std::move(h), id.value);
  }
};

using SequenceId = StrongId<struct SequenceIdTag, uint64_t>;  // unique on one group stream
using WorkerId = StrongId<struct WorkerIdTag, uint64_t>;      // given by the coordinator
using GroupId = StrongId<struct GroupIdTag, uint64_t>;        // a shard group (one replica)
using Epoch = StrongId<struct EpochTag, uint64_t>;            // grows with each assignment
using BlockId = StrongId<struct BlockIdTag, int32_t>;         // a KV block within its pool
using Slot = StrongId<struct SlotTag, int32_t>;               // a running sequence's row of the block tables

}  // namespace alphecca

// Changes of the prefix cache that a client has yet to be told.
#pragma once

#include <cstddef>

#include "absl/container/flat_hash_set.h"
#include "alphecca/v1/engine.pb.h"
#include "model/prefix_hash.h"
#include "worker/engine/engine.h"

namespace alphecca::worker {

// A block that came and went cancels out, and so does one that went and came back: however long a client does not read,
// what waits is at most what it was told and what is cached. One thread at a time.
class BlockBacklog {
 public:
  void Add(const engine::BlockEvents& events);
  bool empty() const { return removed_.empty() && stored_.empty(); }
  // Moves at most `blocks` changes into `to`, removals first.
  void Take(size_t blocks, v1::BlockEvents& to);
  void Clear();

 private:
  absl::flat_hash_set<model::BlockHash> removed_;
  absl::flat_hash_set<model::BlockHash> stored_;
};

}  // namespace alphecca::worker

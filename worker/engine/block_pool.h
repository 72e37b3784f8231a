// The physical KV blocks of one pool: who uses each, and what those hold that nobody uses.
//
// A block is free; or in use, by one sequence or several that share it; or idle: used by none, but it has a name (the
// hash of what it holds, model/prefix_hash.h) and is kept until its room is wanted. Idle blocks go in the order in
// which they became idle. Who gives back a sequence's blocks last first thereby keeps a block longer than those that
// continue it: leaves go first.
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/hash/hash.h"
#include "model/prefix_hash.h"

namespace alphecca::engine {

// What a prefix cache gained and lost; a hash is in one of the lists at most.
struct BlockEvents {
  std::vector<model::BlockHash> stored;
  std::vector<model::BlockHash> removed;
};

class BlockPool {
 public:
  explicit BlockPool(int64_t capacity);

  int64_t capacity() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t used() const { return capacity() - available(); }
  int64_t available() const { return static_cast<int64_t>(free_.size()) + idle_count_; }
  int64_t idle() const { return idle_count_; }

  // A block for one user: a free one, else the idle one that has been so longest, which loses its name. -1: all are in
  // use.
  int32_t Take();
  // One user more, of a block in use or idle.
  void Share(int32_t block);
  // One user less.
  void Drop(int32_t block);
  int users(int32_t block) const { return At(block).users; }
  bool named(int32_t block) const { return At(block).named; }

  // Names a block in use. Nothing happens if it has a name or another block has this one.
  void Name(int32_t block, const model::BlockHash& hash);
  // The block of this name; -1: there is none.
  int32_t Find(const model::BlockHash& hash) const;

  // Names gained and lost since the last call.
  BlockEvents TakeEvents();
  std::vector<model::BlockHash> Names() const;

 private:
  struct Block {
    int users = 0;
    bool named = false;
    model::BlockHash name;
    int32_t before = -1;  // in the list of idle blocks
    int32_t after = -1;
  };
  Block& At(int32_t block) { return blocks_[static_cast<size_t>(block)]; }
  const Block& At(int32_t block) const { return blocks_[static_cast<size_t>(block)]; }
  void Append(int32_t block);
  void Unlink(int32_t block);
  void Forget(int32_t block);

  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // taken from the back
  int32_t oldest_ = -1;        // of the idle ones
  int32_t newest_ = -1;
  int64_t idle_count_ = 0;
  std::unordered_map<model::BlockHash, int32_t, absl::Hash<model::BlockHash>> by_name_;
  std::unordered_map<model::BlockHash, bool, absl::Hash<model::BlockHash>> changed_;  // true: gained
};

}  // namespace alphecca::engine

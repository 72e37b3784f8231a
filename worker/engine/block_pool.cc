#include "worker/engine/block_pool.h"

#include <algorithm>

namespace alphecca::engine {

BlockPool::BlockPool(int64_t capacity) : blocks_(static_cast<size_t>(std::max<int64_t>(capacity, 0))) {
  free_.reserve(blocks_.size());
  for (auto block = static_cast<int32_t>(blocks_.size()) - 1; block >= 0; --block) {
    free_.push_back(block);
  }
}

int32_t BlockPool::Take() {
  int32_t block = -1;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (oldest_ >= 0) {
    block = oldest_;
    Unlink(block);
    Forget(block);
  } else {
    return -1;
  }
  At(block).users = 1;
  return block;
}

void BlockPool::Share(int32_t block) {
  if (At(block).users++ == 0) {
    Unlink(block);
  }
}

void BlockPool::Drop(int32_t block) {
  if (--At(block).users > 0) {
    return;
  }
  if (At(block).named) {
    Append(block);
  } else {
    free_.push_back(block);
  }
}

void BlockPool::Name(int32_t block, const model::BlockHash& hash) {
  if (At(block).named || !by_name_.emplace(hash, block).second) {
    return;
  }
  At(block).named = true;
  At(block).name = hash;
  if (changed_.erase(hash) == 0) {
    changed_.emplace(hash, true);
  }
}

void BlockPool::Forget(int32_t block) {
  const model::BlockHash& hash = At(block).name;
  by_name_.erase(hash);
  if (changed_.erase(hash) == 0) {
    changed_.emplace(hash, false);
  }
  At(block).named = false;
}

int32_t BlockPool::Find(const model::BlockHash& hash) const {
  const auto found = by_name_.find(hash);
  return found == by_name_.end() ? -1 : found->second;
}

BlockEvents BlockPool::TakeEvents() {
  BlockEvents events;
  for (const auto& [hash, gained] : changed_) {
    (gained ? events.stored : events.removed).push_back(hash);
  }
  changed_.clear();
  return events;
}

std::vector<model::BlockHash> BlockPool::Names() const {
  std::vector<model::BlockHash> names;
  names.reserve(by_name_.size());
  for (const auto& [hash, block] : by_name_) {
    names.push_back(hash);
  }
  return names;
}

void BlockPool::Append(int32_t block) {
  At(block).before = newest_;
  At(block).after = -1;
  (newest_ >= 0 ? At(newest_).after : oldest_) = block;
  newest_ = block;
  ++idle_count_;
}

void BlockPool::Unlink(int32_t block) {
  const Block& entry = At(block);
  (entry.before >= 0 ? At(entry.before).after : oldest_) = entry.after;
  (entry.after >= 0 ? At(entry.after).before : newest_) = entry.before;
  --idle_count_;
}

}  // namespace alphecca::engine

#include "worker/rpc/block_backlog.h"

#include <bit>
#include <string>

namespace alphecca::worker {
namespace {

using Blocks = absl::flat_hash_set<model::BlockHash>;

static_assert(sizeof(model::BlockHash) == 16 && std::endian::native == std::endian::little);

void MoveOut(Blocks& blocks, size_t count, std::string& to) {
  auto block = blocks.begin();
  for (; count > 0 && block != blocks.end(); --count) {
    to.append(reinterpret_cast<const char*>(&*block), sizeof(*block));
    blocks.erase(block++);
  }
  if (blocks.empty()) {
    blocks = Blocks();  // a first snapshot's room is not kept
  }
}

}  // namespace

void BlockBacklog::Add(const engine::BlockEvents& events) {
  for (const model::BlockHash& block : events.removed) {
    if (stored_.erase(block) == 0) {
      removed_.insert(block);
    }
  }
  for (const model::BlockHash& block : events.stored) {
    if (removed_.erase(block) == 0) {
      stored_.insert(block);
    }
  }
}

void BlockBacklog::Take(size_t blocks, v1::BlockEvents& to) {
  MoveOut(removed_, blocks, *to.mutable_removed());
  MoveOut(stored_, blocks - to.removed().size() / sizeof(model::BlockHash), *to.mutable_stored());
}

void BlockBacklog::Clear() {
  removed_ = Blocks();
  stored_ = Blocks();
}

}  // namespace alphecca::worker

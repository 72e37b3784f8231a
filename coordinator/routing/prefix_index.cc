#include "coordinator/routing/prefix_index.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace alphecca::coordinator {
namespace {

constexpr size_t kStride = 16;          // blocks of a chain
constexpr size_t kChangesAtOnce = 256;  // under one hold of the lock
constexpr int64_t kSlotBytes = 17;

template <typename Change>
void InParts(std::span<const model::BlockHash> blocks, Change change) {
  while (!blocks.empty()) {
    const size_t count = std::min(blocks.size(), kChangesAtOnce);
    change(blocks.first(count));
    blocks = blocks.subspan(count);
  }
}

}  // namespace

// ---- Holders --------------------------------------------------------------------------------------------------------

PrefixIndex::Holder::Holder(std::shared_ptr<PrefixIndex> index, size_t shelf, uint64_t bit, std::string revision,
                            int block_tokens)
    : index_(std::move(index)),
      shelf_(shelf),
      bit_(bit),
      revision_(std::move(revision)),
      hasher_(index_->key_, revision_, block_tokens) {}

PrefixIndex::Holder::~Holder() {
  index_->Drop(*this);
}

bool PrefixIndex::Holder::HashesAs(const Holder& other) const {
  return hasher_.block_tokens() == other.hasher_.block_tokens() && revision_ == other.revision_;
}

void PrefixIndex::Holder::Apply(std::span<const model::BlockHash> removed,
                                std::span<const model::BlockHash> stored) const {
  InParts(removed, [this](std::span<const model::BlockHash> blocks) { index_->Remove(*this, blocks); });
  InParts(stored, [this](std::span<const model::BlockHash> blocks) { index_->Store(*this, blocks); });
}

std::shared_ptr<const PrefixIndex::Holder> PrefixIndex::Add(std::string revision, int block_tokens) {
  size_t at = 0;
  uint64_t bit = 0;
  {
    const MutexLock lock(mutex_);
    const auto full = [](const Shelf& shelf) { return (shelf.live | shelf.ended) == ~uint64_t{0}; };
    while (at < shelves_.size() && full(*shelves_[at])) {
      ++at;
    }
    if (at == shelves_.size()) {
      shelves_.push_back(std::make_unique<Shelf>());
    }
    Shelf& shelf = *shelves_[at];
    bit = uint64_t{1} << std::countr_one(shelf.live | shelf.ended);
    shelf.live |= bit;
  }
  return std::make_shared<const Holder>(shared_from_this(), at, bit, std::move(revision), block_tokens);
}

void PrefixIndex::Drop(const Holder& holder) {
  const MutexLock lock(mutex_);
  Shelf& shelf = *shelves_[holder.shelf_];
  shelf.live &= ~holder.bit_;
  shelf.ended |= holder.bit_;
}

void PrefixIndex::Store(const Holder& holder, std::span<const model::BlockHash> blocks) {
  const MutexLock lock(mutex_);
  Shelf& shelf = *shelves_[holder.shelf_];
  for (const model::BlockHash& block : blocks) {
    shelf.Of(block.lo)[block.lo] |= holder.bit_;
  }
}

void PrefixIndex::Remove(const Holder& holder, std::span<const model::BlockHash> blocks) {
  const MutexLock lock(mutex_);
  Shelf& shelf = *shelves_[holder.shelf_];
  for (const model::BlockHash& block : blocks) {
    Table& table = shelf.Of(block.lo);
    if (const auto found = table.find(block.lo); found != table.end()) {
      found->second &= ~(holder.bit_ | shelf.ended);
      if (found->second == 0) {
        table.erase(found);
      }
    }
  }
}

// ---- Look-up --------------------------------------------------------------------------------------------------------

std::vector<int64_t> PrefixIndex::Cached(std::string_view tenant, std::span<const int32_t> prompt,
                                         const Holders& holders) const {
  std::vector<int64_t> cached(holders.size(), 0);
  std::vector<size_t> left;
  for (size_t i = 0; i < holders.size(); ++i) {
    if (holders[i] != nullptr) {
      left.push_back(i);
    }
  }
  while (!left.empty() && !prompt.empty()) {
    // Those that one walk serves: all, where groups serve one revision and are few.
    const Holder& first = *holders[left.front()];
    const auto others = std::stable_partition(left.begin(), left.end(), [&](size_t i) {
      return holders[i]->shelf_ == first.shelf_ && holders[i]->HashesAs(first);
    });
    uint64_t bits = 0;
    std::for_each(left.begin(), others, [&](size_t i) { bits |= holders[i]->bit_; });
    const Lengths lengths = Walk(first, bits, tenant, prompt.first(prompt.size() - 1));
    std::for_each(left.begin(), others, [&](size_t i) {
      cached[i] = lengths[static_cast<size_t>(std::countr_zero(holders[i]->bit_))] * first.hasher_.block_tokens();
    });
    left.erase(left.begin(), others);
  }
  return cached;
}

PrefixIndex::Lengths PrefixIndex::Walk(const Holder& alike, uint64_t bits, std::string_view tenant,
                                       std::span<const int32_t> tokens) const {
  const model::PrefixHasher& hasher = alike.hasher_;
  const auto size = static_cast<size_t>(hasher.block_tokens());
  const size_t blocks = tokens.size() / size;
  Lengths lengths = {};
  std::array<uint64_t, kStride> keys;
  model::BlockHash parent = hasher.Root(tenant);
  size_t done = 0;
  while (bits != 0 && done < blocks) {
    const size_t count = std::min(kStride, blocks - done);
    for (size_t i = 0; i < count; ++i) {
      parent = hasher.Next(parent, tokens.subspan((done + i) * size, size));
      keys[i] = parent.lo;
    }
    bits = Match(alike.shelf_, bits, static_cast<int64_t>(done), std::span(keys).first(count), lengths);
    done += count;
  }
  for (; bits != 0; bits &= bits - 1) {
    lengths[static_cast<size_t>(std::countr_zero(bits))] = static_cast<int64_t>(blocks);
  }
  return lengths;
}

uint64_t PrefixIndex::Match(size_t shelf, uint64_t bits, int64_t first, std::span<const uint64_t> keys,
                            Lengths& lengths) const {
  const MutexLock lock(mutex_);
  const Shelf& tables = *shelves_[shelf];
  const uint64_t have = bits & tables.HoldersOf(keys.back());
  uint64_t others = bits & ~have;
  for (size_t i = 0; i < keys.size() && others != 0; ++i) {
    const uint64_t go_on = others & tables.HoldersOf(keys[i]);
    for (uint64_t end = others & ~go_on; end != 0; end &= end - 1) {
      lengths[static_cast<size_t>(std::countr_zero(end))] = first + static_cast<int64_t>(i);
    }
    others = go_on;
  }
  return have;
}

uint64_t PrefixIndex::Shelf::HoldersOf(uint64_t key) const {
  const Table& table = tables[key >> (64 - kTableBits)];
  const auto found = table.find(key);
  return found == table.end() ? 0 : found->second;
}

// ---- Sweeping -------------------------------------------------------------------------------------------------------

void PrefixIndex::Sweep() {
  const MutexLock one(sweep_mutex_);
  const std::vector<uint64_t> ended = Ended();
  for (size_t shelf = 0; shelf < ended.size(); ++shelf) {
    if (ended[shelf] == 0) {
      continue;
    }
    for (size_t table = 0; table < kTables; ++table) {
      SweepTable(shelf, table, ended[shelf]);
    }
    const MutexLock lock(mutex_);
    shelves_[shelf]->ended &= ~ended[shelf];
  }
}

std::vector<uint64_t> PrefixIndex::Ended() const {
  const MutexLock lock(mutex_);
  std::vector<uint64_t> ended;
  for (const auto& shelf : shelves_) {
    ended.push_back(shelf->ended);
  }
  return ended;
}

void PrefixIndex::SweepTable(size_t shelf, size_t index, uint64_t ended) {
  const MutexLock lock(mutex_);
  Table& table = shelves_[shelf]->tables[index];
  for (auto entry = table.begin(); entry != table.end();) {
    entry->second &= ~ended;
    if (entry->second == 0) {
      table.erase(entry++);
    } else {
      ++entry;
    }
  }
  if (table.size() < table.capacity() / 4) {
    table.rehash(0);  // to what is left
  }
}

PrefixIndex::Size PrefixIndex::size() const {
  const MutexLock lock(mutex_);
  Size size;
  for (const auto& shelf : shelves_) {
    for (const Table& table : shelf->tables) {
      size.blocks += static_cast<int64_t>(table.size());
      size.bytes += static_cast<int64_t>(table.capacity()) * kSlotBytes;
    }
  }
  return size;
}

}  // namespace alphecca::coordinator

// Which groups hold which KV blocks in their prefix caches, as their leaders tell it: how much of a prompt each would
// not have to compute. What it says is a hint: caches change before a request arrives.
//
// A block is known by 64 of its hash's 128 bits. Hashes are keyed, so nobody can make two of them meet; two that meet
// by chance send a request to a group that turns out to lack its prefix.
//
// A flat table maps each block to a bit set of the holders that have it: 17 bytes a slot (8 of the hash, 8 of the set,
// 1 of control), 7/16 to 7/8 of the slots in use, so 19 to 39 bytes a block, however many of 64 holders have it. Beyond
// 64 holders there are further tables ("shelves"). A shelf is 64 tables by the hash's upper bits, so that growing one,
// or sweeping it, takes a 64th of the time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "common/mutex.h"
#include "model/prefix_hash.h"

namespace alphecca::coordinator {

// Thread-safe. No call holds a lock for longer than a few hundred look-ups take. Made by std::make_shared: holders keep
// it alive.
class PrefixIndex : public std::enable_shared_from_this<PrefixIndex> {
 public:
  // The blocks of one stream to a group. With its last reference they are forgotten: at once for Cached, their memory
  // is free after the next Sweep.
  class Holder {
   public:
    Holder(std::shared_ptr<PrefixIndex> index, size_t shelf, uint64_t bit, std::string revision, int block_tokens);
    ~Holder();
    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;

    // What the cache lost, then what it gained. Blocks unknown or known already change nothing.
    void Apply(std::span<const model::BlockHash> removed, std::span<const model::BlockHash> stored) const;

   private:
    friend class PrefixIndex;
    bool HashesAs(const Holder& other) const;

    const std::shared_ptr<PrefixIndex> index_;
    const size_t shelf_;
    const uint64_t bit_;
    const std::string revision_;
    const model::PrefixHasher hasher_;
  };
  using Holders = std::vector<std::shared_ptr<const Holder>>;

  // `key`: that of the groups' assignments.
  explicit PrefixIndex(const model::PrefixKey& key) : key_(key) {}

  // A holder of nothing yet, whose blocks have `block_tokens` (at least 1) tokens of this revision of a model.
  std::shared_ptr<const Holder> Add(std::string revision, int block_tokens) ABSL_LOCKS_EXCLUDED(mutex_);

  // For each holder (null: 0), how many of the prompt's first tokens lie in blocks that it has; never the last token,
  // which is computed in any case. Goes along the chain of blocks 16 at a time, and only as far as any of the holders
  // has them: who has the last of the 16 is taken to have all, for others the first is looked for that they lack.
  // Caches lose the ends of chains first, so that a gap before a block that is there is rare; at worst the choice is.
  std::vector<int64_t> Cached(std::string_view tenant, std::span<const int32_t> prompt, const Holders& holders) const
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Frees what ended holders had; call it now and then.
  void Sweep() ABSL_LOCKS_EXCLUDED(mutex_, sweep_mutex_);

  struct Size {
    int64_t blocks = 0;  // of each shelf; those of ended holders until they are swept
    int64_t bytes = 0;   // of the tables
  };
  Size size() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  static constexpr int kTableBits = 6;
  static constexpr size_t kTables = size_t{1} << kTableBits;
  struct AsItIs {  // keys are hashes
    size_t operator()(uint64_t key) const { return key; }
  };
  using Table = absl::flat_hash_map<uint64_t, uint64_t, AsItIs>;  // block -> holders, a bit each
  struct Shelf {
    uint64_t live = 0;   // bits of holders
    uint64_t ended = 0;  // bits that Sweep has yet to clear
    std::array<Table, kTables> tables;
    Table& Of(uint64_t key) { return tables[key >> (64 - kTableBits)]; }
    uint64_t HoldersOf(uint64_t key) const;
  };
  // By bit, how many of the chain's first blocks each of some holders of a shelf has.
  using Lengths = std::array<int64_t, 64>;

  void Drop(const Holder& holder) ABSL_LOCKS_EXCLUDED(mutex_);
  void Store(const Holder& holder, std::span<const model::BlockHash> blocks) ABSL_LOCKS_EXCLUDED(mutex_);
  void Remove(const Holder& holder, std::span<const model::BlockHash> blocks) ABSL_LOCKS_EXCLUDED(mutex_);
  Lengths Walk(const Holder& alike, uint64_t bits, std::string_view tenant, std::span<const int32_t> tokens) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Goes on from block `first`: returns the bits of those that have all of `keys`, and sets the lengths of the others.
  uint64_t Match(size_t shelf, uint64_t bits, int64_t first, std::span<const uint64_t> keys, Lengths& lengths) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<uint64_t> Ended() const ABSL_LOCKS_EXCLUDED(mutex_);  // bits, by shelf
  void SweepTable(size_t shelf, size_t table, uint64_t ended) ABSL_LOCKS_EXCLUDED(mutex_);

  const model::PrefixKey key_;
  Mutex sweep_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);  // one sweep at a time: bits it clears are then free
  mutable Mutex mutex_;
  std::vector<std::unique_ptr<Shelf>> shelves_ ABSL_GUARDED_BY(mutex_);  // only grows
};

}  // namespace alphecca::coordinator

#include "model/prefix_hash.h"

#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace alphecca::model {
namespace {

struct SipState {
  uint64_t v0, v1, v2, v3;

  void Rounds(int count) {
    for (int i = 0; i < count; ++i) {
      v0 += v1;
      v1 = std::rotl(v1, 13) ^ v0;
      v0 = std::rotl(v0, 32);
      v2 += v3;
      v3 = std::rotl(v3, 16) ^ v2;
      v0 += v3;
      v3 = std::rotl(v3, 21) ^ v0;
      v2 += v1;
      v1 = std::rotl(v1, 17) ^ v2;
      v2 = std::rotl(v2, 32);
    }
  }
  void Absorb(uint64_t word) {
    v3 ^= word;
    Rounds(2);
    v0 ^= word;
  }
  uint64_t Folded() const { return v0 ^ v1 ^ v2 ^ v3; }
};

static_assert(std::endian::native == std::endian::little, "words are little-endian");

// At most 8 bytes.
uint64_t Word(std::span<const std::byte> bytes) {
  uint64_t word = 0;
  if (!bytes.empty()) {  // an empty span may have no address
    std::memcpy(&word, bytes.data(), bytes.size());
  }
  return word;
}

// Of the head's words and the tail's bytes, as of one array.
BlockHash Hash(const PrefixKey& key, std::span<const uint64_t> head, std::span<const std::byte> tail) {
  SipState s{.v0 = key[0] ^ 0x736f6d6570736575ULL,
             .v1 = key[1] ^ 0x646f72616e646f6dULL ^ 0xee,
             .v2 = key[0] ^ 0x6c7967656e657261ULL,
             .v3 = key[1] ^ 0x7465646279746573ULL};
  for (const uint64_t word : head) {
    s.Absorb(word);
  }
  const size_t whole = tail.size() / 8 * 8;
  for (size_t i = 0; i < whole; i += 8) {
    s.Absorb(Word(tail.subspan(i, 8)));
  }
  const size_t size = head.size_bytes() + tail.size();
  s.Absorb(Word(tail.subspan(whole)) | uint64_t{size & 0xff} << 56);
  BlockHash hash;
  s.v2 ^= 0xee;
  s.Rounds(4);
  hash.lo = s.Folded();
  s.v1 ^= 0xdd;
  s.Rounds(4);
  hash.hi = s.Folded();
  return hash;
}

BlockHash HashBehind(const PrefixKey& key, const BlockHash& before, std::span<const std::byte> bytes) {
  const std::array<uint64_t, 2> head = {before.lo, before.hi};
  return Hash(key, head, bytes);
}

}  // namespace

absl::StatusOr<PrefixKey> DrawPrefixKey() {
  PrefixKey key;
  if (getentropy(key.data(), sizeof(key)) != 0) {
    return absl::UnavailableError(
        absl::StrCat("the system gives no random bytes for the prefix cache's key: ", std::strerror(errno)));
  }
  return key;
}

BlockHash SipHash128(const PrefixKey& key, std::span<const std::byte> bytes) {
  return Hash(key, {}, bytes);
}

PrefixHasher::PrefixHasher(const PrefixKey& key, std::string_view revision, int block_tokens)
    : key_(key), revision_(SipHash128(key, std::as_bytes(std::span(revision)))), block_tokens_(block_tokens) {}

BlockHash PrefixHasher::Root(std::string_view tenant) const {
  return HashBehind(key_, revision_, std::as_bytes(std::span(tenant)));
}

BlockHash PrefixHasher::Next(const BlockHash& parent, std::span<const int32_t> tokens) const {
  return HashBehind(key_, parent, std::as_bytes(tokens));
}

std::vector<BlockHash> PrefixHasher::Blocks(std::string_view tenant, std::span<const int32_t> tokens) const {
  std::vector<BlockHash> hashes;
  const auto size = static_cast<size_t>(block_tokens_);
  hashes.reserve(tokens.size() / size);
  BlockHash parent = Root(tenant);
  for (size_t i = 0; i + size <= tokens.size(); i += size) {
    parent = Next(parent, tokens.subspan(i, size));
    hashes.push_back(parent);
  }
  return hashes;
}

}  // namespace alphecca::model

#include "model/prefix_hash.h"

#include <bit>
#include <cstring>

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

// Little-endian word of at most 8 bytes.
uint64_t Word(std::span<const std::byte> bytes) {
  uint64_t word = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    word |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  }
  return word;
}

void Append(std::vector<std::byte>& to, const BlockHash& hash) {
  const auto bytes = std::as_bytes(std::span(&hash, 1));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace

BlockHash SipHash128(const PrefixKey& key, std::span<const std::byte> bytes) {
  SipState s{.v0 = key[0] ^ 0x736f6d6570736575ULL,
             .v1 = key[1] ^ 0x646f72616e646f6dULL ^ 0xee,
             .v2 = key[0] ^ 0x6c7967656e657261ULL,
             .v3 = key[1] ^ 0x7465646279746573ULL};
  const size_t whole = bytes.size() / 8 * 8;
  for (size_t i = 0; i < whole; i += 8) {
    s.Absorb(Word(bytes.subspan(i, 8)));
  }
  s.Absorb(Word(bytes.subspan(whole)) | uint64_t{bytes.size() & 0xff} << 56);
  BlockHash hash;
  s.v2 ^= 0xee;
  s.Rounds(4);
  hash.lo = s.Folded();
  s.v1 ^= 0xdd;
  s.Rounds(4);
  hash.hi = s.Folded();
  return hash;
}

PrefixHasher::PrefixHasher(const PrefixKey& key, std::string_view revision, int block_tokens)
    : key_(key), revision_(SipHash128(key, std::as_bytes(std::span(revision)))), block_tokens_(block_tokens) {}

BlockHash PrefixHasher::Root(std::string_view tenant) const {
  std::vector<std::byte> bytes;
  Append(bytes, revision_);
  const auto name = std::as_bytes(std::span(tenant));
  bytes.insert(bytes.end(), name.begin(), name.end());
  return SipHash128(key_, bytes);
}

BlockHash PrefixHasher::Next(const BlockHash& parent, std::span<const int32_t> tokens) const {
  std::vector<std::byte> bytes;
  bytes.reserve(sizeof(parent) + tokens.size_bytes());
  Append(bytes, parent);
  const auto ids = std::as_bytes(tokens);
  bytes.insert(bytes.end(), ids.begin(), ids.end());
  return SipHash128(key_, bytes);
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

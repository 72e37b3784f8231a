#include "model/prefix_hash.h"

#include <cstring>
#include <numeric>
#include <set>
#include <string>

#include "gtest/gtest.h"

namespace alphecca::model {
namespace {

constexpr PrefixKey kKey = {0x0706050403020100ULL, 0x0f0e0d0c0b0a0908ULL};

std::string Hex(const BlockHash& hash) {
  std::string hex;
  for (const uint64_t word : {hash.lo, hash.hi}) {
    for (int byte = 0; byte < 8; ++byte) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      const auto value = static_cast<size_t>(word >> (8 * byte) & 0xff);
      hex += {kDigits[value / 16], kDigits[value % 16]};
    }
  }
  return hex;
}

std::vector<int32_t> Tokens(int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 100);
  return tokens;
}

// As `openssl mac -macopt hexkey:000102...0f -macopt size:16 SIPHASH` prints them.
TEST(SipHashTest, AgreesWithAnotherImplementation) {
  const auto hash = [](std::string_view text) { return Hex(SipHash128(kKey, std::as_bytes(std::span(text)))); };
  EXPECT_EQ(hash(""), "a3817f04ba25a8e66df67214c7550293");
  EXPECT_EQ(hash("abc"), "bb96c3a813c9903e3325ef616045abb8");
  EXPECT_EQ(hash("0123456789abcdef!"), "56a35ca7859682e49048af65eba2a274");
}

TEST(PrefixKeyTest, TwoDrawsDiffer) {
  const auto one = DrawPrefixKey();
  const auto two = DrawPrefixKey();
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_NE(*one, *two);
  EXPECT_NE((*one)[0], (*one)[1]);
}

// A block's hash is that of its parent's 16 bytes and its tokens', as they lie in memory.
TEST(PrefixHasherTest, ABlocksHashIsThatOfItsParentAndTokens) {
  const PrefixHasher hasher(kKey, "revision", 3);
  const BlockHash parent = hasher.Root("t");
  const std::vector<int32_t> tokens = Tokens(3);
  std::vector<std::byte> bytes(sizeof(parent) + 12);
  std::memcpy(bytes.data(), &parent, sizeof(parent));
  std::memcpy(bytes.data() + sizeof(parent), tokens.data(), 12);
  EXPECT_EQ(hasher.Next(parent, tokens), SipHash128(kKey, bytes));
}

TEST(PrefixHasherTest, OnlyFullBlocksHaveAHash) {
  const PrefixHasher hasher(kKey, "revision", 4);
  EXPECT_EQ(hasher.Blocks("t", Tokens(3)).size(), 0U);
  EXPECT_EQ(hasher.Blocks("t", Tokens(4)).size(), 1U);
  EXPECT_EQ(hasher.Blocks("t", Tokens(11)).size(), 2U);
}

TEST(PrefixHasherTest, ALongerSequenceBeginsWithTheHashesOfItsPrefix) {
  const PrefixHasher hasher(kKey, "revision", 4);
  const auto longer = hasher.Blocks("t", Tokens(12));
  const auto prefix = hasher.Blocks("t", Tokens(8));
  EXPECT_EQ(prefix, std::vector<BlockHash>(longer.begin(), longer.begin() + 2));
}

TEST(PrefixHasherTest, KeyRevisionTenantParentAndTokensAllCount) {
  std::vector<int32_t> other = Tokens(8);
  other[0] = 7;  // in the first block: the second differs too
  const auto second = [](const PrefixHasher& hasher, std::string_view tenant, const std::vector<int32_t>& tokens) {
    return hasher.Blocks(tenant, tokens)[1];
  };
  const std::set<BlockHash> hashes = {
      second(PrefixHasher(kKey, "revision", 4), "t", Tokens(8)),
      second(PrefixHasher({1, 2}, "revision", 4), "t", Tokens(8)),
      second(PrefixHasher(kKey, "another", 4), "t", Tokens(8)),
      second(PrefixHasher(kKey, "revision", 4), "u", Tokens(8)),
      second(PrefixHasher(kKey, "revision", 4), "t", other),
  };
  EXPECT_EQ(hashes.size(), 5U);
}

}  // namespace
}  // namespace alphecca::model

#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "test_data.h"
#include "text/chat_format.h"
#include "text/detokenizer.h"
#include "text/special_tokens.h"

namespace alphecca::text {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kTiny = std::string(ALPHECCA_MODELS) + "/tiny-moe";

const Tokenizer& Tiny() {
  static const std::unique_ptr<Tokenizer>& tokenizer = *new std::unique_ptr<Tokenizer>([] {
    absl::StatusOr<std::unique_ptr<Tokenizer>> opened = Tokenizer::Open(kTiny);
    return opened.ok() ? *std::move(opened) : nullptr;
  }());
  return *tokenizer;
}

// A vocabulary of <unk>, all bytes (if asked for) and `pieces`, of which those in `types` have another type than
// normal.
TokenizerData Small(const std::vector<std::pair<std::string, TokenType>>& pieces, bool bytes = true) {
  TokenizerData data;
  data.tokens = {"<unk>"};
  data.types = {TokenType::kUnknown};
  data.unknown_id = 0;
  for (int byte = 0; byte < 256 && bytes; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
    data.tokens.push_back(name);
    data.types.push_back(TokenType::kByte);
  }
  for (const auto& [text, type] : pieces) {
    data.tokens.push_back(text);
    data.types.push_back(type);
  }
  return data;
}

std::unique_ptr<Tokenizer> Created(TokenizerData data) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(std::move(data));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// The pieces of an encoded text, joined by |.
std::string Pieces(const Tokenizer& tokenizer, std::string_view text, ControlText control = ControlText::kPlain) {
  std::string joined;
  for (const int32_t id : tokenizer.EncodeText(text, control)) {
    joined += joined.empty() ? "" : "|";
    joined += tokenizer.Spelling(id);
  }
  return joined;
}

constexpr TokenType kNormal = TokenType::kNormal;
constexpr TokenType kUser = TokenType::kUserDefined;

TEST(Tokenizer, EncodesAsHuggingFaceDoes) {
  for (const JsonValue& golden : ReadGoldenLines("tokenizer/tiny.jsonl")) {
    EXPECT_EQ(Tiny().EncodeText(TextOf(golden, "text")), IdsOf(*golden.Find("ids"))) << TextOf(golden, "text");
  }
}

TEST(Tokenizer, DecodingGivesTheTextBack) {
  for (const JsonValue& golden : ReadGoldenLines("tokenizer/gemma3.jsonl")) {
    std::string text = TextOf(golden, "text");
    if (text.find("\u2581") != std::string::npos) {
      continue;  // indistinguishable from a space
    }
    const absl::StatusOr<std::string> decoded = Tiny().Decode(Tiny().EncodeText(text));
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(*decoded, text);
  }
}

TEST(Tokenizer, BytesThatAreNoTextAreReplacedFirst) {
  for (const JsonValue& golden : ReadGoldenLines("tokenizer/gemma3-invalid-utf8.jsonl")) {
    const std::string hex = TextOf(golden, "hex");
    std::string bytes;
    for (size_t i = 0; i < hex.size(); i += 2) {
      bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    EXPECT_EQ(Tiny().EncodeText(bytes), Tiny().EncodeText(TextOf(golden, "text"))) << hex;
  }
}

TEST(Tokenizer, TextNeverBecomesAControlToken) {
  std::mt19937 random(3);
  const std::span<const SpecialToken> tokens = SpecialTokens();
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = 0; i < 5; ++i) {
      text += tokens[random() % tokens.size()].text;
      text += std::string_view(" <|>\n")[random() % 5];
    }
    const std::vector<int32_t> ids = Tiny().EncodeText(text);
    for (const int32_t id : ids) {
      EXPECT_FALSE(Tiny().IsControl(id)) << text;
    }
    EXPECT_EQ(*Tiny().Decode(ids), text);
  }
}

TEST(Tokenizer, TrustedTextIsParsed) {
  EXPECT_THAT(Tiny().EncodeText("<bos><|turn><turn|>", ControlText::kParse), ElementsAre(2, 4, 5));
  const std::vector<int32_t> mixed = Tiny().EncodeText("a<turn|>b", ControlText::kParse);
  EXPECT_THAT(mixed, Contains(5));
  EXPECT_EQ(*Tiny().Decode(mixed, ShowControl::kShow), "a<turn|>b");
  EXPECT_EQ(*Tiny().Decode(mixed), "ab");
}

TEST(Tokenizer, SpecialIdsAreFoundByText) {
  EXPECT_EQ(Tiny().bos(), 2);
  EXPECT_THAT(Tiny().end_ids(), ElementsAre(1, 5));
  EXPECT_THAT(Tiny().suppress_ids(), ElementsAre(0, 2, 3));
  EXPECT_TRUE(Tiny().HasGemma4Turns());
  EXPECT_FALSE(Tiny().HasGemma3Turns());
  std::vector<int32_t> ids = {7};
  Tiny().PrependBos(ids);
  Tiny().PrependBos(ids);
  EXPECT_THAT(ids, ElementsAre(2, 7));
}

TEST(Tokenizer, PiecesEncodeWithoutTheirBordersMerging) {
  const absl::StatusOr<std::vector<int32_t>> ids = Tiny().Encode(std::vector<Piece>{{true, "<|turn>"}, {false, "the"}});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->front(), 4);
  const absl::Status missing = Tiny().Encode(std::vector<Piece>{{true, "<|tool>"}}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("<|tool>"));
  EXPECT_EQ(Tiny().Encode(std::vector<Piece>{{true, "the"}}).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Tokenizer, ModelWithoutThoughtsChatsInTheSmallForm) {
  const absl::StatusOr<ChatFormat> format = ChatFormatOf(Tiny(), false);
  ASSERT_TRUE(format.ok());
  EXPECT_EQ(*format, ChatFormat::kGemma4Small);
  const std::unique_ptr<Tokenizer> plain = Created(Small({{"a", kNormal}}));
  EXPECT_EQ(ChatFormatOf(*plain, false).status().code(), absl::StatusCode::kFailedPrecondition);
  const std::unique_ptr<Tokenizer> half = Created(Small({{"<|turn>", kNormal}}));
  EXPECT_EQ(ChatFormatOf(*half, false).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Tokenizer, IdsOutOfRangeAreRefused) {
  EXPECT_EQ(Tiny().Decode(std::vector<int32_t>{4096}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Tiny().Decode(std::vector<int32_t>{-1}).status().code(), absl::StatusCode::kInvalidArgument);
  StreamingDetokenizer stream(Tiny());
  EXPECT_EQ(stream.Add(1 << 30).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Tokenizer, ALongTextIsNotQuadratic) {
  std::string text;
  while (text.size() < (size_t{1} << 20)) {
    text += "And the earth was without form, and void;\n";
  }
  EXPECT_EQ(*Tiny().Decode(Tiny().EncodeText(text)), text);
  const std::string same(size_t{1} << 20, 't');
  EXPECT_EQ(*Tiny().Decode(Tiny().EncodeText(same)), same);
}

TEST(Bpe, BestRankFirstAndOfEqualOnesTheLeftmost) {
  TokenizerData data =
      Small({{"a", kNormal}, {"b", kNormal}, {"c", kNormal}, {"aa", kNormal}, {"bc", kNormal}, {"ab", kNormal}});
  data.merges = {{"b", "c"}, {"a", "b"}, {"a", "a"}};
  const std::unique_ptr<Tokenizer> tokenizer = Created(data);
  EXPECT_EQ(Pieces(*tokenizer, "abc"), "a|bc");
  EXPECT_EQ(Pieces(*tokenizer, "aab"), "a|ab");
  EXPECT_EQ(Pieces(*tokenizer, "aaa"), "aa|a");
}

TEST(Bpe, WithoutMergesScoresRank) {
  TokenizerData data =
      Small({{"a", kNormal}, {"b", kNormal}, {"c", kNormal}, {"ab", kNormal}, {"bc", kNormal}, {"abc", kNormal}});
  data.scores.assign(data.tokens.size(), 0);
  data.scores[data.scores.size() - 3] = -2;  // ab
  data.scores[data.scores.size() - 2] = -1;  // bc
  data.scores[data.scores.size() - 1] = -3;  // abc
  EXPECT_EQ(Pieces(*Created(data), "abcab"), "abc|ab");
  data.types.back() = TokenType::kUnused;
  EXPECT_EQ(Pieces(*Created(data), "abc"), "a|bc");
  data.scores[data.scores.size() - 2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Pieces(*Created(data), "abc"), "ab|c");
}

TEST(Bpe, UserDefinedPiecesAreTakenWholeLongestFirst) {
  const std::unique_ptr<Tokenizer> tokenizer =
      Created(Small({{"▁", kNormal}, {"x", kNormal}, {"▁x", kNormal}, {"  ", kUser}, {"   ", kUser}, {"</p>", kUser}}));
  EXPECT_EQ(Pieces(*tokenizer, "     x</p>"), "   |  |x|</p>");
  EXPECT_EQ(*tokenizer->Decode(tokenizer->EncodeText("     x</p>")), "     x</p>");
}

TEST(Bpe, MergesOfUnknownOrControlPiecesAreLeftOut) {
  TokenizerData data = Small({{"<", kNormal}, {"e", kNormal}, {"<eos>", kNormal}, {"os>", kNormal}, {"<e", kNormal}});
  data.merges = {{"<e", "os>"}, {"<", "zz"}, {"", ""}, {"e", "e"}, {"<", "e"}};
  EXPECT_EQ(Pieces(*Created(data), "<e"), "<e");
  EXPECT_THAT(Pieces(*Created(data), "<eos>"), Not(HasSubstr("<eos>")));
}

TEST(Bpe, WholeRunsOfNewlinesArePiecesOnlyWhereNoPieceMixesThem) {
  const std::vector<std::pair<std::string, TokenType>> newlines = {
      {"\n", kNormal}, {"\n\n", kNormal}, {"\n\n\n", kNormal}, {"a", kNormal}};
  EXPECT_EQ(Created(Small(newlines))->EncodeText("a\n\n\na").size(), 3u);
  std::vector<std::pair<std::string, TokenType>> mixed = newlines;
  mixed.push_back({"\na", kNormal});
  EXPECT_EQ(Created(Small(mixed))->EncodeText("a\n\n\na").size(), 5u);
}

TEST(Bpe, WithoutBytesUnknownCharactersShareOneToken) {
  const std::unique_ptr<Tokenizer> tokenizer = Created(Small({{"a", kNormal}}, false));
  EXPECT_EQ(Pieces(*tokenizer, "éüaß"), "<unk>|a|<unk>");
}

TEST(Vocabulary, SteeringTokensAreControlWhateverTheirType) {
  TokenizerData data =
      Small({{"<|channel>", kUser}, {"<|\"|>", kUser}, {"[multimodal]", kUser}, {"<|tool_call>", kNormal}});
  const std::unique_ptr<Tokenizer> tokenizer = Created(data);
  EXPECT_TRUE(tokenizer->ControlId("<|channel>").has_value());
  EXPECT_TRUE(tokenizer->ControlId("<|tool_call>").has_value());
  for (const int32_t id : tokenizer->EncodeText("<|channel><|\"|>[multimodal]")) {
    EXPECT_FALSE(tokenizer->IsControl(id));
  }
}

TEST(Vocabulary, FileOfGemma4sSizeMustHaveItsControlTokensInPlace) {
  TokenizerData data = Small({});
  data.tokens.resize(kGemmaVocabulary);
  data.types.resize(kGemmaVocabulary, TokenType::kUnused);
  data.tokens[105] = "<|turn>";
  EXPECT_THAT(std::string(Tokenizer::Create(data).status().message()), HasSubstr("<pad>"));
}

TEST(Tokenizer, RefusesInconsistentData) {
  const auto refuses = [](const TokenizerData& data) {
    EXPECT_EQ(Tokenizer::Create(data).status().code(), absl::StatusCode::kInvalidArgument);
  };
  refuses({});
  TokenizerData data = Small({});
  data.types.pop_back();
  refuses(data);
  data = Small({});
  data.scores = {1};
  refuses(data);
  data = Small({});
  data.unknown_id = 5000;
  refuses(data);
  data = Small({});
  data.bos_id = -1;
  refuses(data);
  data = Small({});
  data.end_ids = {-7};
  refuses(data);
  data = Small({{"byte?", TokenType::kByte}});
  refuses(data);
  data = Small({{"a", kNormal}}, false);
  data.unknown_id.reset();
  data.types[0] = kNormal;
  data.tokens[0] = "b";
  refuses(data);
}

TEST(StreamingDetokenizer, SplitCharactersComeWholeAndEqualTheOneShotDecode) {
  std::mt19937 random(11);
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 30; ++i) {  // bytes above all, so that characters are split and broken in every way
      ids.push_back(static_cast<int32_t>(random() % (random() % 4 == 0 ? 4096 : 262)));
    }
    for (const ShowControl show : {ShowControl::kHide, ShowControl::kShow}) {
      StreamingDetokenizer stream(Tiny(), show);
      std::string text;
      for (const int32_t id : ids) {
        const absl::StatusOr<std::string> added = stream.Add(id);
        ASSERT_TRUE(added.ok());
        text += *added;
      }
      EXPECT_EQ(text + stream.Flush(), *Tiny().Decode(ids, show));
    }
  }
}

TEST(StreamingDetokenizer, HoldsBackOnlyAnUnfinishedCharacter) {
  const auto byte = [](unsigned value) { return static_cast<int32_t>(6 + value); };
  StreamingDetokenizer stream(Tiny());
  EXPECT_EQ(*stream.Add(byte(0xF0)), "");
  EXPECT_EQ(*stream.Add(byte(0x9F)), "");
  EXPECT_EQ(*stream.Add(2), "");  // a hidden control token changes nothing
  EXPECT_EQ(*stream.Add(byte(0x98)), "");
  EXPECT_EQ(*stream.Add(byte(0x80)), "😀");
  EXPECT_EQ(*stream.Add(byte(0xE6)), "");
  EXPECT_EQ(*stream.Add(byte(0x41)), "\uFFFDA");
  EXPECT_EQ(*stream.Add(byte(0xE6)), "");
  EXPECT_EQ(stream.Flush(), "\uFFFD");
  EXPECT_EQ(stream.Flush(), "");
}

}  // namespace
}  // namespace alphecca::text

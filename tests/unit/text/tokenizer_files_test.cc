// Tokenizer files that are wrong, and those that are unusual.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "model/gguf.h"
#include "model/gguf_writer.h"
#include "test_data.h"
#include "text/tokenizer.h"

namespace alphecca::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Status JsonError(const std::string& json) {
  absl::StatusOr<TokenizerData> data = ReadTokenizerJson(json);
  return data.ok() ? Tokenizer::Create(*std::move(data)).status() : data.status();
}

void ExpectRefused(const std::string& json, const std::string& what) {
  const absl::Status status = JsonError(json);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json.substr(0, 200);
  EXPECT_THAT(std::string(status.message()), HasSubstr(what)) << json.substr(0, 200);
}

std::string File(const std::string& vocabulary, const std::string& merges = "[]", const std::string& added = "[]") {
  return R"({"added_tokens":)" + added + R"(,"model":{"type":"BPE","unk_token":"<unk>","byte_fallback":true,"vocab":)" +
         vocabulary + R"(,"merges":)" + merges + "}}";
}

constexpr char kVocabulary[] = R"({"<unk>":0,"a":1,"b":2,"ab":3})";

TEST(TokenizerJson, MergesComeInBothForms) {
  for (const char* merges : {R"(["a b"])", R"([["a","b"]])"}) {
    absl::StatusOr<TokenizerData> data = ReadTokenizerJson(File(kVocabulary, merges));
    ASSERT_TRUE(data.ok()) << data.status();
    const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(*std::move(data));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_THAT((*tokenizer)->EncodeText("ab"), ElementsAre(3));
  }
}

TEST(TokenizerJson, MergeIsSplitAtTheFirstSpaceAfterTheFirstCharacter) {
  const absl::StatusOr<TokenizerData> data = ReadTokenizerJson(File(kVocabulary, R"(["  b","a b c"])"));
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->merges[0].left, " ");
  EXPECT_EQ(data->merges[0].right, "b");
  EXPECT_EQ(data->merges[1].right, "b c");
}

TEST(TokenizerJson, AddedTokensSayWhatTheyAre) {
  const absl::StatusOr<TokenizerData> data = ReadTokenizerJson(
      File(kVocabulary, "[]", R"([{"id":1,"content":"a","special":true},{"id":9,"content":"<p>","special":false}])"));
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->tokens.size(), 10u);
  EXPECT_EQ(data->types[1], TokenType::kControl);
  EXPECT_EQ(data->types[9], TokenType::kUserDefined);
  EXPECT_EQ(data->types[5], TokenType::kUnused);
}

TEST(TokenizerJson, EveryTruncationIsAnError) {
  const std::string whole = File(kVocabulary, R"([["a","b"]])", R"([{"id":4,"content":"c","special":true}])");
  ASSERT_TRUE(JsonError(whole).ok()) << JsonError(whole);
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_EQ(JsonError(whole.substr(0, length)).code(), absl::StatusCode::kInvalidArgument) << length;
  }
}

TEST(TokenizerJson, RefusesWhatIsWrong) {
  ExpectRefused("[]", "object was expected");
  ExpectRefused("{}", "model.type");
  ExpectRefused(R"({"model":{"type":"Unigram","vocab":{}}})", "Unigram");
  ExpectRefused(File("[]"), "as in BPE models");
  ExpectRefused(File("{}"), "0 tokens");
  ExpectRefused(File(R"({"a":"x"})"), "a value was expected");
  ExpectRefused(File(R"({"a":1.5})"), "whole number");
  ExpectRefused(File(R"({"a":-1})"), "has id -1");
  ExpectRefused(File(R"({"<unk>":0,"a":4000000000})"), "4000000000");
  ExpectRefused(File(R"({"<unk>":0,"a":99999999999999999999999})"), "whole number");
  ExpectRefused(File(R"({"<unk>":0,"a":1,"b":1})"), "id 1 is both");
  ExpectRefused(File(kVocabulary, R"(["ab"])"), "no space");
  ExpectRefused(File(kVocabulary, R"([""])"), "no space");
  ExpectRefused(File(kVocabulary, R"([["a"]])"), "fewer than two");
  ExpectRefused(File(kVocabulary, R"([["a","b","c"]])"), "more than two");
  ExpectRefused(File(kVocabulary, R"([1])"), "string was expected");
  ExpectRefused(File(kVocabulary, "[]", R"([{"content":"c"}])"), "no id");
  ExpectRefused(File(kVocabulary, "[]", R"([{"id":4,"content":7}])"), "string was expected");
  ExpectRefused(File(R"({"a":0})"), "could not be encoded");
}

TEST(TokenizerJson, MergesOfUnknownPiecesDoNoHarm) {
  EXPECT_TRUE(JsonError(File(kVocabulary, R"([["x","y"],["a","zzz"],["",""],["b","a"]])")).ok());
}

TEST(GenerationConfig, EndIdsAreANumberOrAList) {
  TokenizerData data;
  ASSERT_TRUE(ReadGenerationConfig(R"({"eos_token_id":[1,106],"suppress_tokens":[3],"bos_token_id":2})", data).ok());
  ASSERT_TRUE(ReadGenerationConfig(R"({"eos_token_id":50,"suppress_tokens":null})", data).ok());
  EXPECT_THAT(data.end_ids, ElementsAre(1, 106, 50));
  EXPECT_THAT(data.suppress_ids, ElementsAre(3));
  EXPECT_EQ(data.bos_id, 2);
  EXPECT_FALSE(ReadGenerationConfig(R"({"eos_token_id":"x"})", data).ok());
  EXPECT_FALSE(ReadGenerationConfig("{", data).ok());
}

TEST(TokenizerOpen, NamesWhatIsMissing) {
  const absl::Status status = Tokenizer::Open("/nonexistent/model").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/model"));
  EXPECT_FALSE(Tokenizer::Open("/nonexistent/model.gguf").ok());
}

TEST(TokenizerOpen, ReadsEveryEmbeddedModel) {
  for (const char* name : {"tiny-moe", "tiny-dense", "tiny-draft"}) {
    const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
        Tokenizer::Open(std::string(ALPHECCA_MODELS) + "/" + name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->size(), 4096);
  }
}

// A GGUF file of metadata alone.
class GgufWriter {
 public:
  void Strings(const std::string& key, const std::vector<std::string>& values) {
    Key(key, 9);
    Number<uint32_t>(8);
    Number<uint64_t>(values.size());
    for (const std::string& value : values) {
      Text(value);
    }
  }
  void Ints(const std::string& key, const std::vector<int32_t>& values) {
    Key(key, 9);
    Number<uint32_t>(5);
    Number<uint64_t>(values.size());
    for (const int32_t value : values) {
      Number(value);
    }
  }
  void Floats(const std::string& key, const std::vector<float>& values) {
    Key(key, 9);
    Number<uint32_t>(6);
    Number<uint64_t>(values.size());
    for (const float value : values) {
      Number(value);
    }
  }
  void Int(const std::string& key, uint32_t value) {
    Key(key, 4);
    Number(value);
  }
  std::string Take() {
    std::string file = "GGUF";
    std::swap(file, out_);
    Number<uint32_t>(3);
    Number<uint64_t>(0);
    Number<uint64_t>(keys_);
    return out_ + file;
  }

 private:
  template <typename T>
  void Number(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void Text(const std::string& text) {
    Number<uint64_t>(text.size());
    out_ += text;
  }
  void Key(const std::string& key, uint32_t type) {
    ++keys_;
    Text("tokenizer.ggml." + key);
    Number(type);
  }

  std::string out_;
  uint64_t keys_ = 0;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(GgufWriter writer) {
  const absl::StatusOr<std::unique_ptr<model::GgufFile>> file = model::GgufFile::FromBytes(writer.Take());
  if (!file.ok()) {
    return file.status();
  }
  absl::StatusOr<TokenizerData> data = ReadTokenizerGguf(**file);
  if (!data.ok()) {
    return data.status();
  }
  return Tokenizer::Create(*std::move(data));
}

TEST(TokenizerGguf, RanksByScoresOrMerges) {
  GgufWriter scored;
  scored.Strings("tokens", {"<unk>", "a", "b", "c", "ab", "bc", "<bos>", "  "});
  scored.Ints("token_type", {2, 1, 1, 1, 1, 1, 3, 4});
  scored.Floats("scores", {0, 0, 0, 0, -2, -1, 0, 0});
  scored.Int("unknown_token_id", 0);
  scored.Int("bos_token_id", 6);
  scored.Int("eos_token_id", 3);
  GgufWriter merged = scored;
  merged.Strings("merges", {"a b", "b c"});
  const absl::StatusOr<std::unique_ptr<Tokenizer>> by_score = FromGguf(scored);
  const absl::StatusOr<std::unique_ptr<Tokenizer>> by_merge = FromGguf(merged);
  ASSERT_TRUE(by_score.ok() && by_merge.ok()) << by_score.status() << by_merge.status();
  EXPECT_THAT((*by_score)->EncodeText("abc  "), ElementsAre(1, 5, 7));
  EXPECT_THAT((*by_merge)->EncodeText("abc  "), ElementsAre(4, 3, 7));
  EXPECT_EQ((*by_merge)->bos(), 6);
  EXPECT_THAT((*by_merge)->end_ids(), ElementsAre(3));
}

TEST(TokenizerGguf, RefusesWhatIsWrong) {
  GgufWriter nothing;
  EXPECT_FALSE(FromGguf(nothing).ok());
  GgufWriter bad_type;
  bad_type.Strings("tokens", {"<unk>"});
  bad_type.Ints("token_type", {7});
  EXPECT_THAT(std::string(FromGguf(bad_type).status().message()), HasSubstr("token types are 1 to 6"));
  GgufWriter short_types;
  short_types.Strings("tokens", {"<unk>", "a"});
  short_types.Ints("token_type", {2});
  EXPECT_EQ(FromGguf(short_types).status().code(), absl::StatusCode::kInvalidArgument);
  GgufWriter bad_merge;
  bad_merge.Strings("tokens", {"<unk>"});
  bad_merge.Ints("token_type", {2});
  bad_merge.Strings("merges", {"ab"});
  EXPECT_THAT(std::string(FromGguf(bad_merge).status().message()), HasSubstr("no space"));
}

// What WriteTokenizerGguf wrote, read back.
std::unique_ptr<model::GgufFile> Written(const TokenizerData& data, bool gemma4, int64_t vocab) {
  model::GgufMetadata metadata;
  WriteTokenizerGguf(data, gemma4, vocab, metadata);
  std::vector<model::GgufTensorSpec> none;
  auto file = model::GgufFile::FromBytes(model::GgufHead(metadata, none));
  EXPECT_TRUE(file.ok()) << file.status();
  return *std::move(file);
}

TEST(TokenizerGguf, WritesWhatItReads) {
  for (const char* name : {"tiny-dense", "tiny-moe", "tiny-draft"}) {
    const std::string directory = std::string(ALPHECCA_MODELS "/") + name;
    const absl::StatusOr<TokenizerData> data = ReadTokenizerFiles(directory);
    ASSERT_TRUE(data.ok()) << data.status();
    const auto source = Tokenizer::Create(*data);
    ASSERT_TRUE(source.ok()) << source.status();
    const std::string text = ReadTestFile(std::string(ALPHECCA_TEST_DATA) + "/text/kjv-heldout.txt").substr(0, 20000) +
                             "\t naïve 日本 <bos> \xf0\x9f\x98\x80 a  b   c\n\n\n";
    for (const bool gemma4 : {true, false}) {
      const auto file = Written(*data, gemma4, static_cast<int64_t>(data->tokens.size()) + 3);
      absl::StatusOr<TokenizerData> back = ReadTokenizerGguf(*file);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(back->tokens.size(), data->tokens.size() + 3);
      EXPECT_EQ(back->tokens.back(), "[PAD" + std::to_string(data->tokens.size() + 2) + "]");
      EXPECT_EQ(*file->String("tokenizer.ggml.model"), gemma4 ? "gemma4" : "llama");
      if (!gemma4) {
        back->merges.clear();  // SentencePiece readers rank by the scores alone
      }
      const auto written = Tokenizer::Create(*std::move(back));
      ASSERT_TRUE(written.ok()) << written.status();
      EXPECT_EQ((*written)->EncodeText(text), (*source)->EncodeText(text)) << name;
      EXPECT_EQ((*written)->end_ids(), (*source)->end_ids()) << name;
      EXPECT_EQ((*written)->bos(), (*source)->bos()) << name;
    }
  }
}

}  // namespace
}  // namespace alphecca::text

#include "cli/filters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace alphecca::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::string kTiny = std::string(ALPHECCA_MODELS) + "/tiny-moe";

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
  }
  return lines;
}

TEST(Filters, BadLinesGiveErrorsAndTheRunGoesOn) {
  std::istringstream in(
      "{\"text\":\"In the beginning\"}\n\nnot json\n[]\n{\"ids\":[2,-1]}\n{\"ids\":1}\n{\"text\":1}\n"
      "{\"text\":\"a\",\"special\":\"x\"}\n{\"hex\":\"f\"}\n{\"ids\":[1210,327,2144]}\n");
  std::ostringstream out;
  EXPECT_EQ(RunTokenize(kTiny, in, out), 1);
  const std::vector<std::string> lines = Lines(out.str());
  ASSERT_EQ(lines.size(), 9u);
  EXPECT_EQ(lines[0], "{\"ids\":[1210,327,2144]}");
  for (size_t i = 1; i < 8; ++i) {
    EXPECT_THAT(lines[i], StartsWith("{\"error\":")) << i;
  }
  EXPECT_EQ(lines[8], "{\"text\":\"In the beginning\"}");
}

TEST(Filters, HexIsBytesAndOutputIsAscii) {
  std::istringstream in("{\"hex\":\"ff\"}\n{\"ids\":[261,2]}\n");
  std::ostringstream out;
  EXPECT_EQ(RunTokenize(kTiny, in, out), 0);
  EXPECT_THAT(out.str(), HasSubstr("{\"text\":\"\\ufffd<bos>\"}"));
}

TEST(Filters, RenderGivesPromptPiecesAndIds) {
  std::istringstream in("{\"messages\":[{\"role\":\"user\",\"content\":\"\xC3\xA9\"}]}\n{\"messages\":7}\n");
  std::ostringstream out;
  EXPECT_EQ(RunRender("gemma4-small", kTiny, in, out), 1);
  EXPECT_THAT(out.str(),
              StartsWith("{\"prompt\":\"<bos><|turn>user\\n\\u00e9<turn|>\\n\",\"pieces\":[[\"c\",\"<bos>\"],"
                         "[\"c\",\"<|turn>\"],[\"t\",\"user\\n\\u00e9\"],[\"c\",\"<turn|>\"],[\"t\",\"\\n\"]],"
                         "\"ids\":[2,4,"));
  EXPECT_THAT(out.str(), HasSubstr("{\"error\":\"messages: wanted a list\"}"));
}

TEST(Filters, ParseGivesTheAnswer) {
  std::istringstream in(
      "{\"pieces\":[[\"c\",\"<|channel>\"],[\"t\",\"thought\\nHm.\\n\"],[\"c\",\"<channel|>\"],[\"t\",\"Yes\"]],"
      "\"end\":\"length\"}\n{\"pieces\":[[\"x\",\"y\"]]}\n");
  std::ostringstream out;
  EXPECT_EQ(RunParse("gemma4", in, out), 1);
  const std::vector<std::string> lines = Lines(out.str());
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "{\"reasoning\":\"Hm.\",\"content\":\"Yes\",\"tool_calls\":[],\"finish_reason\":\"length\"}");
  EXPECT_THAT(lines[1], StartsWith("{\"error\":"));
}

TEST(Filters, MissingModelsAndFormatsAreTold) {
  std::istringstream in("{}\n");
  std::ostringstream out;
  EXPECT_EQ(RunTokenize("/nonexistent", in, out), 1);
  EXPECT_EQ(RunRender("chatml", "", in, out), 1);
  EXPECT_EQ(RunParse("gemma3", in, out), 1);
  EXPECT_EQ(Lines(out.str()).size(), 3u);
}

}  // namespace
}  // namespace alphecca::cli

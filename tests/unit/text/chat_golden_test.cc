// Prompts against the official templates' own, piece by piece.
#include <gtest/gtest.h>

#include "test_data.h"
#include "text/chat_format.h"

namespace alphecca::text {
namespace {

RenderedChat Rendered(const JsonValue& golden, ChatFormat format) {
  const absl::StatusOr<ChatRequest> request = ParseChatRequest(*golden.Find("request"));
  EXPECT_TRUE(request.ok()) << request.status();
  absl::StatusOr<RenderedChat> rendered = RenderChat(request.value_or(ChatRequest()), format);
  EXPECT_TRUE(rendered.ok()) << rendered.status();
  return rendered.value_or(RenderedChat());
}

TEST(ChatGoldens, LargePromptsArePiecewiseTheOfficialOnes) {
  for (const JsonValue& golden : ReadGoldens("chat")) {
    SCOPED_TRACE(TextOf(golden, "name"));
    const RenderedChat rendered = Rendered(golden, ChatFormat::kGemma4);
    if (golden.Find("prompt_fixed") != nullptr) {
      EXPECT_EQ(Joined(rendered.pieces), TextOf(golden, "prompt_fixed"));
      continue;
    }
    EXPECT_EQ(Joined(rendered.pieces), TextOf(golden, "prompt"));
    EXPECT_EQ(rendered.pieces, PiecesOf(*golden.Find("pieces")));
  }
}

TEST(ChatGoldens, SmallPromptsAreTheOfficialOnes) {
  for (const JsonValue& golden : ReadGoldens("chat")) {
    SCOPED_TRACE(TextOf(golden, "name"));
    if (golden.Find("prompt_fixed") == nullptr) {
      const char* key = golden.Find("prompt_small") != nullptr ? "prompt_small" : "prompt";
      EXPECT_EQ(Joined(Rendered(golden, ChatFormat::kGemma4Small).pieces), TextOf(golden, key));
    }
  }
}

TEST(ChatGoldens, OutputStartsInAThoughtExactlyWhereThePromptOpensOne) {
  int in_thought = 0;
  for (const JsonValue& golden : ReadGoldens("chat")) {
    SCOPED_TRACE(TextOf(golden, "name"));
    const RenderedChat rendered = Rendered(golden, ChatFormat::kGemma4);
    EXPECT_EQ(rendered.starts_in_thought, Joined(rendered.pieces).ends_with("<|channel>thought\n"));
    in_thought += rendered.starts_in_thought ? 1 : 0;
  }
  EXPECT_GT(in_thought, 0);
}

}  // namespace
}  // namespace alphecca::text

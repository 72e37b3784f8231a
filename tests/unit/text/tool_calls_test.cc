#include "text/tool_calls.h"

#include <gtest/gtest.h>

#include <random>

#include "absl/random/random.h"
#include "test_data.h"
#include "text/special_tokens.h"

namespace alphecca::text {
namespace {

using Kind = OutputEvent::Kind;

// All events of an answer, joined, in the goldens' terms.
struct Answer {
  std::string reasoning;
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;
  std::string finish_reason;
  int malformed = 0;
  int cut = 0;

  friend bool operator==(const Answer&, const Answer&) = default;
};

void Add(const std::vector<OutputEvent>& events, Answer& answer) {
  for (const OutputEvent& event : events) {
    if (event.kind == Kind::kToolCall) {
      answer.calls.emplace_back(event.name, event.arguments);
    } else {
      (event.kind == Kind::kReasoning ? answer.reasoning : answer.content) += event.text;
    }
  }
}

Answer Parse(const std::vector<Piece>& pieces, bool in_thought = false, bool at_limit = false) {
  OutputParser parser(in_thought);
  Answer answer;
  for (const Piece& piece : pieces) {
    Add(parser.Feed(piece), answer);
  }
  Add(parser.Finish(), answer);
  answer.finish_reason = FinishReason(parser, at_limit);
  answer.malformed = parser.malformed_calls();
  answer.cut = parser.cut_calls();
  return answer;
}

bool InThought(const JsonValue& golden) {
  const JsonValue* value = golden.Find("starts_in_thought");
  return value != nullptr && value->boolean;
}

TEST(ToolCallGoldens, WholeAndByCharacter) {
  for (const JsonValue& golden : ReadGoldens("tool-calls")) {
    SCOPED_TRACE(TextOf(golden, "name"));
    const JsonValue& expect = *golden.Find("expect");
    const std::vector<Piece> pieces = PiecesOf(*golden.Find("pieces"));
    for (const auto& fed : {pieces, ByCharacter(pieces)}) {
      const Answer answer = Parse(fed, InThought(golden), TextOf(golden, "end") == "length");
      EXPECT_EQ(answer.reasoning, TextOf(expect, "reasoning"));
      EXPECT_EQ(answer.content, TextOf(expect, "content"));
      EXPECT_EQ(answer.finish_reason, TextOf(expect, "finish_reason"));
      const std::vector<JsonValue>& calls = expect.Find("tool_calls")->items;
      ASSERT_EQ(answer.calls.size(), calls.size());
      for (size_t i = 0; i < calls.size(); ++i) {
        EXPECT_EQ(answer.calls[i].first, TextOf(calls[i], "name"));
        EXPECT_EQ(answer.calls[i].second, TextOf(calls[i], "arguments"));
      }
    }
  }
}

std::vector<OutputEvent> EventsOf(const JsonValue& list) {
  std::vector<OutputEvent> events;
  for (const JsonValue& item : list.items) {
    const std::string& kind = item.items.at(0).text;
    if (kind == "tool_call") {
      events.push_back({Kind::kToolCall, "", item.items.at(1).text, item.items.at(2).text});
    } else {
      events.push_back({kind == "reasoning" ? Kind::kReasoning : Kind::kContent, item.items.at(1).text, "", ""});
    }
  }
  return events;
}

TEST(ToolCallGoldens, EventsComeWithThePieceThatCompletesThem) {
  int streams = 0;
  for (const JsonValue& golden : ReadGoldens("tool-calls")) {
    SCOPED_TRACE(TextOf(golden, "name"));
    const JsonValue* stream = golden.Find("stream");
    if (stream == nullptr) {
      continue;
    }
    ++streams;
    OutputParser parser(InThought(golden));
    for (size_t i = 0; i < stream->items.size(); ++i) {
      SCOPED_TRACE(i);
      const JsonValue* feed = stream->items[i].Find("feed");
      const std::vector<OutputEvent> events =
          feed == nullptr ? parser.Finish() : parser.Feed({feed->items.at(0).text == "c", feed->items.at(1).text});
      EXPECT_EQ(events, EventsOf(*stream->items[i].Find("events")));
    }
  }
  EXPECT_GT(streams, 50);
}

TEST(OutputParser, AnySplitGivesTheSame) {
  const std::vector<std::string> texts = {"thought\n", "model\n", " ",   "\n",  "call:f{a:1}",
                                          "call:f",    "{a:[1,2", "]}",  "x y", "\n\nz ",
                                          "}",         "'q'",     "tho", "mod", "{\"k\":\"v\"}"};
  const std::vector<std::string_view> controls = {kToolCall, kToolCallEnd, kChannel, kChannelEnd,
                                                  kQuote,    kThink,       kTurn};
  std::mt19937 random(7);
  const auto pick = [&](size_t n) { return random() % n; };
  for (int round = 0; round < 3000; ++round) {
    std::vector<Piece> pieces;
    for (size_t i = 0, n = 1 + pick(12); i < n; ++i) {
      if (pick(3) == 0) {
        pieces.push_back({true, std::string(controls[pick(controls.size())])});
      } else if (!pieces.empty() && !pieces.back().control) {
        pieces.back().text += texts[pick(texts.size())];
      } else {
        pieces.push_back({false, texts[pick(texts.size())]});
      }
    }
    std::string shown;
    for (const Piece& piece : pieces) {
      shown += (piece.control ? "[c]" : "[t]") + piece.text;
    }
    const bool in_thought = pick(4) == 0;
    EXPECT_EQ(Parse(pieces, in_thought), Parse(ByCharacter(pieces), in_thought)) << shown;
  }
}

Answer ParseCallText(const std::string& text) {
  return Parse({{true, "<|tool_call>"}, {false, text}, {true, "<tool_call|>"}});
}

TEST(OutputParser, NestingPastTheLimitIsMalformed) {
  const auto nested = [](size_t depth) {
    return "call:f{a:" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  EXPECT_EQ(ParseCallText(nested(64)).calls.size(), 1u);
  const Answer answer = ParseCallText(nested(65));
  EXPECT_TRUE(answer.calls.empty());
  EXPECT_EQ(answer.content, "<|tool_call>" + nested(65) + "<tool_call|>");
  EXPECT_EQ(answer.malformed, 1);
}

TEST(OutputParser, CallPastOneMebibyteComesBackAsContent) {
  const std::string text = "call:f{a:" + std::string(size_t{1} << 20, 'x') + "}";
  std::vector<Piece> pieces = {{true, "<|tool_call>"}};
  for (size_t at = 0; at < text.size(); at += 1000) {
    pieces.push_back({false, text.substr(at, 1000)});
  }
  pieces.push_back({true, "<tool_call|>"});
  pieces.push_back({false, "after"});
  const Answer answer = Parse(pieces);
  EXPECT_TRUE(answer.calls.empty());
  EXPECT_EQ(answer.content, "<|tool_call>" + text + "<tool_call|>after");
  EXPECT_EQ(answer.malformed, 1);
}

TEST(OutputParser, CutCallsAreCounted) {
  const Answer answer = Parse({{true, "<|tool_call>"}, {false, "call:rm{path:/"}}, false, true);
  EXPECT_TRUE(answer.calls.empty());
  EXPECT_EQ(answer.cut, 1);
  EXPECT_EQ(answer.finish_reason, "length");
}

TEST(OutputParser, QuoteTokenBehindABackslashIsSpelled) {
  const Answer answer = Parse(
      {{true, "<|tool_call>"}, {false, "call:f{a:\"x\\"}, {true, "<|\"|>"}, {false, "y\"}"}, {true, "<tool_call|>"}});
  ASSERT_EQ(answer.calls.size(), 1u);
  EXPECT_EQ(answer.calls[0].second, R"({"a":"x\\<|\"|>y"})");
}

TEST(OutputParser, IllFormedTextIsReplaced) {
  EXPECT_EQ(Parse({{false, "a\xFF"}}).content, "a\xEF\xBF\xBD");
}

TEST(OutputParser, TurnHeaderThatTurnsOutToBeTextIsKept) {
  EXPECT_EQ(Parse({{true, "<|turn>"}, {false, "modern"}}).content, "modern");
  EXPECT_EQ(Parse({{true, "<|turn>"}, {false, "mod"}}).content, "mod");
}

TEST(NewToolCallId, IsFreshAndOfTheRightForm) {
  absl::BitGen random;
  const std::string id = NewToolCallId(random);
  EXPECT_EQ(id.size(), 29u);
  EXPECT_TRUE(id.starts_with("call_"));
  EXPECT_NE(id, NewToolCallId(random));
}

}  // namespace
}  // namespace alphecca::text

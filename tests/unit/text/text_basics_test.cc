// UTF-8, JSON, Python's printing, stop strings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/json.h"
#include "text/python_format.h"
#include "text/stop_strings.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

constexpr char kBad[] = "\xEF\xBF\xBD";

TEST(Utf8, OneReplacementForEachMaximalIllFormedPart) {
  const std::string bad = kBad;
  EXPECT_EQ(ReplaceIllFormed("a\xFFz"), "a" + bad + "z");
  EXPECT_EQ(ReplaceIllFormed("\xE6\x97"), bad);
  EXPECT_EQ(ReplaceIllFormed("\xE6\x97g"), bad + "g");
  EXPECT_EQ(ReplaceIllFormed("\xC0\x80"), bad + bad);
  EXPECT_EQ(ReplaceIllFormed("\xED\xA0\x80"), bad + bad + bad);
  EXPECT_EQ(ReplaceIllFormed("\xF0\x80\x80"), bad + bad + bad);
  EXPECT_EQ(ReplaceIllFormed("\xF4\x8F\xBF\xBF"), "\xF4\x8F\xBF\xBF");
  EXPECT_EQ(ReplaceIllFormed("\xF4\x90\x80\x80"), bad + bad + bad + bad);
}

TEST(Utf8, IncompleteSuffixIsWhatMoreBytesCouldComplete) {
  EXPECT_EQ(IncompleteSuffix(""), 0u);
  EXPECT_EQ(IncompleteSuffix("a"), 0u);
  EXPECT_EQ(IncompleteSuffix("a\xF0\x9F\x98"), 3u);
  EXPECT_EQ(IncompleteSuffix("\xE6"), 1u);
  EXPECT_EQ(IncompleteSuffix("\xE6\x97\xA5"), 0u);
  EXPECT_EQ(IncompleteSuffix("\xE0\x80"), 0u);
  EXPECT_EQ(IncompleteSuffix("\xFF"), 0u);
  EXPECT_EQ(IncompleteSuffix("\x80\x80"), 0u);
}

TEST(Utf8, StripsWhatPythonStrips) {
  EXPECT_EQ(Strip(" \t\n\u00A0\u3000\u0085x y\u2003\x1C"), "x y");
  EXPECT_EQ(Strip("\u200Bx\uFEFF"), "\u200Bx\uFEFF");
  EXPECT_EQ(Strip(" \u2028 "), "");
}

TEST(Utf8, CaseIsPythons) {
  EXPECT_EQ(Lower("ÀÉÎ ÅÄÖ ЖΩ \u0130"), "àéî åäö жω i\u0307");
  EXPECT_EQ(Lower("ΟΔΟΣ ΣΑΣ Σ"), "οδος σας σ");
  EXPECT_EQ(Lower("ΑΣ.Α ΑΣ. ΑΣ-Α"), "ασ.α ας. ας-α");
  EXPECT_EQ(Upper("straße ﬁ ǆ"), "STRASSE FI Ǆ");
}

TEST(Json, KeepsNumbersOrderAndFirstPlaces) {
  const absl::StatusOr<JsonValue> value =
      ParseJson(R"( {"b":1.50,"a":[1e2,-0,true,null,"x\u00e9\ud83d\ude00"],"b":2} )");
  ASSERT_TRUE(value.ok()) << value.status();
  std::string json;
  AppendJson(*value, json);
  EXPECT_EQ(json, R"({"b":2,"a":[1e2,-0,true,null,"xé😀"]})");
}

TEST(Json, LoneSurrogatesAreReplaced) {
  for (const char* json : {R"("\ud800")", R"("\udc00")", R"("\ud800\n")"}) {
    const absl::StatusOr<JsonValue> value = ParseJson(json);
    ASSERT_TRUE(value.ok()) << json;
    EXPECT_TRUE(value->text.starts_with(kBad)) << json;
  }
  EXPECT_EQ(ParseJson(R"("\ud83d\ud83d\ude00")")->text, std::string(kBad) + "😀");
}

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* json : {"",    "{",   "[1,]",     "{\"a\":1,}", "{a:1}",     "01",          "1.",     "-",
                           "1e",  "nul", "tru",      "\"a",        "\"\\x\"",   "\"\\u12g4\"", "\"\n\"", "[1] 2",
                           "NaN", "'a'", "\"\xFF\"", "[1 2]",      "{\"a\" 1}", "\"\\"}) {
    EXPECT_EQ(ParseJson(json).status().code(), absl::StatusCode::kInvalidArgument) << json;
  }
}

TEST(Json, DepthIsLimited) {
  EXPECT_TRUE(ParseJson(std::string(256, '[') + std::string(256, ']')).ok());
  EXPECT_FALSE(ParseJson(std::string(257, '[') + std::string(257, ']')).ok());
  EXPECT_FALSE(ParseJson(std::string(1 << 20, '[')).ok());
}

TEST(Json, ManyKeysAreNotQuadratic) {
  std::string json = "{";
  for (int i = 0; i < 200000; ++i) {
    json += (i > 0 ? ",\"k" : "\"k") + std::to_string(i % 150000) + "\":" + std::to_string(i);
  }
  const absl::StatusOr<JsonValue> value = ParseJson(json + "}");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(value->members.size(), 150000u);
  EXPECT_EQ(value->members[0].value.text, "150000");
}

TEST(PythonFormat, NumbersAreAsPythonPrintsThem) {
  const std::pair<const char*, const char*> cases[] = {
      {"0", "0"},
      {"-0", "0"},
      {"123456789012345678901234567890", "123456789012345678901234567890"},
      {"3.0", "3.0"},
      {"3.10", "3.1"},
      {"1e5", "100000.0"},
      {"1e15", "1000000000000000.0"},
      {"1e16", "1e+16"},
      {"0.0001", "0.0001"},
      {"0.00001", "1e-05"},
      {"1E-7", "1e-07"},
      {"-0.0", "-0.0"},
      {"123.456e2", "12345.6"},
      {"1.5e300", "1.5e+300"},
      {"1e-400", "0.0"},
      {"1e999", "inf"},
      {"-1e999", "-inf"},
      {"5e-324", "5e-324"},
      {"0.1", "0.1"},
      {"12345678901234567.0", "1.2345678901234568e+16"}};
  for (const auto& [json, python] : cases) {
    EXPECT_EQ(PythonNumber(json), python) << json;
  }
  EXPECT_TRUE(OverflowsDouble("1e999"));
  EXPECT_FALSE(OverflowsDouble("1e308"));
  EXPECT_FALSE(OverflowsDouble(std::string(400, '9')));
}

TEST(PythonFormat, ReprOfNestedValues) {
  const absl::StatusOr<JsonValue> value = ParseJson(R"(["a","it's",true,null,{"k":[1.0]},"\n"])");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(PythonStr(*value), R"(['a', "it's", True, None, {'k': [1.0]}, '\n'])");
}

std::string Streamed(StopStrings& stops, const std::string& text, size_t step) {
  std::string out;
  for (size_t at = 0; at < text.size(); at += step) {
    out += stops.Add(std::string_view(text).substr(at, step));
  }
  return out + stops.Flush();
}

TEST(StopStrings, StopWhereTheFirstOneBeginsHoweverTextIsSplit) {
  const std::string text = "one aab two END three";
  for (size_t step = 1; step <= text.size(); ++step) {
    StopStrings both({"END", "ab"});
    EXPECT_EQ(Streamed(both, text, step), "one a") << step;
    EXPECT_TRUE(both.stopped());
    StopStrings overlapping({"aab two X", "ab"});
    EXPECT_EQ(Streamed(overlapping, text, step), "one a") << step;
    StopStrings none({"xyz", "", "three!"});
    EXPECT_EQ(Streamed(none, text, step), text) << step;
    EXPECT_FALSE(none.stopped());
  }
}

TEST(StopStrings, HoldsBackOnlyAPossibleBeginning) {
  StopStrings stops({"<end>"});
  EXPECT_EQ(stops.Add("abc<e"), "abc");
  EXPECT_EQ(stops.Add("x<"), "<ex");
  EXPECT_EQ(stops.Add("end>more"), "");
  EXPECT_TRUE(stops.stopped());
  EXPECT_EQ(stops.Add("again"), "");
  EXPECT_EQ(stops.Flush(), "");
}

TEST(StopStrings, EarlierUnfinishedOneGivesWayAtTheEnd) {
  StopStrings stops({"xabcd", "ab"});
  EXPECT_EQ(stops.Add("1xab"), "1");
  EXPECT_FALSE(stops.stopped());
  EXPECT_EQ(stops.Flush(), "x");
  EXPECT_TRUE(stops.stopped());
}

}  // namespace
}  // namespace alphecca::text

// The tokens that steer Gemma models, by their spelling. Files type some of them as ordinary or user-defined pieces so
// that they print; here they are control tokens whatever a file says.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace alphecca::text {

struct SpecialToken {
  std::string_view text;
  int32_t gemma4_id;      // in Gemma 4's vocabulary of 262,144 tokens; -1: not one of Gemma 4's
  bool ends = false;      // ends generation
  bool suppress = false;  // never to be sampled
};

inline constexpr int32_t kGemmaVocabulary = 262144;

std::span<const SpecialToken> SpecialTokens();

inline constexpr std::string_view kBos = "<bos>";
inline constexpr std::string_view kTool = "<|tool>";
inline constexpr std::string_view kToolEnd = "<tool|>";
inline constexpr std::string_view kToolCall = "<|tool_call>";
inline constexpr std::string_view kToolCallEnd = "<tool_call|>";
inline constexpr std::string_view kToolResponse = "<|tool_response>";
inline constexpr std::string_view kToolResponseEnd = "<tool_response|>";
inline constexpr std::string_view kQuote = "<|\"|>";
inline constexpr std::string_view kThink = "<|think|>";
inline constexpr std::string_view kChannel = "<|channel>";
inline constexpr std::string_view kChannelEnd = "<channel|>";
inline constexpr std::string_view kTurn = "<|turn>";
inline constexpr std::string_view kTurnEnd = "<turn|>";
inline constexpr std::string_view kImage = "<|image|>";
inline constexpr std::string_view kAudio = "<|audio|>";
inline constexpr std::string_view kVideo = "<|video|>";
inline constexpr std::string_view kEos = "<eos>";
inline constexpr std::string_view kGemma3Turn = "<start_of_turn>";
inline constexpr std::string_view kGemma3TurnEnd = "<end_of_turn>";
inline constexpr std::string_view kGemma3Image = "<start_of_image>";

}  // namespace alphecca::text

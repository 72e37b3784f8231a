#include "kernels/logit_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::kernels {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// Written so that NaN fails.
absl::Status CheckWithin(std::string_view what, float value, float low, float high) {
  if (value >= low && value <= high) {
    return absl::OkStatus();
  }
  return Invalid(std::string(what), " ", value, ": must be ", low, " to ", high);
}

// That `token` is in the vocabulary and above the one before it.
absl::Status CheckRising(std::string_view what, int32_t token, int64_t previous, int64_t vocab) {
  if (token < 0 || token >= vocab) {
    return Invalid(std::string(what), " of token ", token, ": must be 0 to ", vocab - 1);
  }
  if (token <= previous) {
    return Invalid(std::string(what), " of token ", token, " after that of ", previous, ": tokens must rise");
  }
  return absl::OkStatus();
}

absl::Status CheckBias(const std::vector<TokenBias>& bias, int64_t vocab) {
  if (bias.size() > kMaxBiases) {
    return Invalid("logit_bias of ", bias.size(), " tokens: at most ", kMaxBiases);
  }
  int64_t previous = -1;
  for (const TokenBias& b : bias) {
    RETURN_IF_ERROR(CheckRising("logit_bias", b.token, previous, vocab));
    if (!(std::fabs(b.bias) <= kMaxBias)) {
      return Invalid("logit_bias of token ", b.token, " is ", b.bias, ": must be ", -kMaxBias, " to ", kMaxBias);
    }
    previous = b.token;
  }
  return absl::OkStatus();
}

absl::Status CheckSuppressed(const std::vector<TokenRange>& suppressed, int64_t vocab) {
  int64_t previous = -1;
  int64_t tokens = 0;
  for (const TokenRange& r : suppressed) {
    if (r.begin < 0 || r.end <= r.begin || r.end > vocab || r.begin <= previous) {
      return Invalid("suppressed tokens [", r.begin, ", ", r.end, "): must be some of the ", vocab,
                     " tokens and lie past ", previous, ", the end of the range before");
    }
    tokens += int64_t{r.end} - r.begin;
    previous = r.end;
  }
  if (tokens >= vocab && !suppressed.empty()) {
    return Invalid("all ", vocab, " tokens are suppressed: at least one must be left");
  }
  return absl::OkStatus();
}

absl::Status CheckHistory(const LogitRules& rules, int64_t vocab) {
  if (!rules.history.empty() && !rules.Penalises()) {
    return Invalid("a history of ", rules.history.size(), " tokens, and no penalty that reads it");
  }
  int64_t previous = -1;
  for (const TokenCount& c : rules.history) {
    RETURN_IF_ERROR(CheckRising("history", c.token, previous, vocab));
    if (c.answer < 0 || (c.answer == 0 && !c.prompt)) {
      return Invalid("history of token ", c.token, ": ", c.answer,
                     " times in the answer: must be at least 1, or 0 if it is in the prompt");
    }
    previous = c.token;
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<TokenCount> CountTokens(std::span<const int32_t> tokens, int64_t answer) {
  std::map<int32_t, TokenCount> counts;
  const auto given = static_cast<int64_t>(tokens.size()) - answer;
  for (size_t i = 0; i < tokens.size(); ++i) {
    TokenCount& count = counts[tokens[i]];
    count.token = tokens[i];
    if (static_cast<int64_t>(i) < given) {
      count.prompt = true;
    } else {
      ++count.answer;
    }
  }
  std::vector<TokenCount> history;
  history.reserve(counts.size());
  for (const auto& [token, count] : counts) {
    history.push_back(count);
  }
  return history;
}

std::vector<TokenRange> RangesOf(std::span<const int32_t> sorted) {
  std::vector<TokenRange> ranges;
  for (const int32_t id : sorted) {
    if (!ranges.empty() && id <= ranges.back().end) {
      ranges.back().end = std::max(ranges.back().end, id + 1);
    } else {
      ranges.push_back({id, id + 1});
    }
  }
  return ranges;
}

absl::Status CheckLogitRules(const LogitRules& rules, int64_t vocab) {
  RETURN_IF_ERROR(
      CheckWithin("repetition_penalty", rules.repetition_penalty, kMinRepetitionPenalty, kMaxRepetitionPenalty));
  RETURN_IF_ERROR(CheckWithin("presence_penalty", rules.presence_penalty, -kMaxCountPenalty, kMaxCountPenalty));
  RETURN_IF_ERROR(CheckWithin("frequency_penalty", rules.frequency_penalty, -kMaxCountPenalty, kMaxCountPenalty));
  RETURN_IF_ERROR(CheckBias(rules.bias, vocab));
  RETURN_IF_ERROR(CheckSuppressed(rules.suppressed, vocab));
  return CheckHistory(rules, vocab);
}

SlotRules::SlotRules(const LogitRules& rules)
    : repetition_(rules.repetition_penalty),
      presence_(rules.presence_penalty),
      frequency_(rules.frequency_penalty),
      penalises_(rules.Penalises()),
      suppressed_(rules.suppressed) {
  entries_.reserve(rules.bias.size() + rules.history.size());
  auto bias = rules.bias.begin();
  const auto take_biases_below = [&](int64_t token) {
    for (; bias != rules.bias.end() && bias->token < token; ++bias) {
      entries_.push_back({.token = bias->token, .bias = bias->bias});
    }
  };
  for (const TokenCount& c : rules.history) {
    take_biases_below(c.token);
    Entry entry{.token = c.token, .bias = 0.0F, .answer = c.answer, .prompt = c.prompt};
    if (bias != rules.bias.end() && bias->token == c.token) {
      entry.bias = (bias++)->bias;
    }
    entries_.push_back(entry);
  }
  take_biases_below(std::numeric_limits<int64_t>::max());
}

std::vector<SlotRules::Entry>::iterator SlotRules::Find(int32_t token) {
  return std::lower_bound(entries_.begin(), entries_.end(), token,
                          [](const Entry& entry, int32_t t) { return entry.token < t; });
}

void SlotRules::Count(int32_t token) {
  if (!penalises_) {
    return;
  }
  auto found = Find(token);
  if (found == entries_.end() || found->token != token) {
    found = entries_.insert(found, Entry{.token = token});
  }
  ++found->answer;
}

float SlotRules::Adjusted(const Entry& entry, float logit) const {
  if (entry.prompt || entry.answer > 0) {
    logit = logit > 0.0F ? logit / repetition_ : logit * repetition_;
  }
  if (entry.answer > 0) {
    logit -= presence_ + frequency_ * static_cast<float>(entry.answer);
  }
  return logit + entry.bias;
}

float SlotRules::Adjusted(int32_t token, float logit) const {
  const auto range = std::upper_bound(suppressed_.begin(), suppressed_.end(), token,
                                      [](int32_t t, const TokenRange& r) { return t < r.end; });
  if (range != suppressed_.end() && range->begin <= token) {
    return kNever;
  }
  const std::span<const Entry> entry = Entries(token, int64_t{token} + 1);
  return entry.empty() ? logit : Adjusted(entry.front(), logit);
}

std::span<const SlotRules::Entry> SlotRules::Entries(int64_t begin, int64_t end) const {
  const auto at = [this](int64_t token) {
    return std::lower_bound(entries_.begin(), entries_.end(), token,
                            [](const Entry& entry, int64_t t) { return entry.token < t; });
  };
  return {at(begin), at(end)};
}

float Adjustment::Adjusted(int32_t token, float logit) const {
  const auto bit = static_cast<uint32_t>(token);
  if (!mask.empty() && (mask[bit / 32] >> (bit % 32) & 1U) == 0) {
    return kNever;
  }
  return rules == nullptr ? logit : rules->Adjusted(token, logit);
}

}  // namespace alphecca::kernels

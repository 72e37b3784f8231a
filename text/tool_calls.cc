#include "text/tool_calls.h"

#include <utility>

#include "absl/random/distributions.h"
#include "absl/status/statusor.h"
#include "text/call_arguments.h"
#include "text/special_tokens.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

constexpr std::string_view kTurnHeader = "model\n";
constexpr std::string_view kThoughtLabel = "thought\n";
constexpr size_t kMaxCallBytes = size_t{1} << 20;

bool EndsOutput(std::string_view token) {
  return token == kEos || token == kTurnEnd || token == kToolResponse || token == kTurn;
}

}  // namespace

std::vector<OutputEvent> OutputParser::Feed(const Piece& piece) {
  if (!ended_) {
    if (piece.control) {
      Control(piece.text);
    } else if (IsValidUtf8(piece.text)) {
      Text(piece.text);
    } else {
      Text(ReplaceIllFormed(piece.text));
    }
  }
  return std::exchange(events_, {});
}

std::vector<OutputEvent> OutputParser::Finish() {
  if (!ended_) {
    if (turn_header_.has_value()) {
      StateText(*std::exchange(turn_header_, std::nullopt));
    }
    CutCall();
    LeaveThought();
    End();
  }
  return std::exchange(events_, {});
}

void OutputParser::Emit(OutputEvent::Kind kind, std::string_view text) {
  if (text.empty()) {
    return;
  }
  if (!events_.empty() && events_.back().kind == kind) {
    events_.back().text += text;
  } else {
    events_.push_back({kind, std::string(text), "", ""});
  }
}

void OutputParser::Control(std::string_view token) {
  const bool first = !std::exchange(started_, true);
  if (turn_header_.has_value()) {
    const std::string header = *std::exchange(turn_header_, std::nullopt);
    if (header + "\n" != kTurnHeader) {  // a bare "model" is a header too
      StateText(header);
    }
  }
  if (state_ == State::kCall || state_ == State::kSpilledCall) {
    ControlInCall(token);
  } else if (token == kTurn && first) {
    turn_header_.emplace();
  } else if (EndsOutput(token)) {
    LeaveThought();
    End();
  } else if (token == kChannel) {
    LeaveThought();
    held_.clear();
    state_ = State::kThought;
    label_.emplace();
  } else if (token == kChannelEnd) {
    LeaveThought();
  } else if (token == kToolCall) {
    LeaveThought();
    OpenCall();
  }
}

void OutputParser::ControlInCall(std::string_view token) {
  if (token == kToolCallEnd) {
    CloseCall();
  } else if (EndsOutput(token)) {
    CutCall();
    End();
  } else if (token == kToolCall) {
    CutCall();
    OpenCall();
  } else if (state_ == State::kSpilledCall) {
    Emit(OutputEvent::Kind::kContent, token);
  } else {
    call_raw_ += token;
    if (token == kQuote) {
      call_ += kQuoteMark;
    }
    CallText("");
  }
}

void OutputParser::Text(std::string_view text) {
  started_ = true;
  std::string unskipped;
  if (turn_header_.has_value()) {
    unskipped = SkipTurnHeader(text);
    text = unskipped;
  }
  StateText(text);
}

void OutputParser::StateText(std::string_view text) {
  if (text.empty()) {
    return;
  }
  switch (state_) {
    case State::kContent:
      ContentText(text);
      return;
    case State::kThought:
      ThoughtText(text);
      return;
    case State::kCall:
    case State::kSpilledCall:
      CallText(text);
      return;
  }
}

// What is left of the text once a repeated turn header is taken off; all that was read if it turns out to be none.
std::string OutputParser::SkipTurnHeader(std::string_view text) {
  *turn_header_ += text;
  const std::string_view read = *turn_header_;
  if (read.size() < kTurnHeader.size() && kTurnHeader.starts_with(read)) {
    return "";
  }
  std::string left(read.starts_with(kTurnHeader) ? read.substr(kTurnHeader.size()) : read);
  turn_header_.reset();
  return left;
}

void OutputParser::ThoughtText(std::string_view text) {
  std::string joined;
  if (label_.has_value()) {
    *label_ += text;
    if (label_->size() < kThoughtLabel.size() && kThoughtLabel.starts_with(*label_)) {
      return;
    }
    joined = *std::exchange(label_, std::nullopt);
    if (joined.starts_with(kThoughtLabel)) {
      joined.erase(0, kThoughtLabel.size());
    }
  } else {
    joined = std::exchange(held_, {});
    joined += text;
  }
  // One newline before the end of a thought is framing.
  if (joined.ends_with('\n')) {
    joined.pop_back();
    held_ = "\n";
  }
  Emit(OutputEvent::Kind::kReasoning, joined);
}

void OutputParser::ContentText(std::string_view text) {
  const size_t kept = StripRight(text).size();
  if (kept == 0) {
    held_ += after_call_ ? "" : text;
    return;
  }
  if (std::exchange(after_call_, false)) {  // white space between and after calls
    const std::string_view stripped = Strip(text);
    const size_t leading = static_cast<size_t>(stripped.data() - text.data());
    Emit(OutputEvent::Kind::kContent, text.substr(leading, kept - leading));
  } else {
    Emit(OutputEvent::Kind::kContent, std::exchange(held_, {}));
    Emit(OutputEvent::Kind::kContent, text.substr(0, kept));
  }
  held_ = text.substr(kept);
}

void OutputParser::CallText(std::string_view text) {
  if (state_ == State::kSpilledCall) {
    Emit(OutputEvent::Kind::kContent, text);
    return;
  }
  call_ += text;
  call_raw_ += text;
  if (call_raw_.size() > kMaxCallBytes) {
    ++malformed_;
    GiveBackCall("");
    state_ = State::kSpilledCall;
  }
}

void OutputParser::OpenCall() {
  held_.clear();
  call_.clear();
  call_raw_.clear();
  state_ = State::kCall;
}

void OutputParser::EmitCall(std::string name, std::string arguments) {
  events_.push_back({OutputEvent::Kind::kToolCall, "", std::move(name), std::move(arguments)});
  ++calls_;
  after_call_ = true;
  state_ = State::kContent;
}

void OutputParser::GiveBackCall(std::string_view tail) {
  Emit(OutputEvent::Kind::kContent, kToolCall);
  Emit(OutputEvent::Kind::kContent, call_raw_);
  Emit(OutputEvent::Kind::kContent, tail);
  call_.clear();
  call_raw_.clear();
  after_call_ = false;
  state_ = State::kContent;
}

void OutputParser::CloseCall() {
  if (state_ == State::kSpilledCall) {
    Emit(OutputEvent::Kind::kContent, kToolCallEnd);
    state_ = State::kContent;
    return;
  }
  absl::StatusOr<ParsedCall> call = ParseCall(call_);
  if (call.ok()) {
    EmitCall(std::move(call->name), std::move(call->arguments));
  } else {
    ++malformed_;
    GiveBackCall(kToolCallEnd);
  }
}

// A call, if one is open, that was not ended by its closing token: good only if it is whole.
void OutputParser::CutCall() {
  if (state_ == State::kSpilledCall) {
    state_ = State::kContent;
  }
  if (state_ != State::kCall) {
    return;
  }
  if (IsBalancedCall(call_)) {
    if (absl::StatusOr<ParsedCall> call = ParseCall(call_); call.ok()) {
      EmitCall(std::move(call->name), std::move(call->arguments));
      return;
    }
  }
  ++cut_;
  GiveBackCall("");
}

void OutputParser::LeaveThought() {
  if (state_ != State::kThought) {
    return;
  }
  if (label_.has_value()) {
    const std::string label = *std::exchange(label_, std::nullopt);
    if (label + "\n" != kThoughtLabel) {
      Emit(OutputEvent::Kind::kReasoning, label);
    }
  }
  held_.clear();
  state_ = State::kContent;
}

void OutputParser::End() {
  ended_ = true;
  if (calls_ == 0) {
    Emit(OutputEvent::Kind::kContent, held_);
  }
  held_.clear();
}

std::string_view FinishReason(const OutputParser& parser, bool at_token_limit) {
  return at_token_limit ? "length" : parser.calls() > 0 ? "tool_calls" : "stop";
}

std::string NewToolCallId(absl::BitGenRef random) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  std::string id = "call_";
  for (int i = 0; i < 24; ++i) {
    id += kLetters[absl::Uniform<size_t>(random, 0, kLetters.size())];
  }
  return id;
}

}  // namespace alphecca::text

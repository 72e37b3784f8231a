#include "coordinator/api/messages.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace alphecca::coordinator {
namespace {

GenerationOptions FromProto(const v1::GenerationOptions& message) {
  GenerationOptions o;
  const v1::Sampling& s = message.sampling();
  if (s.has_temperature()) {
    o.temperature = s.temperature();
  }
  if (s.has_top_k()) {
    o.top_k = s.top_k();
  }
  if (s.has_top_p()) {
    o.top_p = s.top_p();
  }
  if (s.has_min_p()) {
    o.min_p = s.min_p();
  }
  if (s.has_seed()) {
    o.seed = s.seed();
  }
  if (s.has_repetition_penalty()) {
    o.repetition_penalty = s.repetition_penalty();
  }
  if (s.has_presence_penalty()) {
    o.presence_penalty = s.presence_penalty();
  }
  if (s.has_frequency_penalty()) {
    o.frequency_penalty = s.frequency_penalty();
  }
  o.logit_bias.insert(s.logit_bias().begin(), s.logit_bias().end());
  if (message.has_max_tokens()) {
    o.max_tokens = message.max_tokens();
  }
  if (message.has_n()) {
    o.n = message.n();
  }
  o.stop.assign(message.stop().begin(), message.stop().end());
  if (message.has_logprobs()) {
    o.logprobs = message.logprobs();
  }
  if (message.has_prompt_logprobs()) {
    o.prompt_logprobs = message.prompt_logprobs();
  }
  o.tenant = message.tenant();
  o.priority = message.priority();
  o.request_id = message.request_id();
  o.ignore_eos = message.ignore_eos();
  return o;
}

v1::PositionLogprobs ToProto(const TokenLogprobs& l, const ServedModel& model) {
  v1::PositionLogprobs out;
  out.mutable_token()->set_id(l.id);
  out.mutable_token()->set_text(model.TokenText(l.id));
  out.mutable_token()->set_logprob(l.logprob);
  for (size_t i = 0; i < l.top_ids.size() && i < l.top_logprobs.size(); ++i) {
    v1::TokenLogprob& top = *out.add_top();
    top.set_id(l.top_ids[i]);
    top.set_text(model.TokenText(l.top_ids[i]));
    top.set_logprob(l.top_logprobs[i]);
  }
  return out;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kToolCalls:
      return v1::FINISH_REASON_TOOL_CALLS;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

// The fields that both kinds of event have.
template <typename Event>
void FillCommon(const GenerationEvent& event, const EventContext& context, Event& out) {
  out.set_sample(event.sample);
  out.mutable_ids()->Add(event.ids.begin(), event.ids.end());
  for (const TokenLogprobs& l : event.logprobs) {
    *out.add_logprobs() = ToProto(l, context.model);
  }
  for (const TokenLogprobs& l : event.prompt_logprobs) {
    *out.add_prompt_logprobs() = ToProto(l, context.model);
  }
  if (event.first) {
    out.set_request_id(context.options.request_id);
  }
  if (event.finish) {
    out.set_finish_reason(ToProto(*event.finish));
    out.set_seed(context.options.sampling.seed);
    out.set_fingerprint(context.fingerprint);
  }
  if (event.usage) {
    out.mutable_usage()->set_prompt_tokens(event.usage->prompt_tokens);
    out.mutable_usage()->set_completion_tokens(event.usage->completion_tokens);
    out.mutable_usage()->set_cached_tokens(event.usage->cached_tokens);
  }
}

}  // namespace

absl::StatusOr<GenerateInput> FromProto(const v1::GenerateRequest& request) {
  GenerateInput input;
  if (request.has_text()) {
    input.text = request.text();
  } else if (request.has_ids()) {
    input.ids.emplace(request.ids().ids().begin(), request.ids().ids().end());
  } else {
    return InvalidField("prompt", "neither text nor ids is set; set one");
  }
  input.options = FromProto(request.options());
  return input;
}

absl::StatusOr<ChatInput> FromProto(const v1::ChatRequest& request) {
  ChatInput input;
  Violations violations;
  for (int i = 0; i < request.messages_size(); ++i) {
    const v1::Message& message = request.messages(i);
    ChatTurn turn;
    turn.role = message.role();
    for (int j = 0; j < message.content_size(); ++j) {
      if (!message.content(j).has_text()) {
        violations.Add(absl::StrCat("messages[", i, "].content[", j, "]"), "it has no text; parts must be text");
      }
      turn.content.push_back(message.content(j).text());
    }
    turn.reasoning = message.reasoning();
    for (const v1::ToolCall& call : message.tool_calls()) {
      turn.tool_calls.push_back({call.id(), call.name(), call.arguments()});
    }
    turn.tool_call_id = message.tool_call_id();
    turn.name = message.name();
    input.messages.push_back(std::move(turn));
  }
  for (const v1::Tool& tool : request.tools()) {
    input.tools.push_back({tool.name(), tool.description(), tool.parameters()});
  }
  input.enable_thinking = request.enable_thinking();
  input.preserve_thinking = request.preserve_thinking();
  input.options = FromProto(request.options());
  if (absl::Status status = violations.ToStatus(); !status.ok()) {
    return status;
  }
  return input;
}

v1::GenerateEvent ToGenerateEvent(GenerationEvent event, const EventContext& context) {
  v1::GenerateEvent out;
  FillCommon(event, context, out);
  out.set_text(std::move(event.delta.text));
  return out;
}

v1::ChatEvent ToChatEvent(GenerationEvent event, const EventContext& context) {
  v1::ChatEvent out;
  FillCommon(event, context, out);
  out.set_content(std::move(event.delta.text));
  out.set_reasoning(std::move(event.delta.reasoning));
  for (EmittedCall& call : event.delta.tool_calls) {
    v1::ToolCall& to = *out.add_tool_calls();
    to.set_id(std::move(call.id));
    to.set_name(std::move(call.name));
    to.set_arguments(std::move(call.arguments));
  }
  return out;
}

}  // namespace alphecca::coordinator

#include "coordinator/rpc/convert.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <algorithm>
#include <bit>
#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/request/errors.h"
#include "model/shard_plan.h"

namespace alphecca::coordinator {
namespace {

// Trailing metadata holds 8 KiB with most clients, details included.
constexpr size_t kMaxMessageBytes = 2048;

absl::StatusCode CodeFromWire(int code) {
  return code >= 0 && code <= 16 ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown;
}

ShardState FromProto(v1::ShardState state) {
  switch (state) {
    case v1::SHARD_STATE_LOADING:
      return ShardState::kLoading;
    case v1::SHARD_STATE_CONNECTING:
      return ShardState::kConnecting;
    case v1::SHARD_STATE_READY:
      return ShardState::kReady;
    case v1::SHARD_STATE_FAILED:
      return ShardState::kFailed;
    default:
      return ShardState::kIdle;
  }
}

TokenLogprobs FromProto(const v1::EngineLogprobs& message) {
  TokenLogprobs l;
  l.id = message.id();
  l.logprob = message.logprob();
  l.top_ids.assign(message.top_ids().begin(), message.top_ids().end());
  l.top_logprobs.assign(message.top_logprobs().begin(), message.top_logprobs().end());
  l.top_logprobs.resize(l.top_ids.size());
  return l;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) {
    return grpc::Status::OK;
  }
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = Shortened(std::string(status.message()), kMaxMessageBytes);
  google::rpc::Status details;
  if (const auto violations = ViolationsOf(status); !violations.empty()) {
    google::rpc::BadRequest bad;
    for (const FieldViolation& v : violations) {
      auto* out = bad.add_field_violations();
      out->set_field(v.field);
      out->set_description(v.description);
    }
    details.add_details()->PackFrom(bad);
  }
  if (const auto delay = RetryDelayOf(status); delay) {
    google::rpc::RetryInfo retry;
    const int64_t ms = absl::ToInt64Milliseconds(*delay);
    retry.mutable_retry_delay()->set_seconds(ms / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(ms % 1000) * 1'000'000);
    details.add_details()->PackFrom(retry);
  }
  if (details.details_size() == 0) {
    return grpc::Status(code, message);
  }
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  return grpc::Status(code, message, details.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  return status.ok() ? absl::OkStatus() : absl::Status(CodeFromWire(status.error_code()), status.error_message());
}

Registration FromProto(const v1::Register& message) {
  Registration r;
  r.protocol_version = message.protocol_version();
  r.build = message.build();
  r.device.kind = message.device().kind();
  r.device.name = message.device().name();
  r.device.memory_bytes = message.device().memory_bytes();
  r.device.threads = message.device().threads();
  r.device.isa = message.device().isa();
  r.address = message.address();
  r.name = message.name();
  r.host = message.host();
  return r;
}

ShardReport FromProto(const v1::StateReport& message) {
  ShardReport r;
  r.epoch = Epoch(message.epoch());
  r.state = FromProto(message.state());
  r.loaded_bytes = message.loaded_bytes();
  r.total_bytes = message.total_bytes();
  r.message = message.message().substr(0, 4096);
  r.fingerprint = message.fingerprint().substr(0, 1024);
  r.weight_bytes = message.weight_bytes();
  r.kv_bytes = message.kv_bytes();
  return r;
}

SequenceEvent FromProto(const v1::SequenceEvent& message) {
  SequenceEvent e;
  e.ids.assign(message.ids().begin(), message.ids().end());
  for (const auto& l : message.logprobs()) {
    e.logprobs.push_back(FromProto(l));
  }
  for (const auto& l : message.prompt_logprobs()) {
    e.prompt_logprobs.push_back(FromProto(l));
  }
  e.cached_tokens = message.cached_tokens();
  if (message.error_code() != 0) {
    e.error = absl::Status(CodeFromWire(message.error_code()), message.error_message());
    return e;
  }
  switch (message.finish_reason()) {
    case v1::FINISH_REASON_STOP:
      e.finish = Finish::kStop;
      break;
    case v1::FINISH_REASON_LENGTH:
      e.finish = Finish::kLength;
      break;
    case v1::FINISH_REASON_CANCELLED:
      e.finish = Finish::kCancelled;
      break;
    default:
      break;
  }
  return e;
}

absl::StatusOr<std::vector<model::BlockHash>> HashesFromProto(const std::string& bytes) {
  constexpr size_t kSize = sizeof(model::BlockHash);
  static_assert(kSize == 16 && std::endian::native == std::endian::little);
  if (bytes.size() % kSize != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("block hashes of ", bytes.size(), " bytes, must be a multiple of ", kSize));
  }
  std::vector<model::BlockHash> hashes(bytes.size() / kSize);
  bytes.copy(reinterpret_cast<char*>(hashes.data()), bytes.size());
  return hashes;
}

v1::Assignment ToProto(const Assignment& a) {
  v1::Assignment message;
  message.set_group_id(a.group.value);
  message.set_epoch(a.epoch.value);
  message.set_model(a.model.name);
  message.set_checkpoint(a.model.checkpoint);
  message.set_revision(a.model.revision);
  message.set_tp(a.split.tp);
  message.set_ep(a.split.ep);
  message.set_expert_mode(std::string(model::ExpertModeName(a.split.expert_mode)));
  for (const auto& layer : a.split.expert_replicas) {
    for (const std::vector<int32_t>& rank : layer) {
      message.mutable_expert_replicas()->set_per_rank(static_cast<int32_t>(rank.size()));
      message.mutable_expert_replicas()->mutable_experts()->Add(rank.begin(), rank.end());
    }
  }
  message.set_rank(a.rank);
  message.set_weights(a.model.weights);
  message.set_resident_tables(a.model.resident_tables);
  message.set_context(a.model.context);
  message.set_max_sequences(a.model.max_sequences);
  message.set_kv_type(a.model.kv_type);
  message.set_plan_hash(a.split.plan_hash);
  for (const std::string& peer : a.peers) {
    message.add_peers(peer);
  }
  message.set_communicator(a.communicator);
  message.set_rendezvous(a.rendezvous);
  message.set_activations(a.model.activations);
  message.set_prefix_key(a.prefix_key.data(), sizeof(a.prefix_key));
  return message;
}

v1::OpenSequence ToProto(const SequenceSpec& spec, absl::Time now) {
  v1::OpenSequence message;
  message.set_sequence_id(spec.id.value);
  message.mutable_prompt()->Add(spec.prompt.begin(), spec.prompt.end());
  v1::Sampling& sampling = *message.mutable_sampling();
  sampling.set_temperature(spec.sampling.temperature);
  sampling.set_top_k(spec.sampling.top_k);
  sampling.set_top_p(spec.sampling.top_p);
  sampling.set_min_p(spec.sampling.min_p);
  sampling.set_seed(spec.sampling.seed);
  sampling.set_repetition_penalty(spec.sampling.repetition_penalty);
  sampling.set_presence_penalty(spec.sampling.presence_penalty);
  sampling.set_frequency_penalty(spec.sampling.frequency_penalty);
  sampling.mutable_logit_bias()->insert(spec.sampling.logit_bias.begin(), spec.sampling.logit_bias.end());
  message.set_sample(spec.sample);
  message.set_max_tokens(spec.max_tokens);
  message.mutable_stop_ids()->Add(spec.stop_ids.begin(), spec.stop_ids.end());
  for (const kernels::TokenRange& range : spec.suppressed) {
    v1::TokenRange& to = *message.add_suppressed();
    to.set_begin(range.begin);
    to.set_end(range.end);
  }
  message.set_logprobs(spec.logprobs);
  message.set_prompt_logprobs(spec.prompt_logprobs);
  message.set_tenant(spec.tenant);
  message.set_tenant_weight(spec.tenant_weight);
  message.set_priority(spec.priority);
  message.set_window(spec.window);
  if (spec.deadline != absl::InfiniteFuture()) {
    message.set_deadline_ms(std::max<int64_t>(1, absl::ToInt64Milliseconds(spec.deadline - now)));
  }
  return message;
}

v1::ShardState ToProto(ShardState state) {
  switch (state) {
    case ShardState::kIdle:
      return v1::SHARD_STATE_IDLE;
    case ShardState::kLoading:
      return v1::SHARD_STATE_LOADING;
    case ShardState::kConnecting:
      return v1::SHARD_STATE_CONNECTING;
    case ShardState::kReady:
      return v1::SHARD_STATE_READY;
    case ShardState::kFailed:
      return v1::SHARD_STATE_FAILED;
  }
  return v1::SHARD_STATE_UNSPECIFIED;
}

}  // namespace alphecca::coordinator

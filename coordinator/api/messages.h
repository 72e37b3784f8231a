// Between alphecca/v1/inference.proto and the coordinator's own types.
#pragma once

#include "absl/status/statusor.h"
#include "alphecca/v1/inference.pb.h"
#include "coordinator/request/generation.h"
#include "coordinator/request/served_model.h"

namespace alphecca::coordinator {

absl::StatusOr<GenerateInput> FromProto(const v1::GenerateRequest& request);
absl::StatusOr<ChatInput> FromProto(const v1::ChatRequest& request);

// What every event of a request needs besides its own.
struct EventContext {
  const ServedModel& model;
  const ResolvedOptions& options;
  const std::string& fingerprint;
};
v1::GenerateEvent ToGenerateEvent(GenerationEvent event, const EventContext& context);
v1::ChatEvent ToChatEvent(GenerationEvent event, const EventContext& context);

}  // namespace alphecca::coordinator

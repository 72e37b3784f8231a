// Protocol messages to and from the engine's types. What comes in is checked for form here (lengths, ranges of enums);
// the engine and the plan check judge the values.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "alphecca/v1/engine.pb.h"
#include "alphecca/v1/shard.pb.h"
#include "worker/engine/engine.h"
#include "worker/engine/step_plan.h"

namespace alphecca::worker {

// Unset sampling fields: greedy, no penalties, no filters. `now`: what deadline_ms counts from. InvalidArgument:
// tenant_weight.
absl::StatusOr<engine::SequenceRequest> FromProto(const v1::OpenSequence& open, absl::Time now);

// Appends the update to an event of the same sequence (ids follow one another) or fills a fresh one.
void Append(const engine::SequenceUpdate& update, v1::SequenceEvent& event);

v1::StepPlanMessage ToProto(const engine::StepPlan& plan);
// InvalidArgument: arrays that belong together differ in length.
absl::StatusOr<engine::StepPlan> FromProto(const v1::StepPlanMessage& message);

}  // namespace alphecca::worker

// One way to split a model over one group of devices, with its budget.
#pragma once

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "model/planner/planner.h"

namespace alphecca::model {

// The plan of this split, without reason, replicas and bound. InvalidArgument where the shapes do not allow it.
absl::StatusOr<Plan> MakeCandidate(const PlanRequest& request, const Device& device, int tp, int ep);

// The best split over exactly `ranks` devices: one that fits, else one that misses least. None where no split has as
// many ranks.
std::optional<Plan> BestCandidate(const PlanRequest& request, const Device& device, int ranks);

}  // namespace alphecca::model

// Copies of hot experts: which experts a rank holds beside its own, chosen from a recorded load.
//
// Routers do not spread rows evenly, and the busiest rank sets the pace of an MoE layer. Copying the experts that are
// chosen most to the ranks that are chosen least evens that out for memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/range.h"
#include "model/config.h"

namespace alphecca::model {

// Rows that chose each expert, [layer][expert].
using ExpertRows = std::vector<std::vector<uint64_t>>;

// Experts beside its own that a rank holds, rising: [layer][rank].
using ExpertReplicas = std::vector<std::vector<std::vector<int32_t>>>;

// A recorded load as JSON: {"layers": [[rows of expert 0, rows of expert 1, ...], ...]}.
std::string ExpertRowsToJson(const ExpertRows& rows);
// InvalidArgument: no such JSON, or not of this model's layers and experts; says what differs.
absl::StatusOr<ExpertRows> ExpertRowsFromJson(std::string_view text, const ModelConfig& config);
// The same from a file; NotFound without it.
absl::StatusOr<ExpertRows> ReadExpertRows(const std::string& path, const ModelConfig& config);

// Gives each of `ranks` ranks, which split the experts evenly, `per_rank` copies of other ranks' experts in every
// layer: time after time the copy that leaves the busiest rank with the least to do, on the rank that has the least.
// InvalidArgument: ranks or per_rank that the number of experts does not allow, or rows of other layers or experts.
absl::StatusOr<ExpertReplicas> PlaceReplicas(const ModelConfig& config, const ExpertRows& rows, int ranks,
                                             int per_rank);

// Contiguous and as even as it goes: the experts of rank `rank` of `ranks` before any copies.
Range OwnExperts(const ModelConfig& config, int rank, int ranks);

}  // namespace alphecca::model

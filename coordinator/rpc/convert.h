// Between the protocol's messages and the coordinator's own types.
#pragma once

#include <grpcpp/support/status.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "alphecca/v1/cluster.pb.h"
#include "alphecca/v1/engine.pb.h"
#include "coordinator/cluster/types.h"
#include "coordinator/routing/group_client.h"
#include "model/prefix_hash.h"

namespace alphecca::coordinator {

// The codes of both are google.rpc.Code's. BadRequest and RetryInfo details (request/errors.h) go along as a
// google.rpc.Status in "grpc-status-details-bin".
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

Registration FromProto(const v1::Register& message);
ShardReport FromProto(const v1::StateReport& message);
SequenceEvent FromProto(const v1::SequenceEvent& message);
// Of v1::BlockEvents. InvalidArgument: not whole hashes.
absl::StatusOr<std::vector<model::BlockHash>> HashesFromProto(const std::string& bytes);

v1::Assignment ToProto(const Assignment& assignment);
v1::OpenSequence ToProto(const SequenceSpec& spec, absl::Time now);
v1::ShardState ToProto(ShardState state);

}  // namespace alphecca::coordinator

// absl::Status <-> grpc::Status. The codes are the same numbers by design of both.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace alphecca::worker {

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace alphecca::worker

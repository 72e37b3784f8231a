// alphecca.v1.Shard: what the leader of a group serves to its followers.
#pragma once

#include <grpcpp/grpcpp.h>

#include "alphecca/v1/shard.grpc.pb.h"
#include "worker/rpc/shard_directory.h"

namespace alphecca::worker {

// Initial metadata of Follow that says that the leader took the follower in.
inline constexpr char kFollowKey[] = "alphecca-follow";

class ShardService final : public v1::Shard::CallbackService {
 public:
  explicit ShardService(const ShardDirectory& directory) : directory_(directory) {}

  grpc::ServerBidiReactor<v1::FollowerMessage, v1::StepPlanMessage>* Follow(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Exchange(grpc::CallbackServerContext* context, const v1::ExchangeRequest* request,
                                     v1::ExchangeResponse* response) override;

 private:
  const ShardDirectory& directory_;
};

}  // namespace alphecca::worker

// Keeps one stream to each ready group, and tells the router of them.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "coordinator/cluster/controller.h"
#include "coordinator/routing/router.h"
#include "coordinator/rpc/grpc_group_client.h"

namespace alphecca::coordinator {

// Thread-safe. `router` must outlive it.
class GroupConnections : public GroupListener {
 public:
  // `prefixes` learns what the groups' prefix caches hold.
  GroupConnections(Router& router, std::shared_ptr<PrefixIndex> prefixes)
      : router_(router), prefixes_(std::move(prefixes)) {}

  void GroupReady(GroupId group, Epoch epoch, const std::string& model, const std::string& leader_address,
                  const std::string& fingerprint) override ABSL_LOCKS_EXCLUDED(mutex_);
  void GroupLost(GroupId group, Epoch epoch, const std::string& model, const absl::Status& why) override
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Reconnects streams that broke while their epoch goes on.
  void Tick(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends all streams and their sequences.
  void CloseAll(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Router& router_;
  const std::shared_ptr<PrefixIndex> prefixes_;
  Mutex mutex_;
  std::map<GroupId, std::shared_ptr<GrpcGroupClient>> clients_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::coordinator

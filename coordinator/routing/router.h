// Which group a request goes to: the least loaded connected one of its model.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "coordinator/routing/group_client.h"

namespace alphecca::coordinator {

// Thread-safe.
class Router {
 public:
  // Replaces a client that the group had before.
  void Add(const std::string& model, GroupId group, std::shared_ptr<GroupClient> client) ABSL_LOCKS_EXCLUDED(mutex_);
  void Remove(const std::string& model, GroupId group) ABSL_LOCKS_EXCLUDED(mutex_);

  // Unavailable: no connected group.
  absl::StatusOr<std::shared_ptr<GroupClient>> Pick(const std::string& model) const ABSL_LOCKS_EXCLUDED(mutex_);
  bool Ready(const std::string& model) const { return Pick(model).ok(); }
  // Null: the group has no client.
  std::shared_ptr<GroupClient> Find(const std::string& model, GroupId group) const ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<std::shared_ptr<GroupClient>> All() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable Mutex mutex_;
  std::map<std::string, std::map<GroupId, std::shared_ptr<GroupClient>>> groups_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::coordinator

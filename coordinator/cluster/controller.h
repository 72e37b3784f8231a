// The cluster's state machine for many threads: one lock around it, effects carried out in order after the lock is
// free.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "coordinator/cluster/cluster.h"

namespace alphecca::coordinator {

// The coordinator's end of a worker's stream. Thread-safe; no call blocks or calls back into the controller.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  virtual void Registered(WorkerId worker) = 0;
  virtual void Assign(const Assignment& assignment) = 0;
  virtual void Release(Epoch epoch, const std::string& reason) = 0;
  virtual void Close(const absl::Status& why) = 0;
};

// What routing hears of groups, in order. No call blocks or calls back into the controller.
class GroupListener {
 public:
  virtual ~GroupListener() = default;
  virtual void GroupReady(GroupId group, Epoch epoch, const std::string& model, const std::string& leader_address,
                          const std::string& fingerprint) = 0;
  virtual void GroupLost(GroupId group, Epoch epoch, const std::string& model, const absl::Status& why) = 0;
};

// Thread-safe. `groups` must outlive it.
class ClusterController : private ClusterEffects {
 public:
  ClusterController(ClusterOptions options, std::vector<ModelSpec> models, GroupListener& groups);

  // As Cluster's. Before any other message the link gets Registered.
  absl::StatusOr<WorkerId> Join(const Registration& registration, const std::shared_ptr<WorkerLink>& link,
                                absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Heartbeat(WorkerId worker, uint64_t sequence, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Report(WorkerId worker, const ShardReport& report, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  void Leave(WorkerId worker, const std::string& why, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  void Tick(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  ClusterView View() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // ClusterEffects, called by cluster_ under mutex_: each queues what is to be done.
  void Assign(WorkerId worker, const Assignment& assignment) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(WorkerId worker, Epoch epoch, const std::string& reason) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Evict(WorkerId worker, const absl::Status& why) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GroupReady(GroupId group, Epoch epoch, const std::string& model, const std::string& leader_address,
                  const std::string& fingerprint) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GroupLost(GroupId group, Epoch epoch, const std::string& model, const absl::Status& why) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Runs queued effects without the lock, one thread at a time, so that their order is the state machine's.
  void RunEffects() ABSL_LOCKS_EXCLUDED(mutex_);

  GroupListener& groups_;
  mutable Mutex mutex_;
  std::deque<std::function<void()>> effects_ ABSL_GUARDED_BY(mutex_);
  bool running_effects_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<WorkerId, std::shared_ptr<WorkerLink>> links_ ABSL_GUARDED_BY(mutex_);
  Cluster cluster_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::coordinator

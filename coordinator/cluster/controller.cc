#include "coordinator/cluster/controller.h"

#include <utility>

#include "common/log.h"

namespace alphecca::coordinator {

ClusterController::ClusterController(ClusterOptions options, std::vector<ModelSpec> models, GroupListener& groups)
    : groups_(groups), cluster_(std::move(options), std::move(models), *this) {}

absl::StatusOr<WorkerId> ClusterController::Join(const Registration& registration,
                                                 const std::shared_ptr<WorkerLink>& link, absl::Time now) {
  absl::StatusOr<WorkerId> id;
  {
    const MutexLock lock(mutex_);
    id = cluster_.Join(registration, now);
    if (id.ok()) {
      links_[*id] = link;
      effects_.emplace_back([link, id = *id] { link->Registered(id); });
      cluster_.Tick(now);
    }
  }
  if (id.ok()) {
    LogInfo("worker {} joined: {} at {}, {} {}", id->value, registration.name, registration.address,
            registration.device.kind, registration.device.isa);
  } else {
    LogWarn("worker {} at {} refused: {}", registration.name, registration.address, id.status().ToString());
  }
  RunEffects();
  return id;
}

absl::Status ClusterController::Heartbeat(WorkerId worker, uint64_t sequence, absl::Time now) {
  const MutexLock lock(mutex_);
  return cluster_.Heartbeat(worker, sequence, now);
}

absl::Status ClusterController::Report(WorkerId worker, const ShardReport& report, absl::Time now) {
  absl::Status status;
  {
    const MutexLock lock(mutex_);
    status = cluster_.Report(worker, report, now);
  }
  if (status.ok() && report.state == ShardState::kFailed) {
    LogWarn("worker {}: shard of epoch {} failed: {}", worker.value, report.epoch.value, report.message);
  }
  RunEffects();
  return status;
}

void ClusterController::Leave(WorkerId worker, const std::string& why, absl::Time now) {
  bool was_there = false;
  {
    const MutexLock lock(mutex_);
    was_there = links_.erase(worker) > 0;
    cluster_.Leave(worker, why, now);
  }
  if (was_there) {
    LogInfo("worker {} left: {}", worker.value, why);
  }
  RunEffects();
}

void ClusterController::Tick(absl::Time now) {
  {
    const MutexLock lock(mutex_);
    cluster_.Tick(now);
  }
  RunEffects();
}

ClusterView ClusterController::View() const {
  const MutexLock lock(mutex_);
  return cluster_.View();
}

void ClusterController::Assign(WorkerId worker, const Assignment& assignment) {
  if (const auto it = links_.find(worker); it != links_.end()) {
    effects_.emplace_back([link = it->second, assignment, worker] {
      LogInfo("group {} epoch {}: rank {} of {} goes to worker {}", assignment.group.value, assignment.epoch.value,
              assignment.rank, assignment.model.name, worker.value);
      link->Assign(assignment);
    });
  }
}

void ClusterController::Release(WorkerId worker, Epoch epoch, const std::string& reason) {
  if (const auto it = links_.find(worker); it != links_.end()) {
    effects_.emplace_back([link = it->second, epoch, reason] { link->Release(epoch, reason); });
  }
}

void ClusterController::Evict(WorkerId worker, const absl::Status& why) {
  if (const auto it = links_.find(worker); it != links_.end()) {
    effects_.emplace_back([link = it->second, why, worker] {
      LogWarn("worker {} evicted: {}", worker.value, why.ToString());
      link->Close(why);
    });
    links_.erase(it);
  }
}

void ClusterController::GroupReady(GroupId group, Epoch epoch, const std::string& model,
                                   const std::string& leader_address, const std::string& fingerprint) {
  effects_.emplace_back([this, group, epoch, model, leader_address, fingerprint] {
    LogInfo("group {} of {} ready in epoch {}, leader {}", group.value, model, epoch.value, leader_address);
    groups_.GroupReady(group, epoch, model, leader_address, fingerprint);
  });
}

void ClusterController::GroupLost(GroupId group, Epoch epoch, const std::string& model, const absl::Status& why) {
  effects_.emplace_back([this, group, epoch, model, why] {
    LogWarn("group {} of {} lost in epoch {}: {}", group.value, model, epoch.value, std::string(why.message()));
    groups_.GroupLost(group, epoch, model, why);
  });
}

void ClusterController::RunEffects() {
  const MutexLock lock(mutex_);
  if (running_effects_) {
    return;  // the thread that runs them takes ours too
  }
  running_effects_ = true;
  while (!effects_.empty()) {
    std::function<void()> effect = std::move(effects_.front());
    effects_.pop_front();
    mutex_.Unlock();
    effect();
    effect = nullptr;  // may hold the last reference to a link
    mutex_.Lock();
  }
  running_effects_ = false;
}

}  // namespace alphecca::coordinator

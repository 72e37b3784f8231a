#include "worker/engine/local_group.h"

#include <deque>
#include <exception>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "worker/comm/shm.h"
#include "worker/comm/solo.h"

namespace alphecca::engine {
namespace {

// Collectives hold ranks within a step of each other, so a queue this long means that a follower has stopped.
constexpr size_t kMaxQueuedPlans = 64;

// One rank: its own backend, communicator and runner. Ranks above 0 have a thread that takes plans from a queue.
class LocalRank {
 public:
  LocalRank(int rank, std::unique_ptr<comm::Communicator> comm) : rank_(rank), comm_(std::move(comm)) {}

  ~LocalRank() {
    {
      MutexLock lock(mutex_);
      stop_ = true;
      changed_.NotifyAll();
    }
    if (thread_.joinable()) {
      thread_.join();
    }
  }

  // Any failure ends the other ranks' waits too.
  absl::Status Load(const model::Checkpoint& checkpoint, const model::ShardPlan& plan,
                    const LocalGroupOptions& options) {
    absl::Status status = TryLoad(checkpoint, plan, options);
    if (!status.ok()) {
      comm_->Abort(absl::StrCat("rank ", rank_, " did not load: ", std::string(status.message())));
    }
    return status;
  }

  void StartThread() {
    thread_ = std::thread([this] { RunQueued(); });
  }

  absl::Status Push(const StepPlan& plan) {
    MutexLock lock(mutex_);
    RETURN_IF_ERROR(failure_);
    if (plans_.size() >= kMaxQueuedPlans) {
      return absl::UnavailableError(absl::StrCat("rank ", rank_, " is ", plans_.size(), " steps behind"));
    }
    plans_.push_back(plan);
    changed_.NotifyAll();
    return absl::OkStatus();
  }

  // Until the queue is empty and no plan runs.
  absl::Status Drain() {
    MutexLock lock(mutex_);
    while ((!plans_.empty() || running_) && failure_.ok()) {
      changed_.Wait(mutex_);
    }
    return failure_;
  }

  ShardRunner& runner() { return *runner_; }
  comm::Communicator& comm() { return *comm_; }

 private:
  absl::Status TryLoad(const model::Checkpoint& checkpoint, const model::ShardPlan& plan,
                       const LocalGroupOptions& options) {
    try {
      ASSIGN_OR_RETURN(backend_, options.backend(rank_));
      ASSIGN_OR_RETURN(runner_, ShardRunner::Create(checkpoint, plan, rank_, *backend_, *comm_, options.shard,
                                                    rank_ == 0 ? options.progress : nullptr));
    } catch (const std::exception& error) {
      return absl::InternalError(absl::StrCat("rank ", rank_, ": ", error.what()));
    }
    return absl::OkStatus();
  }

  void RunQueued() {
    while (true) {
      StepPlan plan;
      {
        MutexLock lock(mutex_);
        running_ = false;
        changed_.NotifyAll();
        while (plans_.empty() && !stop_) {
          changed_.Wait(mutex_);
        }
        if (stop_) {
          return;
        }
        plan = std::move(plans_.front());
        plans_.pop_front();
        running_ = true;
      }
      const absl::Status status = RunOne(plan);
      if (!status.ok()) {
        comm_->Abort(absl::StrCat("rank ", rank_, ": ", std::string(status.message())));
        MutexLock lock(mutex_);
        failure_ = status;
        changed_.NotifyAll();
        return;
      }
    }
  }

  absl::Status RunOne(const StepPlan& plan) {
    try {
      return runner_->Run(plan).status();
    } catch (const std::exception& error) {
      return absl::InternalError(error.what());
    }
  }

  const int rank_;
  std::unique_ptr<comm::Communicator> comm_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<ShardRunner> runner_;
  std::thread thread_;

  Mutex mutex_;
  CondVar changed_;
  std::deque<StepPlan> plans_ ABSL_GUARDED_BY(mutex_);
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

class Group final : public LocalGroup, private Followers {
 public:
  explicit Group(std::vector<std::unique_ptr<comm::Communicator>> comms) {
    for (size_t rank = 0; rank < comms.size(); ++rank) {
      ranks_.push_back(std::make_unique<LocalRank>(static_cast<int>(rank), std::move(comms[rank])));
    }
  }

  ~Group() override {
    // A follower may wait in a collective for a rank that never comes: end that first.
    if (size() > 1) {
      ranks_[0]->comm().Abort("the group is closed");
    }
  }

  absl::Status Load(const model::Checkpoint& checkpoint, const model::ShardPlan& plan,
                    const LocalGroupOptions& options) {
    std::vector<absl::Status> statuses(ranks_.size());
    std::vector<std::thread> threads;
    for (size_t rank = 1; rank < ranks_.size(); ++rank) {
      threads.emplace_back([&, rank] { statuses[rank] = ranks_[rank]->Load(checkpoint, plan, options); });
    }
    statuses[0] = ranks_[0]->Load(checkpoint, plan, options);
    for (std::thread& thread : threads) {
      thread.join();
    }
    RETURN_IF_ERROR(FirstCause(statuses));
    for (size_t rank = 1; rank < ranks_.size(); ++rank) {
      ranks_[rank]->StartThread();
    }
    return absl::OkStatus();
  }

  int size() const override { return static_cast<int>(ranks_.size()); }
  ShardRunner& runner(int rank) override { return ranks_[static_cast<size_t>(rank)]->runner(); }
  Followers* followers() override { return size() > 1 ? this : nullptr; }

  absl::StatusOr<StepResult> Run(const StepPlan& plan) override {
    RETURN_IF_ERROR(Send(plan));
    absl::StatusOr<StepResult> result = runner(0).Run(plan);
    for (size_t rank = 1; rank < ranks_.size(); ++rank) {
      RETURN_IF_ERROR(ranks_[rank]->Drain());
    }
    return result;
  }

 private:
  absl::Status Send(const StepPlan& plan) override {
    for (size_t rank = 1; rank < ranks_.size(); ++rank) {
      RETURN_IF_ERROR(ranks_[rank]->Push(plan));
    }
    return absl::OkStatus();
  }

  // Ranks that were aborted by another's failure say Unavailable: prefer the failure itself.
  static absl::Status FirstCause(const std::vector<absl::Status>& statuses) {
    absl::Status first;
    for (const absl::Status& status : statuses) {
      if (!status.ok() && (first.ok() || absl::IsUnavailable(first))) {
        first = status;
      }
    }
    return first;
  }

  std::vector<std::unique_ptr<LocalRank>> ranks_;
};

absl::StatusOr<std::vector<std::unique_ptr<comm::Communicator>>> MakeCommunicators(int size) {
  if (size > 1) {
    return comm::CreateShmGroup(size);
  }
  std::vector<std::unique_ptr<comm::Communicator>> solo;
  solo.push_back(comm::CreateSolo());
  return solo;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalGroup>> LocalGroup::Create(const model::Checkpoint& checkpoint,
                                                               const LocalGroupOptions& options) {
  ASSIGN_OR_RETURN(const model::ShardPlan plan,
                   model::MakeShardPlan(checkpoint, options.sharding, options.shard.weights));
  ASSIGN_OR_RETURN(auto comms, MakeCommunicators(static_cast<int>(plan.ranks.size())));
  auto group = std::make_unique<Group>(std::move(comms));
  RETURN_IF_ERROR(group->Load(checkpoint, plan, options));
  return group;
}

}  // namespace alphecca::engine

#include "worker/rpc/follower_hub.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/rpc/convert.h"

namespace alphecca::worker {

absl::Status FollowerHub::Attach(int rank, const std::string& fingerprint, std::shared_ptr<FollowerLink> link) {
  const absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(closed_);
  if (rank < 1 || rank >= size_) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " follows no one in a group of ", size_));
  }
  if (!followers_.emplace(rank, Follower{fingerprint, std::move(link)}).second) {
    return absl::AlreadyExistsError(absl::StrCat("rank ", rank, " follows already"));
  }
  return absl::OkStatus();
}

void FollowerHub::Lost(int rank, const absl::Status& why) {
  {
    const absl::MutexLock lock(&mutex_);
    if (!closed_.ok()) {
      return;
    }
    closed_ = absl::UnavailableError(absl::StrCat("rank ", rank, " is gone: ", why.message()));
    telling_ = true;
  }
  on_lost_(absl::UnavailableError(absl::StrCat("rank ", rank, " is gone: ", why.message())));
  const absl::MutexLock lock(&mutex_);
  telling_ = false;
}

void FollowerHub::AwaitQuiet() {
  const absl::MutexLock lock(&mutex_);
  const auto quiet = [this] {
    mutex_.AssertHeld();
    return !telling_;
  };
  mutex_.Await(absl::Condition(&quiet));
}

absl::Status FollowerHub::WaitForAll(const std::string& fingerprint, absl::Duration timeout) {
  const absl::MutexLock lock(&mutex_);
  const auto decided = [this] {
    mutex_.AssertHeld();
    return !closed_.ok() || static_cast<int>(followers_.size()) == size_ - 1;
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&decided), timeout)) {
    std::string missing;
    for (int r = 1; r < size_; ++r) {
      if (!followers_.contains(r)) {
        absl::StrAppend(&missing, missing.empty() ? "rank " : ", ", r);
      }
    }
    return absl::DeadlineExceededError(
        absl::StrCat("waited ", absl::FormatDuration(timeout), " for ", missing, " to follow"));
  }
  RETURN_IF_ERROR(closed_);
  for (const auto& [rank, follower] : followers_) {
    if (follower.fingerprint != fingerprint) {
      return absl::FailedPreconditionError(absl::StrCat("rank ", rank, " computes as ", follower.fingerprint,
                                                        ", the leader as ", fingerprint, ": they must be equal"));
    }
  }
  return absl::OkStatus();
}

absl::Status FollowerHub::Send(const engine::StepPlan& plan) {
  const auto message = std::make_shared<const v1::StepPlanMessage>(ToProto(plan));
  std::vector<std::shared_ptr<FollowerLink>> links;
  {
    const absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(closed_);
    for (const auto& [rank, follower] : followers_) {
      links.push_back(follower.link);
    }
  }
  for (const std::shared_ptr<FollowerLink>& link : links) {
    RETURN_IF_ERROR(link->Send(message));
  }
  return absl::OkStatus();
}

void FollowerHub::Close(const absl::Status& why) {
  std::map<int, Follower> followers;
  {
    const absl::MutexLock lock(&mutex_);
    if (closed_.ok()) {
      closed_ = why;
    }
    followers.swap(followers_);
  }
  for (const auto& [rank, follower] : followers) {
    follower.link->Close(why);
  }
}

}  // namespace alphecca::worker

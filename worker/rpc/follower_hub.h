// The leader's end of its followers' streams: plans go out to all of them, their end is the group's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "alphecca/v1/shard.pb.h"
#include "worker/engine/engine.h"

namespace alphecca::worker {

// One follower's stream. Thread-safe, no call blocks.
class FollowerLink {
 public:
  virtual ~FollowerLink() = default;
  // Enqueues the plan. Unavailable: the stream has ended, or too many plans wait.
  virtual absl::Status Send(std::shared_ptr<const v1::StepPlanMessage> plan) = 0;
  // Ends the stream after what is enqueued.
  virtual void Close(const absl::Status& why) = 0;
};

// Thread-safe.
class FollowerHub : public engine::Followers {
 public:
  // on_lost: a follower that was attached is gone; called at most once, without locks held.
  FollowerHub(int size, std::function<void(const absl::Status&)> on_lost) : size_(size), on_lost_(std::move(on_lost)) {}

  // InvalidArgument: no follower's rank; AlreadyExists: taken; else the status that the hub was closed with.
  absl::Status Attach(int rank, const std::string& fingerprint, std::shared_ptr<FollowerLink> link);
  // The follower's stream ended, or it reported an error: the group is over.
  void Lost(int rank, const absl::Status& why);

  // Waits until every follower is attached. FailedPrecondition: one's fingerprint is not `fingerprint`: the ranks
  // would not compute the same bits. DeadlineExceeded: names who is missing. Else why the hub was closed.
  absl::Status WaitForAll(const std::string& fingerprint, absl::Duration timeout);

  absl::Status Send(const engine::StepPlan& plan) override;

  // Ends all streams. on_lost is not called any more, but a call under way may still run.
  void Close(const absl::Status& why);
  // After Close: waits for such a call. Not from on_lost.
  void AwaitQuiet();

 private:
  struct Follower {
    std::string fingerprint;
    std::shared_ptr<FollowerLink> link;
  };

  const int size_;
  const std::function<void(const absl::Status&)> on_lost_;
  absl::Mutex mutex_;
  std::map<int, Follower> followers_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
  bool telling_ ABSL_GUARDED_BY(mutex_) = false;  // on_lost runs
};

}  // namespace alphecca::worker

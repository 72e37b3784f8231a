#include "worker/rpc/shard_service.h"

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "worker/rpc/grpc_status.h"

namespace alphecca::worker {
namespace {

// Ranks meet in each step's collectives, so a follower is one plan behind at most, plus what is in flight.
constexpr size_t kMaxPlans = 64;

// The shard that a peer asks for. Unavailable: not this epoch (yet): worth another try. PermissionDenied: a stranger.
absl::StatusOr<LedShard> FindShard(const ShardDirectory& directory, uint64_t epoch, const std::string& rendezvous) {
  std::optional<LedShard> shard = directory.Current();
  if (!shard.has_value() || shard->epoch.value < epoch) {
    return absl::UnavailableError(absl::StrCat("this worker does not lead epoch ", epoch, " yet"));
  }
  if (shard->epoch.value > epoch) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", epoch, " is over, this worker is in epoch ", shard->epoch.value));
  }
  if (shard->rendezvous != rendezvous) {
    return absl::PermissionDeniedError("the rendezvous secret is not this epoch's");
  }
  return *std::move(shard);
}

// One follower's stream. Owns itself until OnDone; the hub shares it.
class FollowReactor final : public grpc::ServerBidiReactor<v1::FollowerMessage, v1::StepPlanMessage>,
                            public FollowerLink,
                            public std::enable_shared_from_this<FollowReactor> {
 public:
  FollowReactor(grpc::CallbackServerContext* context, const ShardDirectory& directory)
      : context_(context), directory_(directory) {}

  void Start(std::shared_ptr<FollowReactor> self) {
    self_ = std::move(self);
    StartRead(&message_);
  }

  absl::Status Send(std::shared_ptr<const v1::StepPlanMessage> plan) override {
    {
      const absl::MutexLock lock(&mutex_);
      if (final_.has_value()) {
        return absl::UnavailableError(absl::StrCat("rank ", rank_, " no longer follows"));
      }
      if (plans_.size() >= kMaxPlans) {
        return absl::UnavailableError(absl::StrCat("rank ", rank_, " is over ", kMaxPlans, " plans behind"));
      }
      plans_.push_back(std::move(plan));
    }
    Advance();
    return absl::OkStatus();
  }

  void Close(const absl::Status& why) override { End(why); }

  void OnReadDone(bool ok) override {
    absl::Status status = ok ? Handle() : absl::UnavailableError("its stream ended");
    if (!status.ok()) {
      if (hub_ != nullptr) {
        hub_->Lost(rank_, status);
      }
      End(status);
      return;
    }
    message_.Clear();
    StartRead(&message_);
  }

  void OnWriteDone(bool ok) override {
    {
      const absl::MutexLock lock(&mutex_);
      writing_.reset();
    }
    if (!ok) {
      End(absl::UnavailableError("a plan could not be sent"));
    }
    Advance();
  }

  void OnDone() override { const std::shared_ptr<FollowReactor> last = std::move(self_); }

 private:
  absl::Status Handle() {
    if (hub_ == nullptr) {
      if (!message_.has_hello()) {
        return absl::InvalidArgumentError("the first message of Follow must be hello");
      }
      const v1::FollowerHello& hello = message_.hello();
      absl::StatusOr<LedShard> shard = FindShard(directory_, hello.epoch(), hello.rendezvous());
      if (!shard.ok()) {
        return shard.status();
      }
      rank_ = hello.rank();
      {
        const absl::MutexLock lock(&mutex_);
        greeting_ = true;
      }
      absl::Status attached = shard->hub->Attach(rank_, hello.fingerprint(), shared_from_this());
      if (attached.ok()) {
        hub_ = shard->hub;
        context_->AddInitialMetadata(kFollowKey, "1");  // tells the follower that it is one
        StartSendInitialMetadata();
      }
      {
        const absl::MutexLock lock(&mutex_);
        greeting_ = false;
      }
      Advance();
      return attached;
    }
    if (message_.has_failed()) {
      return absl::UnavailableError(
          absl::StrCat("step ", message_.failed().step(), " failed: ", message_.failed().error_message()));
    }
    return absl::OkStatus();
  }

  void End(const absl::Status& why) {
    {
      const absl::MutexLock lock(&mutex_);
      if (final_.has_value()) {
        return;
      }
      final_ = why;
      plans_.clear();
    }
    Advance();
  }

  void Advance() {
    const v1::StepPlanMessage* plan = nullptr;
    std::optional<absl::Status> finish;
    {
      const absl::MutexLock lock(&mutex_);
      if (writing_ != nullptr || finished_ || greeting_) {
        return;
      }
      if (!plans_.empty()) {
        writing_ = std::move(plans_.front());
        plans_.pop_front();
        plan = writing_.get();
      } else if (final_.has_value()) {
        finished_ = true;
        finish = final_;
      }
    }
    if (plan != nullptr) {
      StartWrite(plan);
    } else if (finish.has_value()) {
      Finish(ToGrpc(*finish));
    }
  }

  grpc::CallbackServerContext* const context_;
  const ShardDirectory& directory_;
  std::shared_ptr<FollowReactor> self_;  // until OnDone
  std::shared_ptr<FollowerHub> hub_;     // the reader's
  int rank_ = -1;                        // set by the reader before the hub knows this link
  v1::FollowerMessage message_;          // the reader's

  absl::Mutex mutex_;
  std::deque<std::shared_ptr<const v1::StepPlanMessage>> plans_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const v1::StepPlanMessage> writing_ ABSL_GUARDED_BY(mutex_);
  bool greeting_ ABSL_GUARDED_BY(mutex_) = false;  // initial metadata first: nothing is sent or ended meanwhile
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> final_ ABSL_GUARDED_BY(mutex_);
};

// Answers once: when the board does, or when the caller gives up.
class ExchangeReactor final : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<ExchangeReactor> {
 public:
  explicit ExchangeReactor(v1::ExchangeResponse* response) : response_(response) {}

  void Start(std::shared_ptr<ExchangeReactor> self) { self_ = std::move(self); }

  void Answer(const absl::StatusOr<ExchangeBoard::Values>& values) {
    {
      const absl::MutexLock lock(&mutex_);
      if (answered_) {
        return;
      }
      answered_ = true;
      if (values.ok()) {
        for (const std::string& value : *values) {
          response_->add_values(value);
        }
      }
    }
    Finish(ToGrpc(values.status()));
  }

  void OnCancel() override { Answer(absl::CancelledError("the caller gave up")); }
  void OnDone() override { const std::shared_ptr<ExchangeReactor> last = std::move(self_); }

 private:
  v1::ExchangeResponse* const response_;
  std::shared_ptr<ExchangeReactor> self_;  // until OnDone
  absl::Mutex mutex_;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerBidiReactor<v1::FollowerMessage, v1::StepPlanMessage>* ShardService::Follow(
    grpc::CallbackServerContext* context) {
  const auto reactor = std::make_shared<FollowReactor>(context, directory_);
  reactor->Start(reactor);
  return reactor.get();
}

grpc::ServerUnaryReactor* ShardService::Exchange(grpc::CallbackServerContext*, const v1::ExchangeRequest* request,
                                                 v1::ExchangeResponse* response) {
  const auto reactor = std::make_shared<ExchangeReactor>(response);
  reactor->Start(reactor);
  const absl::StatusOr<LedShard> shard = FindShard(directory_, request->epoch(), request->rendezvous());
  if (shard.ok()) {
    shard->board->Put(request->key(), request->rank(), request->value(),
                      [reactor](const absl::StatusOr<ExchangeBoard::Values>& values) { reactor->Answer(values); });
  } else {
    reactor->Answer(shard.status());
  }
  return reactor.get();
}

}  // namespace alphecca::worker

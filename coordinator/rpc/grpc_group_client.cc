#include "coordinator/rpc/grpc_group_client.h"

#include <grpcpp/grpcpp.h>

#include <deque>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "alphecca/v1/engine.grpc.pb.h"
#include "common/log.h"
#include "common/mutex.h"
#include "coordinator/cluster/clock.h"
#include "coordinator/rpc/convert.h"

namespace alphecca::coordinator {
namespace {

constexpr absl::Duration kReconnectEvery = absl::Milliseconds(250);
constexpr int kMaxMessageBytes = 256 << 20;

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments args;
  // A pool of its own: a new epoch must not inherit the reconnect backoff of a leader that died at the same address.
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetMaxReceiveMessageSize(kMaxMessageBytes);
  args.SetMaxSendMessageSize(kMaxMessageBytes);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

}  // namespace

// One stream, from StartCall to OnDone. It owns itself until then; others share it.
class GrpcGroupClient::Stream final : public grpc::ClientBidiReactor<v1::EngineCommand, v1::EngineEvents> {
 public:
  static std::shared_ptr<Stream> Start(const GroupEndpoint& endpoint, const std::shared_ptr<PrefixIndex>& index) {
    auto stream = std::make_shared<Stream>(endpoint, index);
    stream->self_ = stream;
    stream->stub_->async()->Connect(&stream->context_, stream.get());
    stream->AddHold();  // until the stream is closed: Open and Cancel write from outside the reactions
    v1::EngineCommand hello;
    hello.mutable_hello()->set_protocol_version(kProtocolVersion);
    hello.mutable_hello()->set_epoch(endpoint.epoch.value);
    stream->StartRead(&stream->incoming_);
    stream->StartCall();
    stream->Send(std::move(hello));
    return stream;
  }

  Stream(const GroupEndpoint& endpoint, std::shared_ptr<PrefixIndex> index)
      : endpoint_(endpoint), index_(std::move(index)), stub_(v1::Engine::NewStub(MakeChannel(endpoint.address))) {}

  absl::Status Open(const SequenceSpec& spec, std::shared_ptr<SequenceSink> sink) {
    v1::EngineCommand command;
    *command.mutable_open() = ToProto(spec, absl::Now());
    {
      const MutexLock lock(mutex_);
      if (closed_ || !welcomed_) {
        return absl::UnavailableError(absl::StrCat("the group led by ", endpoint_.address, " is not connected; retry"));
      }
      const int64_t to_compute = static_cast<int64_t>(spec.prompt.size()) - spec.expected_cached;
      sinks_[spec.id] = {std::move(sink), spec.sample, to_compute};
      queued_tokens_ += to_compute;
    }
    Send(std::move(command));
    return absl::OkStatus();
  }

  void Cancel(SequenceId id) {
    {
      const MutexLock lock(mutex_);
      if (!sinks_.contains(id)) {
        return;
      }
    }
    v1::EngineCommand command;
    command.mutable_cancel()->set_sequence_id(id.value);
    Send(std::move(command));
  }

  void Credit(SequenceId id, int32_t tokens) {
    {
      const MutexLock lock(mutex_);
      if (!sinks_.contains(id)) {
        return;
      }
    }
    v1::EngineCommand command;
    command.mutable_credit()->set_sequence_id(id.value);
    command.mutable_credit()->set_tokens(tokens);
    Send(std::move(command));
  }

  GroupLoad load() const {
    const MutexLock lock(mutex_);
    return {.open = static_cast<int32_t>(sinks_.size()),
            .running = running_,
            .waiting = waiting_,
            .queued_tokens = queued_tokens_};
  }

  std::shared_ptr<const PrefixIndex::Holder> prefixes() const {
    const MutexLock lock(mutex_);
    return holder_;
  }

  bool connected() const {
    const MutexLock lock(mutex_);
    return welcomed_ && !closed_;
  }

  int64_t context() const {
    const MutexLock lock(mutex_);
    return context_tokens_;
  }

  bool closed() const {
    const MutexLock lock(mutex_);
    return closed_;
  }

  // Ends every sequence with `why` and the stream with them.
  void Close(const absl::Status& why) {
    context_.TryCancel();
    End(why);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      End(absl::UnavailableError(absl::StrCat("the stream to the group's leader at ", endpoint_.address, " ended")));
      return;
    }
    if (incoming_.has_welcome()) {
      Welcomed(incoming_.welcome());
    }
    {
      const MutexLock lock(mutex_);
      running_ = incoming_.running();
      waiting_ = incoming_.waiting();
    }
    if (incoming_.has_blocks()) {
      TakeBlocks(incoming_.blocks());
    }
    for (const v1::SequenceEvent& message : incoming_.events()) {
      Deliver(SequenceId(message.sequence_id()), FromProto(message));
    }
    incoming_ = v1::EngineEvents();  // Clear would keep the room of the largest event in each place, for good
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    bool drop_hold = false;
    bool more = false;
    {
      const MutexLock lock(mutex_);
      more = ok && !closed_ && !outgoing_.empty();
      if (more) {
        writing_message_ = std::move(outgoing_.front());
        outgoing_.pop_front();
      } else {
        writing_ = false;
        drop_hold = closed_ && std::exchange(held_, false);
      }
    }
    if (more) {
      StartWrite(&writing_message_);
    } else if (drop_hold) {
      RemoveHold();
    }
  }

  void OnDone(const grpc::Status& status) override {
    End(absl::UnavailableError(
        absl::StrCat("the stream to the group's leader at ", endpoint_.address, " ended: ", status.error_message())));
    LogDebug("group stream to {} ended: {} {}", endpoint_.address, static_cast<int>(status.error_code()),
             status.error_message());
    const std::shared_ptr<Stream> last = std::move(self_);
  }

 private:
  struct Target {
    std::shared_ptr<SequenceSink> sink;
    int32_t sample = 0;
    int64_t queued_tokens = 0;  // of its prompt; 0 once it answered
  };

  void Welcomed(const v1::Welcome& welcome) {
    std::shared_ptr<const PrefixIndex::Holder> holder;
    if (welcome.block_tokens() > 0) {
      holder = index_->Add(welcome.revision(), welcome.block_tokens());
    }
    const MutexLock lock(mutex_);
    welcomed_ = true;
    context_tokens_ = welcome.context();
    if (!closed_) {
      holder_ = std::move(holder);
    }
  }

  void TakeBlocks(const v1::BlockEvents& blocks) {
    const std::shared_ptr<const PrefixIndex::Holder> holder = prefixes();
    if (holder == nullptr) {
      return;
    }
    const auto removed = HashesFromProto(blocks.removed());
    const auto stored = HashesFromProto(blocks.stored());
    if (removed.ok() && stored.ok()) {
      holder->Apply(*removed, *stored);
      return;
    }
    LogWarn("the leader at {} sends {}: its prefix cache is not followed", endpoint_.address,
            std::string((removed.ok() ? stored : removed).status().message()));
    const MutexLock lock(mutex_);
    holder_ = nullptr;
  }

  // At most one write is in flight. Whoever sets writing_ starts it, after the lock; the hold stays until it is done.
  void Send(v1::EngineCommand command) {
    {
      const MutexLock lock(mutex_);
      if (closed_) {
        return;
      }
      if (writing_) {
        outgoing_.push_back(std::move(command));
        return;
      }
      writing_ = true;
      writing_message_ = std::move(command);
    }
    StartWrite(&writing_message_);
  }

  void Deliver(SequenceId id, SequenceEvent event) {
    Target target;
    {
      const MutexLock lock(mutex_);
      const auto it = sinks_.find(id);
      if (it == sinks_.end()) {
        return;  // cancelled and forgotten, or never ours
      }
      queued_tokens_ -= std::exchange(it->second.queued_tokens, 0);
      target = it->second;
      if (event.last()) {
        sinks_.erase(it);
      }
    }
    target.sink->OnEvent(target.sample, std::move(event));
  }

  void End(const absl::Status& why) {
    std::unordered_map<SequenceId, Target, IdHash> orphans;
    std::shared_ptr<const PrefixIndex::Holder> holder;  // ends after the lock
    bool drop_hold = false;
    {
      const MutexLock lock(mutex_);
      closed_ = true;
      orphans.swap(sinks_);
      outgoing_.clear();
      holder.swap(holder_);
      running_ = 0;
      waiting_ = 0;
      queued_tokens_ = 0;
      drop_hold = !writing_ && std::exchange(held_, false);
    }
    for (auto& [id, target] : orphans) {
      SequenceEvent event;
      event.error = why;
      target.sink->OnEvent(target.sample, std::move(event));
    }
    if (drop_hold) {
      RemoveHold();
    }
  }

  struct IdHash {
    size_t operator()(const SequenceId& id) const { return std::hash<uint64_t>()(id.value); }
  };

  const GroupEndpoint endpoint_;
  const std::shared_ptr<PrefixIndex> index_;
  const std::unique_ptr<v1::Engine::Stub> stub_;
  grpc::ClientContext context_;
  v1::EngineEvents incoming_;          // the reader's
  v1::EngineCommand writing_message_;  // the writer's while writing_
  std::shared_ptr<Stream> self_;       // until OnDone

  mutable Mutex mutex_;
  std::unordered_map<SequenceId, Target, IdHash> sinks_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::EngineCommand> outgoing_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool held_ ABSL_GUARDED_BY(mutex_) = true;
  bool welcomed_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t context_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // as the leader welcomed us with
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int32_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t queued_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // sum of those of sinks_
  std::shared_ptr<const PrefixIndex::Holder> holder_ ABSL_GUARDED_BY(mutex_);
};

GrpcGroupClient::GrpcGroupClient(GroupEndpoint endpoint, std::shared_ptr<PrefixIndex> index)
    : endpoint_(std::move(endpoint)), index_(std::move(index)) {
  Tick(absl::Now());
}

GrpcGroupClient::~GrpcGroupClient() {
  Close(absl::UnavailableError("the group is no longer routed to"));
}

std::shared_ptr<GrpcGroupClient::Stream> GrpcGroupClient::stream() const {
  const MutexLock lock(mutex_);
  return stream_;
}

absl::Status GrpcGroupClient::Open(SequenceSpec spec, std::shared_ptr<SequenceSink> sink) {
  const std::shared_ptr<Stream> s = stream();
  if (s == nullptr) {
    return absl::UnavailableError(absl::StrCat("the group led by ", endpoint_.address, " is gone; retry"));
  }
  return s->Open(spec, std::move(sink));
}

void GrpcGroupClient::Cancel(SequenceId id) {
  if (const std::shared_ptr<Stream> s = stream(); s != nullptr) {
    s->Cancel(id);
  }
}

void GrpcGroupClient::Credit(SequenceId id, int32_t tokens) {
  if (const std::shared_ptr<Stream> s = stream(); s != nullptr) {
    s->Credit(id, tokens);
  }
}

GroupLoad GrpcGroupClient::load() const {
  const std::shared_ptr<Stream> s = stream();
  return s == nullptr ? GroupLoad{} : s->load();
}

bool GrpcGroupClient::connected() const {
  const std::shared_ptr<Stream> s = stream();
  return s != nullptr && s->connected();
}

int64_t GrpcGroupClient::context() const {
  const std::shared_ptr<Stream> s = stream();
  return s == nullptr ? 0 : s->context();
}

std::shared_ptr<const PrefixIndex::Holder> GrpcGroupClient::prefixes() const {
  const std::shared_ptr<Stream> s = stream();
  return s == nullptr ? nullptr : s->prefixes();
}

void GrpcGroupClient::Tick(absl::Time now) {
  {
    const MutexLock lock(mutex_);
    if (closed_ || now < retry_at_ || (stream_ != nullptr && !stream_->closed())) {
      return;
    }
    retry_at_ = now + kReconnectEvery;
  }
  std::shared_ptr<Stream> fresh = Stream::Start(endpoint_, index_);
  bool too_late = false;
  {
    const MutexLock lock(mutex_);
    too_late = closed_;
    if (!too_late) {
      stream_ = fresh;
    }
  }
  if (too_late) {
    fresh->Close(absl::UnavailableError("the epoch ended"));
  }
}

void GrpcGroupClient::Close(const absl::Status& why) {
  std::shared_ptr<Stream> last;
  {
    const MutexLock lock(mutex_);
    closed_ = true;
    last = std::move(stream_);
    stream_ = nullptr;
  }
  if (last != nullptr) {
    last->Close(why);
  }
}

}  // namespace alphecca::coordinator

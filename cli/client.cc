#include "cli/client.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "alphecca/v1/cluster.grpc.pb.h"
#include "alphecca/v1/inference.grpc.pb.h"

namespace alphecca::cli {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;

absl::Status FromGrpc(const grpc::Status& status, const std::string& address) {
  if (status.ok()) {
    return absl::OkStatus();
  }
  std::string message = status.error_message();
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    absl::StrAppend(&message, " (coordinator ", address, ")");
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), message);
}

class GrpcClient : public Client {
 public:
  GrpcClient(std::string address, const std::shared_ptr<grpc::Channel>& channel)
      : address_(std::move(address)),
        inference_(v1::Inference::NewStub(channel)),
        cluster_(v1::Cluster::NewStub(channel)) {}

  absl::Status Generate(const v1::GenerateRequest& request,
                        const std::function<bool(const v1::GenerateEvent&)>& on_event) override {
    grpc::ClientContext context;
    const Active active(*this, context);
    return Drain<v1::GenerateEvent>(context, inference_->Generate(&context, request), on_event);
  }

  absl::Status Chat(const v1::ChatRequest& request,
                    const std::function<bool(const v1::ChatEvent&)>& on_event) override {
    grpc::ClientContext context;
    const Active active(*this, context);
    return Drain<v1::ChatEvent>(context, inference_->Chat(&context, request), on_event);
  }

  absl::StatusOr<v1::ClusterStatus> Status(absl::Duration timeout) override {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    v1::ClusterStatus answer;
    const grpc::Status status = cluster_->GetStatus(&context, v1::GetStatusRequest(), &answer);
    if (!status.ok()) {
      return FromGrpc(status, address_);
    }
    return answer;
  }

  absl::StatusOr<v1::Model> GetModel(const std::string& name) override {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
    v1::GetModelRequest request;
    request.set_name(name);
    v1::Model answer;
    const grpc::Status status = inference_->GetModel(&context, request, &answer);
    if (!status.ok()) {
      return FromGrpc(status, address_);
    }
    return answer;
  }

  void Cancel() override {
    const absl::MutexLock lock(&mutex_);
    if (active_ != nullptr) {
      active_->TryCancel();
    }
  }

 private:
  // Names the call that Cancel ends.
  class Active {
   public:
    Active(GrpcClient& client, grpc::ClientContext& context) : client_(client) {
      const absl::MutexLock lock(&client_.mutex_);
      client_.active_ = &context;
    }
    ~Active() {
      const absl::MutexLock lock(&client_.mutex_);
      client_.active_ = nullptr;
    }
    Active(const Active&) = delete;
    Active& operator=(const Active&) = delete;

   private:
    GrpcClient& client_;
  };

  template <typename Event>
  absl::Status Drain(grpc::ClientContext& context, std::unique_ptr<grpc::ClientReader<Event>> reader,
                     const std::function<bool(const Event&)>& on_event) {
    Event event;
    while (reader->Read(&event)) {
      if (!on_event(event)) {
        context.TryCancel();
      }
    }
    return FromGrpc(reader->Finish(), address_);
  }

  const std::string address_;
  const std::unique_ptr<v1::Inference::Stub> inference_;
  const std::unique_ptr<v1::Cluster::Stub> cluster_;
  absl::Mutex mutex_;
  grpc::ClientContext* active_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace

std::unique_ptr<Client> Client::Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  return std::make_unique<GrpcClient>(
      address, grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

}  // namespace alphecca::cli

// The length of requests, from what the groups' leaders say that they hold to what clients are told and allowed: the
// public service and the streams to groups over real connections, in front of leaders that a test plays.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "alphecca/v1/engine.grpc.pb.h"
#include "coordinator/api/inference_service.h"
#include "coordinator/rpc/group_connections.h"

namespace alphecca::coordinator {
namespace {

using ::testing::HasSubstr;

// Ends every sequence as soon as it is opened.
class Leader final : public v1::Engine::Service {
 public:
  explicit Leader(int64_t context) : context_(context) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~Leader() override {
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
    server_->Wait();
  }

  grpc::Status Connect(grpc::ServerContext*,
                       grpc::ServerReaderWriter<v1::EngineEvents, v1::EngineCommand>* stream) override {
    v1::EngineCommand command;
    while (stream->Read(&command)) {
      v1::EngineEvents events;
      if (command.has_hello()) {
        events.mutable_welcome()->set_context(context_);
      } else if (command.has_open()) {
        max_tokens = command.open().max_tokens();
        v1::SequenceEvent& event = *events.add_events();
        event.set_sequence_id(command.open().sequence_id());
        event.set_finish_reason(v1::FINISH_REASON_LENGTH);
      } else {
        continue;
      }
      stream->Write(events);
    }
    return grpc::Status::OK;
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  std::atomic<int32_t> max_tokens{0};  // of the last sequence

 private:
  const int64_t context_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

std::vector<std::unique_ptr<ServedModel>> TinyModel() {
  ServeOptions options;
  options.name = "tiny";
  options.path = std::string(ALPHECCA_MODELS) + "/tiny-moe";
  options.tp = 2;
  options.ep = 2;
  auto loaded = LoadServedModel(options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  std::vector<std::unique_ptr<ServedModel>> models;
  models.push_back(*std::move(loaded));
  return models;
}

class ContextLimitTest : public ::testing::Test {
 protected:
  ContextLimitTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&inference_);
    server_ = builder.BuildAndStart();
    stub_ = v1::Inference::NewStub(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  }
  ~ContextLimitTest() override {
    connections_.CloseAll(absl::UnavailableError("the test is over"));
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
    server_->Wait();
  }

  void Connect(uint64_t group, const Leader& leader) {
    connections_.GroupReady(GroupId(group), Epoch(group), "tiny", leader.address(), "cpu");
    const auto client = router_.Find("tiny", GroupId(group));
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (!client->connected() && absl::Now() < deadline) {
      std::this_thread::yield();
    }
    EXPECT_TRUE(client->connected());
  }
  int64_t ContextTold() {
    grpc::ClientContext call;
    v1::GetModelRequest request;
    request.set_name("tiny");
    v1::Model model;
    EXPECT_TRUE(stub_->GetModel(&call, request, &model).ok());
    return model.context();
  }
  // Continues three ids, four with BOS. max_tokens 0: unset.
  grpc::Status Generate(int32_t max_tokens) {
    grpc::ClientContext call;
    call.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(30)));
    v1::GenerateRequest request;
    for (const int32_t id : {5, 6, 7}) {
      request.mutable_ids()->add_ids(id);
    }
    if (max_tokens > 0) {
      request.mutable_options()->set_max_tokens(max_tokens);
    }
    const auto reader = stub_->Generate(&call, request);
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
    }
    return reader->Finish();
  }

  const ModelCatalogue models_{TinyModel()};  // of 4096 tokens
  const std::shared_ptr<PrefixIndex> index_ = std::make_shared<PrefixIndex>(model::PrefixKey{1, 2});
  Router router_{index_};
  GroupConnections connections_{router_, index_};
  Admission admission_{AdmissionOptions{}};
  MetricsRegistry registry_;
  CoordinatorMetrics metrics_{registry_};
  const std::map<std::string, double> tenant_weights_;
  TextPool pool_{1, 16};
  InferenceService inference_{
      InferenceParts{models_, router_, admission_, metrics_, pool_, tenant_weights_, [] { return uint64_t{7}; }}};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(ContextLimitTest, IsTheLeastThatAReadyGroupHolds) {
  Leader whole(4096);
  Leader small(100);
  EXPECT_EQ(ContextTold(), 4096);
  Connect(1, whole);
  EXPECT_EQ(ContextTold(), 4096);
  Connect(2, small);
  EXPECT_EQ(ContextTold(), 100);
  connections_.GroupLost(GroupId(2), Epoch(2), "tiny", absl::UnavailableError("gone"));
  EXPECT_EQ(ContextTold(), 4096);
}

TEST_F(ContextLimitTest, ARequestWithoutMaxTokensTakesWhatIsLeftOfIt) {
  Leader small(100);
  Connect(1, small);
  const grpc::Status status = Generate(0);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(small.max_tokens, 96);
}

TEST_F(ContextLimitTest, ALongerRequestIsRefusedBeforeItReachesTheGroup) {
  Leader small(100);
  Connect(1, small);
  const grpc::Status status = Generate(97);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("the context holds 100, so at most 96 are left"));
  EXPECT_EQ(small.max_tokens, 0);
}

TEST_F(ContextLimitTest, AGroupThatHoldsMoreThanAskedAddsNothing) {
  Leader large(8192);
  Connect(1, large);
  EXPECT_EQ(ContextTold(), 4096);
}

}  // namespace
}  // namespace alphecca::coordinator

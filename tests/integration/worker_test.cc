// Two real worker processes under a coordinator that the test plays: load, answer together, fail as they should.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "alphecca/v1/engine.grpc.pb.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"
#include "tests/integration/fake_coordinator.h"
#include "tests/integration/worker_process.h"

namespace alphecca::testing {
namespace {

using ::testing::HasSubstr;

const char kModel[] = ALPHECCA_MODELS "/tiny-moe";
// How long the survivors of a group may take to say so.
constexpr absl::Duration kSoon = absl::Seconds(2);

struct Golden {
  std::vector<int32_t> prompt;
  std::vector<int32_t> ids;
};

Golden ReadGolden(size_t index) {
  std::ifstream file(absl::StrCat(kModel, "/golden.json"));
  const auto json = nlohmann::json::parse(file)["greedy"][index];
  return {json["input_ids"].get<std::vector<int32_t>>(), json["greedy_ids"].get<std::vector<int32_t>>()};
}

// A stream to a group's leader, as the coordinator holds one.
class EngineStream {
 public:
  EngineStream(const std::string& address, uint64_t epoch)
      : stub_(v1::Engine::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))) {
    context_.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
    stream_ = stub_->Connect(&context_);
    v1::EngineCommand hello;
    hello.mutable_hello()->set_protocol_version(1);
    hello.mutable_hello()->set_epoch(epoch);
    stream_->Write(hello);
  }
  ~EngineStream() {
    context_.TryCancel();
    if (!finished_) {
      v1::EngineEvents rest;
      while (stream_->Read(&rest)) {
      }
      stream_->Finish();
    }
  }

  v1::Welcome AwaitWelcome() {
    v1::EngineEvents events;
    return stream_->Read(&events) ? events.welcome() : v1::Welcome();
  }

  void Open(uint64_t id, const std::vector<int32_t>& prompt, int max_tokens, int window = 4096) {
    v1::EngineCommand command;
    v1::OpenSequence& open = *command.mutable_open();
    open.set_sequence_id(id);
    open.mutable_prompt()->Assign(prompt.begin(), prompt.end());
    open.mutable_sampling()->set_temperature(0);
    open.set_max_tokens(max_tokens);
    open.set_logprobs(-1);
    open.set_prompt_logprobs(-1);
    open.set_window(window);
    stream_->Write(command);
  }
  void Cancel(uint64_t id) {
    v1::EngineCommand command;
    command.mutable_cancel()->set_sequence_id(id);
    stream_->Write(command);
  }

  // Reads until the sequence has at least `tokens` ids or has ended; all events of it in one.
  v1::SequenceEvent Await(uint64_t id, int tokens) {
    v1::SequenceEvent all;
    v1::EngineEvents events;
    while (all.ids_size() < tokens && stream_->Read(&events)) {
      running_ = events.running();
      for (const v1::SequenceEvent& event : events.events()) {
        if (event.sequence_id() == id) {
          all.MergeFrom(event);
        }
      }
      if (all.finish_reason() != 0 || all.error_code() != 0) {
        break;
      }
    }
    return all;
  }

  // Reads to the stream's end.
  grpc::Status AwaitEnd() {
    v1::EngineEvents rest;
    while (stream_->Read(&rest)) {
    }
    finished_ = true;
    return stream_->Finish();
  }
  int running() const { return running_; }

 private:
  std::unique_ptr<v1::Engine::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::EngineCommand, v1::EngineEvents>> stream_;
  bool finished_ = false;
  int running_ = -1;
};

// The value of a series on a page of metrics; negative: it is not there.
double Sample(const std::string& text, const std::string& series) {
  const size_t at = text.find(absl::StrCat("\n", series, " "));
  return at == std::string::npos ? -1e9 : std::stod(text.substr(at + series.size() + 2));
}

// The body of http://address/path, or "status N".
std::string HttpGet(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\n\r\n");
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0 &&
      write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t n = 0; (n = read(fd, buffer, sizeof(buffer))) > 0;) {
      answer.append(buffer, static_cast<size_t>(n));
    }
  }
  close(fd);
  const size_t body = answer.find("\r\n\r\n");
  return answer.size() > 12 && answer.substr(9, 3) != "200" ? absl::StrCat("status ", answer.substr(9, 3))
         : body == std::string::npos                        ? "no answer"
                                                            : answer.substr(body + 4);
}

// What the health service of a worker says of a service: the serving status of grpc.health.v1.HealthCheckResponse.
int Health(const std::string& address, const std::string& service) {
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  const std::string bytes = absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
  const grpc::Slice slice(bytes);
  grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  grpc::Status status;
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  grpc::Slice answer;
  const bool read = status.ok() && response.TrySingleSlice(&answer).ok() && answer.size() == 2;
  return read ? answer.begin()[1] : -1;
}

class WorkerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto checkpoint = model::Checkpoint::Open(kModel);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto plan = model::MakeShardPlan((*checkpoint)->config(), {2, 2}, *model::ColumnUnit(**checkpoint));
    ASSERT_TRUE(plan.ok()) << plan.status();
    revision_ = (*checkpoint)->Revision();
    plan_hash_ = plan->Hash();
  }

  static std::string TracePath(const std::string& name) {
    return absl::StrCat(::testing::TempDir(), "/worker_test-", getpid(), "-", name, ".json");
  }

  std::unique_ptr<WorkerProcess> StartWorker(const std::string& name) {
    auto worker = std::make_unique<WorkerProcess>(std::vector<std::string>{"--coordinator", coordinator_.address(),
                                                                           "--name", name, "--threads", "1", "--drain",
                                                                           "1", "--trace", TracePath(name)});
    EXPECT_NE(worker->listen(), "");
    EXPECT_TRUE(coordinator_.AwaitWorker(name).has_value());
    return worker;
  }

  v1::Assignment MakeAssignment(uint64_t epoch, int rank) {
    v1::Assignment a;
    a.set_group_id(1);
    a.set_epoch(epoch);
    a.set_model("tiny-moe");
    a.set_checkpoint(kModel);
    a.set_revision(revision_);
    a.set_plan_hash(plan_hash_);
    a.set_tp(2);
    a.set_ep(2);
    a.set_rank(rank);
    a.set_weights("f32");
    a.set_activations("f32");
    a.set_kv_type("f32");
    a.set_context(2048);
    a.set_max_sequences(4);
    a.add_peers(leader_->listen());
    a.add_peers(follower_->listen());
    a.set_communicator(communicator_);
    a.set_rendezvous(absl::StrCat("worker_test/", getpid(), "/", coordinator_.port(), "/", epoch));
    return a;
  }

  // Both workers, loaded as ranks 0 and 1 of an epoch.
  void Form(uint64_t epoch) {
    if (leader_ == nullptr) {
      leader_ = StartWorker("leader");
    }
    if (follower_ == nullptr) {
      follower_ = StartWorker("follower");
    }
    coordinator_.Assign("leader", MakeAssignment(epoch, 0));
    coordinator_.Assign("follower", MakeAssignment(epoch, 1));
    for (const char* name : {"leader", "follower"}) {
      const auto ready = coordinator_.AwaitState(name, epoch, v1::SHARD_STATE_READY);
      ASSERT_TRUE(ready.has_value()) << name;
      EXPECT_GT(ready->weight_bytes(), 0);
      EXPECT_GT(ready->kv_bytes(), 0);
      EXPECT_NE(ready->fingerprint(), "");
    }
  }

  void ExpectGolden(uint64_t epoch, int tokens) {
    const Golden golden = ReadGolden(0);
    EngineStream stream(leader_->listen(), epoch);
    EXPECT_EQ(stream.AwaitWelcome().epoch(), epoch);
    stream.Open(1, golden.prompt, tokens);
    const v1::SequenceEvent event = stream.Await(1, tokens + 1);
    EXPECT_EQ(std::vector<int32_t>(event.ids().begin(), event.ids().end()),
              std::vector<int32_t>(golden.ids.begin(), golden.ids.begin() + tokens));
    EXPECT_EQ(event.finish_reason(), v1::FINISH_REASON_LENGTH);
  }

  FakeCoordinator coordinator_;
  std::string revision_;
  std::string plan_hash_;
  std::string communicator_ = "shm";
  std::unique_ptr<WorkerProcess> leader_;
  std::unique_ptr<WorkerProcess> follower_;
};

TEST_F(WorkerTest, TwoRanksAnswerTogether) {
  ASSERT_NO_FATAL_FAILURE(Form(1));
  ExpectGolden(1, 32);
  // Loading was reported on the way, and both compute alike.
  bool loading = false;
  for (const v1::StateReport& report : coordinator_.Reports("leader")) {
    loading = loading || report.state() == v1::SHARD_STATE_LOADING;
  }
  EXPECT_TRUE(loading);
  EXPECT_EQ(coordinator_.AwaitState("leader", 1, v1::SHARD_STATE_READY)->fingerprint(),
            coordinator_.AwaitState("follower", 1, v1::SHARD_STATE_READY)->fingerprint());
  EXPECT_TRUE(coordinator_.AwaitHeartbeats("follower", 3));
}

TEST_F(WorkerTest, RanksMayMeetOverTcp) {
  communicator_ = "gloo";
  ASSERT_NO_FATAL_FAILURE(Form(1));
  ExpectGolden(1, 16);
}

TEST_F(WorkerTest, ARankAloneServes) {
  leader_ = StartWorker("leader");
  follower_ = StartWorker("follower");
  v1::Assignment a = MakeAssignment(1, 0);
  a.set_tp(1);
  a.set_ep(1);
  a.clear_plan_hash();
  a.mutable_peers()->RemoveLast();
  a.set_communicator("solo");
  coordinator_.Assign("leader", a);
  ASSERT_TRUE(coordinator_.AwaitState("leader", 1, v1::SHARD_STATE_READY).has_value());
  ExpectGolden(1, 16);
}

TEST_F(WorkerTest, MetricsHealthAndTraceTell) {
  leader_ = StartWorker("leader");
  EXPECT_EQ(HttpGet(leader_->metrics(), "/readyz"), "status 503");
  EXPECT_EQ(Health(leader_->listen(), "alphecca.v1.Engine"), 2);  // NOT_SERVING
  ASSERT_NO_FATAL_FAILURE(Form(1));
  ExpectGolden(1, 16);
  EXPECT_EQ(HttpGet(leader_->metrics(), "/readyz").substr(0, 6) == "status", false);
  const std::string text = HttpGet(leader_->metrics(), "/metrics");
  const size_t prompt = ReadGolden(0).prompt.size();
  for (const std::string& line :
       {absl::StrCat("alphecca_worker_prompt_tokens_total ", prompt),
        std::string("alphecca_worker_generated_tokens_total 16"), std::string("alphecca_worker_sequences_total 1"),
        std::string("alphecca_worker_shard_state{state=\"ready\"} 1"),
        std::string("alphecca_worker_step_seconds_count 16"),
        std::string("alphecca_worker_kv_blocks_used{pool=\"full\"}"),
        std::string("alphecca_worker_kv_blocks_capacity{pool=\"sliding\"}"),
        std::string("alphecca_worker_collective_seconds_count{collective=\"all_reduce\"}"),
        std::string("alphecca_worker_running_sequences"), std::string("alphecca_worker_waiting_sequences")}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  // Both ranks have read their experts' load after the first step; the later steps' may follow.
  const auto checkpoint = model::Checkpoint::Open(kModel);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto k = (*checkpoint)->config().experts_per_token;
  for (const char* layer : {"0", "1"}) {
    const std::string series = absl::StrCat("alphecca_worker_expert_tokens_total{layer=\"", layer, "\"}");
    const double rows = Sample(text, series) + Sample(HttpGet(follower_->metrics(), "/metrics"), series);
    EXPECT_GE(rows, static_cast<double>(prompt) * k);
    EXPECT_LE(rows, static_cast<double>(prompt + 15) * k);
    EXPECT_GE(Sample(text, absl::StrCat("alphecca_worker_expert_imbalance{layer=\"", layer, "\"}")), 1);
  }
  // Health follows readiness a few times a second.
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (Health(leader_->listen(), "alphecca.v1.Engine") != 1 && absl::Now() < deadline) {
  }
  EXPECT_EQ(Health(leader_->listen(), "alphecca.v1.Engine"), 1);
  follower_->Kill(SIGTERM);
  EXPECT_EQ(follower_->Wait(), 0);
  std::ifstream trace(TracePath("follower"));
  std::string spans((std::istreambuf_iterator<char>(trace)), std::istreambuf_iterator<char>());
  EXPECT_THAT(spans, HasSubstr("\"cat\":\"collective\""));
  EXPECT_THAT(spans, HasSubstr("\"cat\":\"op\""));
}

TEST_F(WorkerTest, AKilledFollowerEndsTheStreamAndANewOneJoins) {
  ASSERT_NO_FATAL_FAILURE(Form(1));
  EngineStream stream(leader_->listen(), 1);
  stream.AwaitWelcome();
  stream.Open(7, ReadGolden(0).prompt, 2000);
  ASSERT_EQ(stream.Await(7, 3).error_code(), 0);

  const absl::Time killed = absl::Now();
  follower_->Kill(SIGKILL);
  const v1::SequenceEvent last = stream.Await(7, 1 << 20);
  EXPECT_EQ(last.error_code(), grpc::StatusCode::UNAVAILABLE) << last.error_message();
  EXPECT_EQ(stream.AwaitEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(coordinator_.AwaitState("leader", 1, v1::SHARD_STATE_FAILED, kSoon).has_value());
  EXPECT_LT(absl::Now() - killed, kSoon);

  follower_.reset();
  coordinator_.Release("leader", 1);
  ASSERT_NO_FATAL_FAILURE(Form(2));
  ExpectGolden(2, 8);
}

TEST_F(WorkerTest, AKilledLeaderIsMissedByItsFollower) {
  ASSERT_NO_FATAL_FAILURE(Form(1));
  EngineStream stream(leader_->listen(), 1);
  stream.AwaitWelcome();
  stream.Open(7, ReadGolden(0).prompt, 2000);
  ASSERT_EQ(stream.Await(7, 3).error_code(), 0);

  leader_->Kill(SIGKILL);
  const auto failed = coordinator_.AwaitState("follower", 1, v1::SHARD_STATE_FAILED, kSoon);
  ASSERT_TRUE(failed.has_value());
  EXPECT_NE(failed->message(), "");
  EXPECT_EQ(stream.AwaitEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(coordinator_.AwaitGone("leader"));
  leader_.reset();
  ASSERT_NO_FATAL_FAILURE(Form(2));
  ExpectGolden(2, 8);
}

TEST_F(WorkerTest, CancelFreesTheSequence) {
  ASSERT_NO_FATAL_FAILURE(Form(1));
  EngineStream stream(leader_->listen(), 1);
  stream.AwaitWelcome();
  stream.Open(1, ReadGolden(0).prompt, 2000);
  stream.Await(1, 3);
  stream.Cancel(1);
  EXPECT_EQ(stream.Await(1, 1 << 20).finish_reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_EQ(stream.running(), 0);
}

TEST_F(WorkerTest, BadSequencesAreRefusedOneByOne) {
  ASSERT_NO_FATAL_FAILURE(Form(1));
  EngineStream stream(leader_->listen(), 1);
  stream.AwaitWelcome();
  stream.Open(1, {}, 5);
  EXPECT_EQ(stream.Await(1, 1).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  stream.Open(2, {2, -5}, 5);
  EXPECT_EQ(stream.Await(2, 1).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  stream.Open(3, {2, 3}, 1 << 20);
  EXPECT_EQ(stream.Await(3, 1).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  // Never credited: ended at its window.
  stream.Open(4, ReadGolden(0).prompt, 100, /*window=*/10);
  const v1::SequenceEvent slow = stream.Await(4, 1 << 20);
  EXPECT_EQ(slow.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  ExpectGolden(1, 8);
}

TEST_F(WorkerTest, StreamsOfOtherEpochsAreRefused) {
  ASSERT_NO_FATAL_FAILURE(Form(3));
  EXPECT_EQ(EngineStream(leader_->listen(), 2).AwaitEnd().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(EngineStream(follower_->listen(), 3).AwaitEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(WorkerTest, AReleasedGroupIsIdleAndServesAgain) {
  ASSERT_NO_FATAL_FAILURE(Form(1));
  EngineStream stream(leader_->listen(), 1);
  stream.AwaitWelcome();
  coordinator_.Release("leader", 1);
  coordinator_.Release("follower", 1);
  EXPECT_EQ(stream.AwaitEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(coordinator_.AwaitState("leader", 1, v1::SHARD_STATE_IDLE).has_value());
  ASSERT_NO_FATAL_FAILURE(Form(2));
  ExpectGolden(2, 8);
  // A newer epoch replaces a running one without a release.
  ASSERT_NO_FATAL_FAILURE(Form(3));
  ExpectGolden(3, 8);
}

TEST_F(WorkerTest, AnotherRevisionOrPlanIsRefusedAndNamed) {
  leader_ = StartWorker("leader");
  follower_ = StartWorker("follower");
  v1::Assignment a = MakeAssignment(1, 0);
  a.set_revision("0123");
  coordinator_.Assign("leader", a);
  auto failed = coordinator_.AwaitState("leader", 1, v1::SHARD_STATE_FAILED);
  ASSERT_TRUE(failed.has_value());
  EXPECT_THAT(failed->message(), HasSubstr("0123"));
  a = MakeAssignment(2, 0);
  a.set_plan_hash("4567");
  coordinator_.Assign("leader", a);
  failed = coordinator_.AwaitState("leader", 2, v1::SHARD_STATE_FAILED);
  ASSERT_TRUE(failed.has_value());
  EXPECT_THAT(failed->message(), HasSubstr("4567"));
  a = MakeAssignment(3, 0);
  a.set_rank(2);
  coordinator_.Assign("leader", a);
  failed = coordinator_.AwaitState("leader", 3, v1::SHARD_STATE_FAILED);
  ASSERT_TRUE(failed.has_value());
  EXPECT_THAT(failed->message(), HasSubstr("rank 2"));
}

// The follower waits for a leader that never comes; the release does not have to wait for it.
TEST_F(WorkerTest, AReleaseEndsTheWaitForOtherRanks) {
  leader_ = StartWorker("leader");
  follower_ = StartWorker("follower");
  coordinator_.Assign("follower", MakeAssignment(1, 1));
  ASSERT_TRUE(coordinator_.AwaitState("follower", 1, v1::SHARD_STATE_LOADING).has_value());
  coordinator_.Release("follower", 1);
  EXPECT_TRUE(coordinator_.AwaitState("follower", 1, v1::SHARD_STATE_IDLE, absl::Seconds(5)).has_value());
  ASSERT_NO_FATAL_FAILURE(Form(2));
}

TEST_F(WorkerTest, ALostCoordinatorIsJoinedAgain) {
  ASSERT_NO_FATAL_FAILURE(Form(1));
  const int port = coordinator_.port();
  coordinator_.Stop();
  FakeCoordinator next(port);
  ASSERT_TRUE(next.AwaitWorker("leader").has_value());
  ASSERT_TRUE(next.AwaitWorker("follower").has_value());
  // The shard went with the old coordinator; a new one begins its epochs where it likes.
  EXPECT_EQ(EngineStream(leader_->listen(), 1).AwaitEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
  next.Assign("leader", MakeAssignment(1, 0));
  next.Assign("follower", MakeAssignment(1, 1));
  EXPECT_TRUE(next.AwaitState("leader", 1, v1::SHARD_STATE_READY).has_value());
}

TEST_F(WorkerTest, SigtermLeavesInOrder) {
  ASSERT_NO_FATAL_FAILURE(Form(1));
  leader_->Kill(SIGTERM);
  EXPECT_EQ(leader_->Wait(), 0);
  follower_->Kill(SIGINT);
  EXPECT_EQ(follower_->Wait(), 0);
}

TEST(WorkerFlags, BadOnesAreNamed) {
  EXPECT_EQ(WorkerProcess({"--role", "draft"}).Wait(), 2);
  EXPECT_EQ(WorkerProcess({"--listen", "nonsense"}).Wait(), 2);
  EXPECT_EQ(WorkerProcess({"--kernels", "gpu"}).Wait(), 2);
  EXPECT_EQ(WorkerProcess({"--coordinator", "nowhere"}).Wait(), 2);
  EXPECT_EQ(WorkerProcess({"--no-such-flag"}).Wait(), 2);
  EXPECT_EQ(WorkerProcess({"--threads", "many"}).Wait(), 2);
  EXPECT_EQ(WorkerProcess({"--step-ms", "0"}).Wait(), 2);
  EXPECT_EQ(WorkerProcess({"--step-ms", "nan"}).Wait(), 2);
  EXPECT_EQ(WorkerProcess({"--max-waiting", "0"}).Wait(), 2);
  EXPECT_EQ(WorkerProcess({"--help"}).Wait(), 0);
}

}  // namespace
}  // namespace alphecca::testing

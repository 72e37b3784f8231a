// Engine.Connect over a real connection, in front of an engine that a test plays.
#include "worker/rpc/engine_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/fakes/fake_engine.h"

namespace alphecca::worker {
namespace {

using model::BlockHash;

std::vector<BlockHash> Hashes(const std::string& bytes) {
  EXPECT_EQ(bytes.size() % sizeof(BlockHash), 0U);
  std::vector<BlockHash> hashes(bytes.size() / sizeof(BlockHash));
  std::memcpy(hashes.data(), bytes.data(), hashes.size() * sizeof(BlockHash));
  return hashes;
}

std::vector<BlockHash> Range(uint64_t begin, uint64_t end) {
  std::vector<BlockHash> hashes;
  for (uint64_t i = begin; i < end; ++i) {
    hashes.push_back({i, ~i});
  }
  return hashes;
}

// A coordinator's end: what it was told so far.
class Client {
 public:
  explicit Client(int port) {
    grpc::ChannelArguments args;
    args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // else some MB are on their way to a client that does not read
    args.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 16);
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::Engine::NewStub(
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials(), args));
    context_.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));  // a test that hangs fails
    stream_ = stub_->Connect(&context_);
    v1::EngineCommand command;
    command.mutable_hello()->set_protocol_version(1);
    command.mutable_hello()->set_epoch(3);
    stream_->Write(command);
  }
  ~Client() {
    context_.TryCancel();
    Ended();
  }

  // Waits for the stream's end and says how it ended.
  absl::StatusCode Ended() {
    if (stream_ != nullptr) {
      v1::EngineEvents ignored;
      while (stream_->Read(&ignored)) {
      }
      code_ = static_cast<absl::StatusCode>(stream_->Finish().error_code());
      stream_ = nullptr;
    }
    return code_;
  }

  void Open(const v1::OpenSequence& open) {
    v1::EngineCommand command;
    *command.mutable_open() = open;
    stream_->Write(command);
  }

  // The next message, its blocks taken in.
  v1::EngineEvents Read() {
    v1::EngineEvents events;
    EXPECT_TRUE(stream_->Read(&events));
    const std::vector<BlockHash> removed = Hashes(events.blocks().removed());
    const std::vector<BlockHash> stored = Hashes(events.blocks().stored());
    EXPECT_LE(removed.size() + stored.size(), 4096U);
    for (const BlockHash& block : removed) {
      EXPECT_EQ(known.erase(block), 1U) << "removed, but never told of";
    }
    for (const BlockHash& block : stored) {
      EXPECT_TRUE(known.insert(block).second) << "told of twice";
    }
    told += removed.size() + stored.size();
    return events;
  }
  // Reads until it knows just these.
  void ReadUntilKnown(const std::set<BlockHash>& blocks) {
    while (known != blocks && !testing::Test::HasFailure()) {
      Read();
    }
  }

  std::set<BlockHash> known;
  size_t told = 0;  // changes, in all

 private:
  std::unique_ptr<v1::Engine::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::EngineCommand, v1::EngineEvents>> stream_;  // null once it ended
  absl::StatusCode code_ = absl::StatusCode::kOk;
};

class EngineServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    v1::Welcome welcome;
    welcome.set_epoch(3);
    welcome.set_block_tokens(16);
    welcome.set_revision("r1");
    directory_.Set({Epoch(3), "secret", nullptr, nullptr, std::make_shared<EngineGate>(engine_, welcome)});
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void TearDown() override {
    server_->Shutdown(absl::ToChronoTime(absl::Now() + absl::Seconds(30)));
    server_->Wait();
    EXPECT_TRUE(engine_.AwaitWatchers(0));
  }

  engine::FakeEngine engine_;
  MetricsRegistry registry_;
  WorkerMetrics metrics_{registry_};
  ShardDirectory directory_;
  EngineService service_{directory_, metrics_};
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

TEST_F(EngineServiceTest, TellsWhatIsCachedThenWhatChanges) {
  engine_.Change({.stored = Range(0, 10'000), .removed = {}});
  Client client(port_);
  const v1::EngineEvents first = client.Read();
  EXPECT_EQ(first.welcome().block_tokens(), 16);
  EXPECT_EQ(first.welcome().revision(), "r1");
  client.ReadUntilKnown(engine_.cached);
  EXPECT_EQ(client.told, 10'000U);

  engine_.Change({.stored = Range(20'000, 20'010), .removed = Range(5, 8)});
  client.ReadUntilKnown(engine_.cached);
  EXPECT_EQ(client.known.size(), 10'007U);
  EXPECT_EQ(client.told, 10'013U);
}

TEST_F(EngineServiceTest, TwoClientsAreToldAlike) {
  Client one(port_);
  EXPECT_TRUE(one.Read().has_welcome());
  engine_.Change({.stored = Range(0, 100), .removed = {}});
  Client two(port_);
  EXPECT_TRUE(two.Read().has_welcome());
  ASSERT_TRUE(engine_.AwaitWatchers(2));
  engine_.Change({.stored = Range(100, 110), .removed = Range(0, 1)});
  one.ReadUntilKnown(engine_.cached);
  two.ReadUntilKnown(engine_.cached);
}

// Two million changes pass while the client does not read; then it hears only what came of them, beside what was
// already on its way.
TEST_F(EngineServiceTest, AClientThatDoesNotReadIsToldTheOutcome) {
  Client client(port_);
  ASSERT_TRUE(engine_.AwaitWatchers(1));
  constexpr uint64_t kCache = 4000;
  engine_.Change({.stored = Range(0, kCache), .removed = {}});
  for (uint64_t round = 1; round <= 250; ++round) {
    engine_.Change({.stored = Range(round * kCache, (round + 1) * kCache),
                    .removed = Range((round - 1) * kCache, round * kCache)});
  }
  client.ReadUntilKnown(engine_.cached);
  EXPECT_EQ(client.known.size(), kCache);
  EXPECT_LT(client.told, 200'000U);
}

TEST_F(EngineServiceTest, MessagesOfBlocksKeepTheCountsOfTheLastStep) {
  Client client(port_);
  v1::OpenSequence open;
  open.set_sequence_id(7);
  open.set_tenant("t");
  open.set_tenant_weight(2.5);
  client.Open(open);
  ASSERT_TRUE(engine_.AwaitSequences(1));
  EXPECT_EQ(engine_.sequences[0].second.tenant, "t");
  EXPECT_EQ(engine_.sequences[0].second.tenant_weight, 2.5);
  engine::SequenceUpdate update;
  update.id = SequenceId(7);
  update.ids = {1};
  engine::FakeEngine::Send(engine_.sequences[0].first, update, 5, 2);
  v1::EngineEvents events = client.Read();
  while (events.events_size() == 0 && !HasFailure()) {
    events = client.Read();
  }
  EXPECT_EQ(events.events(0).ids(0), 1);
  engine_.Change({.stored = Range(0, 1), .removed = {}});
  events = client.Read();
  EXPECT_EQ(client.known.size(), 1U);
  EXPECT_EQ(events.running(), 5);
  EXPECT_EQ(events.waiting(), 2);
}

TEST_F(EngineServiceTest, ABadTenantWeightEndsTheSequence) {
  Client client(port_);
  v1::OpenSequence open;
  open.set_sequence_id(7);
  open.set_tenant_weight(std::numeric_limits<double>::quiet_NaN());
  client.Open(open);
  v1::EngineEvents events = client.Read();
  while (events.events_size() == 0 && !HasFailure()) {
    events = client.Read();
  }
  EXPECT_EQ(events.events(0).sequence_id(), 7U);
  EXPECT_EQ(events.events(0).error_code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(events.events(0).error_message(), testing::HasSubstr("tenant_weight nan"));
  EXPECT_TRUE(engine_.sequences.empty());
}

// Each refusal is an event. Those on their way fill the connection, then they wait, until there are too many.
TEST_F(EngineServiceTest, AStreamWhoseClientDoesNotReadIsEnded) {
  Client client(port_);
  v1::OpenSequence good;
  good.set_sequence_id(1);
  good.set_tenant_weight(1.0);
  v1::OpenSequence bad;
  bad.set_tenant_weight(-1.0);
  for (uint64_t id = 2; id < 60'000 && engine_.Detached() == 0; ++id) {
    bad.set_sequence_id(id);
    client.Open(bad);
  }
  ASSERT_TRUE(engine_.AwaitDetached(1));
  client.Open(good);  // what comes after the end opens nothing
  EXPECT_FALSE(engine_.AwaitSequences(1, absl::Milliseconds(300)));
  EXPECT_EQ(client.Ended(), absl::StatusCode::kResourceExhausted);
}

TEST_F(EngineServiceTest, AnEndedStreamNoLongerWatches) {
  {
    Client client(port_);
    EXPECT_TRUE(client.Read().has_welcome());
    EXPECT_TRUE(engine_.AwaitWatchers(1));
  }
  EXPECT_TRUE(engine_.AwaitWatchers(0));
}

TEST_F(EngineServiceTest, AGroupThatEndsEndsItsStreams) {
  Client client(port_);
  EXPECT_TRUE(client.Read().has_welcome());
  const auto gate = directory_.Current()->gate;
  engine_.Change({.stored = Range(0, 10), .removed = {}});
  client.ReadUntilKnown(engine_.cached);
  gate->Close(absl::UnavailableError("over"));
  EXPECT_THAT(client.Ended(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace alphecca::worker

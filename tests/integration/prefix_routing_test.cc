// From a leader's prefix cache to the router's choice: the coordinator's streams against the workers' service, each in
// front of an engine that the test plays.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "coordinator/routing/router.h"
#include "coordinator/rpc/convert.h"
#include "coordinator/rpc/group_connections.h"
#include "tests/fakes/fake_engine.h"
#include "worker/rpc/assignment.h"
#include "worker/rpc/engine_service.h"

namespace alphecca {
namespace {

constexpr model::PrefixKey kKey = {3, 4};
constexpr int kBlockTokens = 16;

// A leader: its service at a port of its own.
class Leader {
 public:
  explicit Leader(uint64_t epoch) {
    v1::Welcome welcome;
    welcome.set_epoch(epoch);
    welcome.set_block_tokens(kBlockTokens);
    welcome.set_revision("r");
    directory_.Set({Epoch(epoch), "secret", nullptr, nullptr, std::make_shared<worker::EngineGate>(engine, welcome)});
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
  }
  ~Leader() {
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
    server_->Wait();
    EXPECT_TRUE(engine.AwaitWatchers(0));
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  engine::FakeEngine engine;

 private:
  MetricsRegistry registry_;
  worker::WorkerMetrics metrics_{registry_};
  worker::ShardDirectory directory_;
  worker::EngineService service_{directory_, metrics_};
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

class FirstEvent : public coordinator::SequenceSink {
 public:
  void OnEvent(int32_t, coordinator::SequenceEvent) override {
    if (!seen_.exchange(true)) {
      came.Notify();
    }
  }
  absl::Notification came;

 private:
  std::atomic<bool> seen_{false};
};

class PrefixRoutingTest : public testing::Test {
 protected:
  void TearDown() override { connections_.CloseAll(absl::UnavailableError("the test is over")); }

  std::shared_ptr<coordinator::GroupClient> Connect(uint64_t group, uint64_t epoch, const Leader& leader) {
    connections_.GroupReady(GroupId(group), Epoch(epoch), "m", leader.address(), "cpu");
    const auto client = router_.Find("m", GroupId(group));
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (!client->connected() && absl::Now() < deadline) {
      std::this_thread::yield();
    }
    EXPECT_TRUE(client->connected());
    return client;
  }
  // Until the client has taken in all that the leader said so far: a token of a sequence comes after it.
  void Settle(coordinator::GroupClient& client, Leader& leader) {
    coordinator::SequenceSpec spec;
    spec.id = SequenceId(++sequence_);
    spec.prompt = {1};
    const auto sink = std::make_shared<FirstEvent>();
    const size_t before = leader.engine.sequences.size();
    ASSERT_TRUE(client.Open(spec, sink).ok());
    ASSERT_TRUE(leader.engine.AwaitSequences(before + 1));
    engine::SequenceUpdate update;
    update.id = spec.id;
    update.ids = {1};
    update.finish = engine::Finish::kLength;
    engine::FakeEngine::Send(leader.engine.sequences.back().first, update, 0, 0);
    ASSERT_TRUE(sink->came.WaitForNotificationWithTimeout(absl::Seconds(30)));
  }
  std::vector<model::BlockHash> Blocks(size_t tokens) const {
    return model::PrefixHasher(kKey, "r", kBlockTokens).Blocks("t", std::span(prompt_).first(tokens));
  }
  coordinator::Route Pick() const { return *router_.Pick({.model = "m", .tenant = "t", .prompt = prompt_}); }

  const std::vector<int32_t> prompt_ = std::vector<int32_t>(100, 9);
  const std::shared_ptr<coordinator::PrefixIndex> index_ = std::make_shared<coordinator::PrefixIndex>(kKey);
  coordinator::Router router_{index_};
  coordinator::GroupConnections connections_{router_, index_};
  uint64_t sequence_ = 0;
};

TEST(PrefixProtocol, TheKeyArrivesAsItWasDrawn) {
  coordinator::Assignment assignment;
  assignment.epoch = Epoch(1);
  assignment.model.checkpoint = "model";
  assignment.peers = {"a:1"};
  assignment.communicator = "solo";
  assignment.prefix_key = {0x0706050403020100ULL, ~uint64_t{0}};
  const auto arrived = worker::FromProto(coordinator::ToProto(assignment));
  ASSERT_TRUE(arrived.ok()) << arrived.status();
  EXPECT_EQ(arrived->prefix_key, assignment.prefix_key);
}

TEST(PrefixProtocol, HashesAreWhole) {
  EXPECT_EQ(coordinator::HashesFromProto("")->size(), 0U);
  const auto one = coordinator::HashesFromProto(std::string("\1\0\0\0\0\0\0\0\0\2\0\0\0\0\0\0", 16));
  EXPECT_THAT(*one, testing::ElementsAre(model::BlockHash{1, 512}));
  EXPECT_EQ(coordinator::HashesFromProto(std::string(17, 'x')).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PrefixRoutingTest, ARequestFollowsWhatTheLeadersTell) {
  Leader one(1);
  Leader two(2);
  one.engine.Change({.stored = Blocks(32), .removed = {}});
  const auto first = Connect(1, 1, one);
  const auto second = Connect(2, 2, two);
  Settle(*first, one);
  Settle(*second, two);
  EXPECT_EQ(Pick().group, first);
  EXPECT_EQ(Pick().cached_tokens, 32);
  EXPECT_EQ(index_->size().blocks, 2);

  two.engine.Change({.stored = Blocks(96), .removed = {}});
  Settle(*second, two);
  EXPECT_EQ(Pick().group, second);
  EXPECT_EQ(Pick().cached_tokens, 96);

  std::vector<model::BlockHash> end = Blocks(96);
  end.erase(end.begin());
  two.engine.Change({.stored = {}, .removed = end});
  Settle(*second, two);
  EXPECT_EQ(Pick().group, first);
}

TEST_F(PrefixRoutingTest, ANewEpochKnowsNothingOfTheOld) {
  Leader old(1);
  old.engine.Change({.stored = Blocks(64), .removed = {}});
  Settle(*Connect(1, 1, old), old);
  EXPECT_EQ(Pick().cached_tokens, 64);

  Leader fresh(2);
  fresh.engine.Change({.stored = Blocks(16), .removed = {}});
  const auto client = Connect(1, 2, fresh);
  Settle(*client, fresh);
  EXPECT_EQ(Pick().group, client);
  EXPECT_EQ(Pick().cached_tokens, 16);
  index_->Sweep();
  EXPECT_EQ(index_->size().blocks, 1);

  connections_.GroupLost(GroupId(1), Epoch(2), "m", absl::UnavailableError("gone"));
  index_->Sweep();
  EXPECT_EQ(index_->size().blocks, 0);
}

TEST_F(PrefixRoutingTest, PromptsThatHaveNotAnsweredAreLoad) {
  Leader leader(1);
  const auto client = Connect(1, 1, leader);
  coordinator::SequenceSpec spec;
  spec.id = SequenceId(500);
  spec.prompt = prompt_;
  spec.expected_cached = 32;
  const auto sink = std::make_shared<FirstEvent>();
  ASSERT_TRUE(client->Open(spec, sink).ok());
  EXPECT_EQ(client->load().queued_tokens, 68);
  ASSERT_TRUE(leader.engine.AwaitSequences(1));
  engine::SequenceUpdate update;
  update.id = SequenceId(500);
  update.ids = {1};
  engine::FakeEngine::Send(leader.engine.sequences[0].first, update, 1, 0);
  ASSERT_TRUE(sink->came.WaitForNotificationWithTimeout(absl::Seconds(30)));
  EXPECT_EQ(client->load().queued_tokens, 0);
  EXPECT_EQ(client->load().open, 1);
  EXPECT_EQ(client->load().running, 1);
}

}  // namespace
}  // namespace alphecca

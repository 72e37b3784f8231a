#include "coordinator/cluster/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "recording_effects.h"

namespace alphecca::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ClusterTest : public ::testing::Test {
 protected:
  void Make(std::vector<ModelSpec> models) {
    cluster_ = std::make_unique<Cluster>(TestOptions(), std::move(models), effects_);
  }
  WorkerId Join(const std::string& name, int port, const std::string& host = "h") {
    const auto id = cluster_->Join(TestWorker(name, host, port), now_);
    EXPECT_TRUE(id.ok()) << id.status();
    cluster_->Tick(now_);
    return *id;
  }
  absl::Status Report(WorkerId w, uint64_t epoch, ShardState state, const std::string& message = "") {
    return cluster_->Report(w, TestReport(Epoch(epoch), state, message), now_);
  }
  // Two workers, one ready group of two ranks at epoch 100.
  void MakeReadyPair() {
    Make({TestModel("m", 2, 2, 1)});
    a_ = Join("a", 1);
    b_ = Join("b", 2);
    ASSERT_TRUE(Report(a_, 100, ShardState::kReady).ok());
    ASSERT_TRUE(Report(b_, 100, ShardState::kReady).ok());
    ASSERT_EQ(effects_.ready.count(GroupId(1)), 1U);
  }
  GroupView Group() { return cluster_->View().groups.at(0); }

  RecordingEffects effects_;
  std::unique_ptr<Cluster> cluster_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  WorkerId a_, b_;
};

TEST_F(ClusterTest, WaitsAndSaysForWhat) {
  Make({TestModel("m", 2, 2, 1)});
  EXPECT_EQ(Group().state, GroupState::kWaiting);
  EXPECT_THAT(Group().message, HasSubstr("start 2 more"));
  Join("a", 1);
  EXPECT_THAT(Group().message, HasSubstr("start 1 more"));
  EXPECT_THAT(effects_.assigned, IsEmpty());
}

// A model that one worker of the test's memory cannot hold, but two can; or by one of more memory.
ModelSpec Automatic(OnLoss on_loss, int replicas) {
  ModelSpec model = TestModel("m", 1, 1, replicas);
  model.splits = {{.tp = 1, .ep = 1, .plan_hash = "one", .rank_bytes = 2 * kTestMemory},
                  {.tp = 2, .ep = 1, .plan_hash = "two", .rank_bytes = kTestMemory},
                  {.tp = 3, .ep = 1, .plan_hash = "three", .rank_bytes = kTestMemory / 2}};
  model.on_loss = on_loss;
  return model;
}

TEST_F(ClusterTest, TooLittleMemoryIsSaid) {
  Make({Automatic(OnLoss::kWait, 1)});
  Join("small", 1);
  EXPECT_THAT(Group().message, HasSubstr("small has"));
  EXPECT_THAT(effects_.assigned, IsEmpty());
}

TEST_F(ClusterTest, FormsByTheFirstSplitThatTheWorkersHold) {
  Make({Automatic(OnLoss::kWait, 1)});
  Join("a", 1);
  Join("b", 2);
  ASSERT_EQ(effects_.assigned.size(), 2U);
  EXPECT_EQ(effects_.assigned[1].assignment.split.plan_hash, "two");
  EXPECT_EQ(Group().split.tp, 2);
}

TEST_F(ClusterTest, AWorkerMoreMakesAReplicaMore) {
  Make({Automatic(OnLoss::kWait, 0)});
  ASSERT_EQ(cluster_->View().groups.size(), 1U);
  Join("a", 1);
  Join("b", 2);
  ASSERT_EQ(cluster_->View().groups.size(), 2U);
  EXPECT_EQ(cluster_->View().groups[1].state, GroupState::kWaiting);
  Join("c", 3);
  Join("d", 4);
  ASSERT_EQ(cluster_->View().groups.size(), 3U);
  EXPECT_EQ(cluster_->View().groups[1].state, GroupState::kLoading);
  EXPECT_EQ(effects_.assigned.size(), 4U);
}

TEST_F(ClusterTest, ReplicasDoNotStarveAGroupThatNeedsSeveralWorkers) {
  Make({TestModel("pair", 2, 1, 1), TestModel("many", 1, 1, 0)});
  Join("a", 1);
  Join("b", 2);
  ASSERT_EQ(effects_.assigned.size(), 1U);
  EXPECT_EQ(effects_.assigned[0].assignment.model.name, "many");
  EXPECT_THAT(cluster_->View().groups.back().message, HasSubstr("every model"));
  Join("c", 3);
  ASSERT_EQ(effects_.assigned.size(), 3U);
  EXPECT_EQ(effects_.assigned[2].assignment.model.name, "pair");
  Join("d", 4);
  EXPECT_EQ(effects_.assigned.back().assignment.model.name, "many");
}

// Two ranks are best, one will do.
ModelSpec TwoOrOne(OnLoss on_loss) {
  ModelSpec model = TestModel("m", 1, 1, 1);
  model.splits = {{.tp = 2, .ep = 1, .plan_hash = "two", .rank_bytes = kTestMemory},
                  {.tp = 1, .ep = 1, .plan_hash = "one", .rank_bytes = kTestMemory}};
  model.on_loss = on_loss;
  return model;
}

// Two idle workers would make the better split, but it was not asked for.
TEST_F(ClusterTest, AGroupThatWaitsKeepsItsSplit) {
  Make({TwoOrOne(OnLoss::kWait)});
  const WorkerId a = Join("a", 1);
  EXPECT_EQ(Group().split.tp, 1);
  Join("b", 2);
  Join("c", 3);
  cluster_->Leave(a, "gone", now_);
  EXPECT_EQ(Group().state, GroupState::kLoading);
  EXPECT_EQ(Group().split.tp, 1);
}

TEST_F(ClusterTest, AGroupThatReplansTakesTheBestSplitOfTheWorkersThereAre) {
  Make({TwoOrOne(OnLoss::kReplan)});
  const WorkerId a = Join("a", 1);
  EXPECT_EQ(Group().split.tp, 1);
  const WorkerId b = Join("b", 2);
  const WorkerId c = Join("c", 3);
  cluster_->Leave(a, "gone", now_);
  EXPECT_EQ(Group().split.tp, 2);
  EXPECT_EQ(Group().state, GroupState::kLoading);
  cluster_->Leave(b, "gone", now_);
  EXPECT_EQ(Group().split.tp, 1);
  EXPECT_EQ(effects_.assigned.back().worker, c);
}

TEST_F(ClusterTest, FormsWithEnoughWorkersAndIsReadyWhenAllRanksAre) {
  Make({TestModel("m", 2, 2, 1)});
  const WorkerId a = Join("a", 1);
  const WorkerId b = Join("b", 2);
  ASSERT_EQ(effects_.assigned.size(), 2U);
  const Assignment& first = effects_.assigned[0].assignment;
  EXPECT_EQ(first.epoch, Epoch(100));
  EXPECT_EQ(first.rank, 0);
  EXPECT_EQ(effects_.assigned[1].assignment.rank, 1);
  EXPECT_THAT(first.peers, ElementsAre("h:1", "h:2"));
  EXPECT_EQ(first.communicator, "shm");
  EXPECT_EQ(first.rendezvous, effects_.assigned[1].assignment.rendezvous);
  EXPECT_EQ(first.prefix_key, (model::PrefixKey{5, 6}));
  EXPECT_EQ(effects_.assigned[1].assignment.prefix_key, first.prefix_key);
  EXPECT_EQ(first.split.plan_hash, "0123456789abcdef");
  EXPECT_EQ(Group().state, GroupState::kLoading);

  ASSERT_TRUE(Report(a, 100, ShardState::kLoading).ok());
  ASSERT_TRUE(Report(a, 100, ShardState::kReady).ok());
  EXPECT_TRUE(effects_.ready.empty());
  ASSERT_TRUE(Report(b, 100, ShardState::kReady).ok());
  EXPECT_EQ(effects_.ready.at(GroupId(1)), Epoch(100));
  EXPECT_EQ(effects_.last_leader, "h:1");
  EXPECT_EQ(effects_.last_fingerprint, "cpu/avx2");
  EXPECT_EQ(Group().state, GroupState::kReady);
  EXPECT_EQ(cluster_->View().workers.at(1).state, ShardState::kReady);
}

TEST_F(ClusterTest, LostWorkerDissolvesTheGroupAndAnotherRestoresIt) {
  MakeReadyPair();
  cluster_->Leave(b_, "stream ended", now_);
  EXPECT_THAT(effects_.lost, ElementsAre(std::pair(GroupId(1), Epoch(100))));
  EXPECT_EQ(effects_.last_loss.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(effects_.last_loss.message()), HasSubstr("rank 1 on b was lost: stream ended"));
  ASSERT_EQ(effects_.released.size(), 1U);  // the lost one gets no message
  EXPECT_EQ(effects_.released[0].worker, a_);
  EXPECT_EQ(effects_.released[0].epoch, Epoch(100));
  EXPECT_EQ(Group().state, GroupState::kWaiting);
  EXPECT_THAT(Group().message, HasSubstr("stream ended"));

  const WorkerId c = Join("c", 3);
  ASSERT_EQ(effects_.assigned.size(), 4U);
  EXPECT_EQ(effects_.assigned[2].assignment.epoch, Epoch(101));
  ASSERT_TRUE(Report(a_, 101, ShardState::kReady).ok());
  ASSERT_TRUE(Report(c, 101, ShardState::kReady).ok());
  EXPECT_EQ(effects_.ready.at(GroupId(1)), Epoch(101));
}

TEST_F(ClusterTest, LeaseEndEvicts) {
  MakeReadyPair();
  now_ += absl::Seconds(9);
  ASSERT_TRUE(cluster_->Heartbeat(a_, 1, now_).ok());
  now_ += absl::Seconds(1);
  cluster_->Tick(now_);
  ASSERT_EQ(effects_.evicted.size(), 1U);
  EXPECT_EQ(effects_.evicted[0].first, b_);
  EXPECT_EQ(effects_.lost.size(), 1U);
  EXPECT_EQ(Report(b_, 100, ShardState::kReady).code(), absl::StatusCode::kNotFound);
  cluster_->Leave(b_, "stream ended", now_);  // the evicted stream's end: nothing more happens
  EXPECT_EQ(effects_.lost.size(), 1U);
}

TEST_F(ClusterTest, LateReportsOfAnOldEpochChangeNothing) {
  MakeReadyPair();
  cluster_->Leave(b_, "gone", now_);
  EXPECT_EQ(Report(a_, 100, ShardState::kFailed, "late").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Group().state, GroupState::kWaiting);
  Join("b", 2);
  EXPECT_EQ(Report(a_, 100, ShardState::kReady).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Report(a_, 102, ShardState::kReady).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Group().ranks.at(0).report.state, ShardState::kLoading);
}

TEST_F(ClusterTest, FailedShardIsRetriedWithGrowingBackoff) {
  Make({TestModel("m", 2, 2, 1)});
  Join("a", 1);
  Join("b", 2);
  std::vector<absl::Duration> waits;
  for (uint64_t epoch = 100; epoch < 110; ++epoch) {
    ASSERT_TRUE(Report(Group().ranks.at(0).worker, epoch, ShardState::kFailed, "needs 9 GiB, 4 GiB are there").ok());
    EXPECT_EQ(Group().state, GroupState::kFailed);
    EXPECT_THAT(Group().message, HasSubstr("rank 0 on "));
    EXPECT_THAT(Group().message, HasSubstr("(h:"));
    EXPECT_THAT(Group().message, HasSubstr("needs 9 GiB, 4 GiB are there; next try ("));
    const absl::Time failed = now_;
    const size_t sent = effects_.assigned.size();
    while (effects_.assigned.size() == sent) {
      now_ += absl::Milliseconds(250);
      for (const WorkerView& w : cluster_->View().workers) {
        (void)cluster_->Heartbeat(w.id, static_cast<uint64_t>(absl::ToUnixMillis(now_)), now_);
      }
      cluster_->Tick(now_);
      ASSERT_LT(now_ - failed, absl::Minutes(2));
    }
    waits.push_back(now_ - failed);
  }
  EXPECT_EQ(waits[0], absl::Milliseconds(500));
  EXPECT_EQ(waits[1], absl::Seconds(1));
  EXPECT_EQ(waits[2], absl::Seconds(2));
  EXPECT_EQ(waits[9], absl::Minutes(1));
}

TEST_F(ClusterTest, FailedShardMovesToAnotherWorkerIfThereIsOne) {
  Make({TestModel("m", 1, 1, 1)});
  const WorkerId a = Join("a", 1);
  const WorkerId b = Join("b", 2);
  ASSERT_TRUE(Report(a, 100, ShardState::kFailed, "no such file").ok());
  now_ += absl::Seconds(1);
  cluster_->Tick(now_);
  EXPECT_EQ(effects_.assigned.back().worker, b);
}

TEST_F(ClusterTest, AWorkerTooSmallForItsShardIsLeftOutOnceAnotherIsThere) {
  Make({TestModel("m", 2, 1, 1)});
  const WorkerId a = Join("a", 1);
  const WorkerId b = Join("b", 2);
  ASSERT_TRUE(Report(b, 100, ShardState::kFailed, "weights take 9 GiB, 4 GiB are there").ok());
  EXPECT_EQ(Group().state, GroupState::kFailed);
  EXPECT_THAT(Group().message, HasSubstr("rank 1 on b (h:2): weights take 9 GiB, 4 GiB are there"));
  const WorkerId c = Join("c", 3);
  now_ += absl::Seconds(1);
  cluster_->Tick(now_);
  EXPECT_EQ(Group().state, GroupState::kLoading);
  EXPECT_THAT(Group().message, HasSubstr("before that: rank 1 on b (h:2): weights take 9 GiB"));
  ASSERT_EQ(effects_.assigned.size(), 4U);
  EXPECT_EQ(effects_.assigned[2].worker, a);
  EXPECT_EQ(effects_.assigned[3].worker, c);
}

// By its own count the model fits no worker alone, though by the coordinator's it does: two share it then. Once that
// worked, it stays so.
TEST_F(ClusterTest, ASplitThatFailsOnAllWorkersGivesWayToTheNext) {
  ModelSpec model = TwoOrOne(OnLoss::kWait);
  std::swap(model.splits[0], model.splits[1]);
  Make({model});
  const WorkerId a = Join("a", 1);
  const WorkerId b = Join("b", 2);
  const auto fails = [&](WorkerId worker, uint64_t epoch) {
    EXPECT_EQ(effects_.assigned.back().worker, worker);
    EXPECT_EQ(Group().split.plan_hash, "one");
    ASSERT_TRUE(Report(worker, epoch, ShardState::kFailed, "too little memory").ok());
    now_ += absl::Seconds(2);
    cluster_->Tick(now_);
  };
  fails(a, 100);
  fails(b, 101);
  EXPECT_EQ(Group().split.plan_hash, "two");
  ASSERT_TRUE(Report(a, 102, ShardState::kReady).ok());
  ASSERT_TRUE(Report(b, 102, ShardState::kReady).ok());
  EXPECT_EQ(Group().state, GroupState::kReady);
  cluster_->Leave(b, "gone", now_);
  EXPECT_EQ(Group().state, GroupState::kWaiting);
  EXPECT_THAT(Group().message, HasSubstr("needs 2 idle workers"));
}

TEST_F(ClusterTest, ReplicasAndModelsShareThePool) {
  Make({TestModel("m", 2, 1, 2), TestModel("n", 1, 1, 1)});
  for (int i = 1; i <= 5; ++i) {
    Join("w" + std::to_string(i), i);
  }
  // A small group takes what is there first; groups in order of the models otherwise.
  std::map<std::string, int> ranks;
  std::set<uint64_t> workers;
  for (const auto& sent : effects_.assigned) {
    ++ranks[sent.assignment.model.name];
    workers.insert(sent.worker.value);
  }
  EXPECT_EQ(ranks["m"], 4);
  EXPECT_EQ(ranks["n"], 1);
  EXPECT_EQ(workers.size(), 5U);
}

TEST_F(ClusterTest, AGroupFormsOfOneBuildOnly) {
  Make({TestModel("m", 2, 2, 1)});
  Join("a", 1);
  Registration newer = TestWorker("b", "h", 2);
  newer.build = "b2";
  ASSERT_TRUE(cluster_->Join(newer, now_).ok());
  cluster_->Tick(now_);
  EXPECT_THAT(effects_.assigned, IsEmpty());
  EXPECT_THAT(Group().message, HasSubstr("one device kind and build, 1 there"));
  newer.name = "c";
  newer.address = "h:3";
  ASSERT_TRUE(cluster_->Join(newer, now_).ok());
  cluster_->Tick(now_);
  EXPECT_EQ(effects_.assigned.size(), 2U);
}

TEST_F(ClusterTest, RestartedWorkerAtTheSameAddressReplacesItself) {
  MakeReadyPair();
  const auto again = cluster_->Join(TestWorker("b", "h", 2), now_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(effects_.lost.size(), 1U);
  ASSERT_EQ(effects_.evicted.size(), 1U);
  EXPECT_EQ(effects_.evicted[0].first, b_);
  EXPECT_EQ(effects_.assigned.size(), 2U);  // not before the caller knows the new worker
  cluster_->Tick(now_);
  EXPECT_EQ(effects_.assigned.size(), 4U);
}

TEST_F(ClusterTest, RepeatedReadyChangesNothing) {
  MakeReadyPair();
  effects_.ready.clear();
  ASSERT_TRUE(Report(a_, 100, ShardState::kReady).ok());
  EXPECT_TRUE(effects_.ready.empty());
}

TEST_F(ClusterTest, AReadyShardThatBreaksIsLostAndRetriedSoon) {
  MakeReadyPair();
  ASSERT_TRUE(Report(b_, 100, ShardState::kFailed, "peer 0 timed out").ok());
  EXPECT_EQ(effects_.lost.size(), 1U);
  EXPECT_EQ(effects_.released.size(), 2U);
  now_ += absl::Milliseconds(500);
  cluster_->Tick(now_);
  EXPECT_EQ(Group().state, GroupState::kLoading);
  EXPECT_EQ(Group().epoch, Epoch(101));
}

TEST_F(ClusterTest, AFailureThatALostPeerExplainsHasNoBackoff) {
  MakeReadyPair();
  ASSERT_TRUE(Report(a_, 100, ShardState::kFailed, "rank 1 is gone").ok());
  EXPECT_EQ(Group().state, GroupState::kFailed);
  cluster_->Leave(b_, "its stream ended", now_);
  EXPECT_EQ(Group().state, GroupState::kWaiting);
  EXPECT_THAT(Group().message, HasSubstr("b was lost: its stream ended"));
  Join("c", 3);  // no time has passed
  EXPECT_EQ(Group().state, GroupState::kLoading);
  EXPECT_EQ(effects_.assigned[2].worker, a_);  // not held against it
}

}  // namespace
}  // namespace alphecca::coordinator

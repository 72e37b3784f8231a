#include "coordinator/cluster/controller.h"
#include "common/mutex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "recording_effects.h"

namespace alphecca::coordinator {
namespace {

using ::testing::ElementsAre;

const absl::Time kNow = absl::FromUnixSeconds(1000);

class RecordingLink : public WorkerLink {
 public:
  void Registered(WorkerId worker) override { Say("registered " + std::to_string(worker.value)); }
  void Assign(const Assignment& a) override {
    Say("assign " + std::to_string(a.epoch.value));
    const MutexLock lock(mutex);
    epoch = a.epoch;
  }
  void Release(Epoch e, const std::string&) override { Say("release " + std::to_string(e.value)); }
  void Close(const absl::Status& why) override { Say("close " + absl::StatusCodeToString(why.code())); }
  void Say(const std::string& line) {
    const MutexLock lock(mutex);
    lines.push_back(line);
  }
  std::vector<std::string> Lines() {
    const MutexLock lock(mutex);
    return lines;
  }
  Epoch LastEpoch() {
    const MutexLock lock(mutex);
    return epoch;
  }

  Mutex mutex;
  std::vector<std::string> lines;
  Epoch epoch;
};

// Checks on its own that ready and lost take turns for each group.
class TurnTaking : public GroupListener {
 public:
  void GroupReady(GroupId group, Epoch epoch, const std::string&, const std::string&, const std::string&) override {
    const MutexLock lock(mutex);
    EXPECT_EQ(ready.count(group), 0U) << "ready twice";
    ready[group] = epoch;
    ++readies;
  }
  void GroupLost(GroupId group, Epoch epoch, const std::string&, const absl::Status&) override {
    const MutexLock lock(mutex);
    EXPECT_EQ(ready[group], epoch) << "lost, but was not ready";
    ready.erase(group);
  }
  Mutex mutex;
  std::map<GroupId, Epoch> ready;
  int readies = 0;
};

TEST(ClusterController, TellsEachWorkerInOrder) {
  TurnTaking groups;
  ClusterController controller(TestOptions(), {TestModel("m", 2, 2, 1)}, groups);
  const auto a = std::make_shared<RecordingLink>();
  const auto b = std::make_shared<RecordingLink>();
  const auto a_id = controller.Join(TestWorker("a", "h", 1), a, kNow);
  const auto b_id = controller.Join(TestWorker("b", "h", 2), b, kNow);
  ASSERT_TRUE(a_id.ok() && b_id.ok());
  EXPECT_THAT(a->Lines(), ElementsAre("registered 1", "assign 100"));
  EXPECT_THAT(b->Lines(), ElementsAre("registered 2", "assign 100"));
  ASSERT_TRUE(controller.Report(*a_id, TestReport(Epoch(100), ShardState::kReady), kNow).ok());
  ASSERT_TRUE(controller.Report(*b_id, TestReport(Epoch(100), ShardState::kReady), kNow).ok());
  EXPECT_EQ(groups.readies, 1);
  controller.Leave(*b_id, "gone", kNow);
  EXPECT_TRUE(groups.ready.empty());
  EXPECT_EQ(a->Lines().back(), "release 100");
}

TEST(ClusterController, AReplacedWorkersStreamIsClosed) {
  TurnTaking groups;
  ClusterController controller(TestOptions(), {TestModel("m", 1, 1, 1)}, groups);
  const auto old_link = std::make_shared<RecordingLink>();
  const auto new_link = std::make_shared<RecordingLink>();
  ASSERT_TRUE(controller.Join(TestWorker("a", "h", 1), old_link, kNow).ok());
  ASSERT_TRUE(controller.Join(TestWorker("a", "h", 1), new_link, kNow).ok());
  EXPECT_EQ(old_link->Lines().back(), "close ABORTED");
  EXPECT_THAT(new_link->Lines(), ElementsAre("registered 2", "assign 101"));
}

TEST(ClusterController, ManyThreadsKeepTheOrder) {
  TurnTaking groups;
  ClusterController controller(TestOptions(), {TestModel("m", 2, 2, 2), TestModel("n", 1, 1, 1)}, groups);
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 60; ++round) {
        const auto link = std::make_shared<RecordingLink>();
        const auto id = controller.Join(TestWorker("w" + std::to_string(t), "h", 1 + t), link, kNow);
        ASSERT_TRUE(id.ok()) << id.status();
        for (int i = 0; i < 20; ++i) {
          controller.Tick(kNow);
          // Refused where the epoch has moved on meanwhile.
          (void)controller.Report(*id, TestReport(link->LastEpoch(), ShardState::kReady), kNow);
        }
        controller.Leave(*id, "done", kNow);
        // Another thread may still be on its way to tell it.
        const std::vector<std::string> lines = link->Lines();
        if (!lines.empty()) {
          EXPECT_EQ(lines.front(), "registered " + std::to_string(id->value));
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_TRUE(groups.ready.empty());
  EXPECT_GT(groups.readies, 0);
}

}  // namespace
}  // namespace alphecca::coordinator

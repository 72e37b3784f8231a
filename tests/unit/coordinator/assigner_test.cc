#include "coordinator/cluster/assigner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace alphecca::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Candidate On(uint64_t id, const std::string& host, const std::string& kind = "cpu", bool failed = false) {
  return {.id = WorkerId(id), .host = host, .kind = kind, .failed_plans = {failed ? "plan" : "another"}};
}

Split Of(int ranks) {
  return {.tp = ranks, .plan_hash = "plan"};
}

TEST(ChooseWorkers, OneRankIsSolo) {
  const Choice c = ChooseWorkers(Of(1), {On(2, "a"), On(1, "b")});
  EXPECT_THAT(c.workers, ElementsAre(WorkerId(1)));
  EXPECT_EQ(c.communicator, "solo");
}

TEST(ChooseWorkers, PrefersOneHostOverLowerIds) {
  const Choice c = ChooseWorkers(Of(2), {On(1, "a"), On(2, "b"), On(3, "b")});
  EXPECT_THAT(c.workers, ElementsAre(WorkerId(2), WorkerId(3)));
  EXPECT_EQ(c.communicator, "shm");
}

TEST(ChooseWorkers, TakesTheHostWithFewestToSpare) {
  const Choice c = ChooseWorkers(Of(2), {On(1, "a"), On(2, "a"), On(3, "a"), On(4, "b"), On(5, "b")});
  EXPECT_THAT(c.workers, ElementsAre(WorkerId(4), WorkerId(5)));
}

TEST(ChooseWorkers, AcrossHostsUsesFewAndKeepsNeighboursTogether) {
  const Choice c = ChooseWorkers(Of(3), {On(1, "a"), On(2, "b"), On(3, "c"), On(4, "b")});
  EXPECT_THAT(c.workers, ElementsAre(WorkerId(2), WorkerId(4), WorkerId(1)));
  EXPECT_EQ(c.communicator, "gloo");
}

TEST(ChooseWorkers, NeverMixesKinds) {
  const Choice c = ChooseWorkers(Of(2), {On(1, "a", "cpu"), On(2, "a", "cuda")});
  EXPECT_THAT(c.workers, IsEmpty());
  EXPECT_EQ(c.available, 1);
}

TEST(ChooseWorkers, AvoidsWorkersThatFailedUnlessNobodyElseIsLeft) {
  EXPECT_THAT(ChooseWorkers(Of(1), {On(1, "a", "cpu", true), On(2, "a")}).workers, ElementsAre(WorkerId(2)));
  EXPECT_THAT(ChooseWorkers(Of(2), {On(1, "a", "cpu", true), On(2, "a")}).workers,
              ElementsAre(WorkerId(2), WorkerId(1)));
}

std::vector<Split> OneAndTwo() {
  return {{.tp = 1, .ep = 1, .plan_hash = "one", .rank_bytes = 100},
          {.tp = 2, .ep = 1, .plan_hash = "two", .rank_bytes = 60}};
}

Candidate With(uint64_t id, int64_t memory) {
  return {.id = WorkerId(id), .host = "h", .kind = "cpu", .memory_bytes = memory};
}

TEST(ChooseSplit, FewestRanksThatHoldTheModel) {
  const Choice whole = ChooseSplit(OneAndTwo(), {With(1, 60), With(2, 99), With(3, 100)});
  EXPECT_EQ(whole.split.plan_hash, "one");
  EXPECT_THAT(whole.workers, ElementsAre(WorkerId(3)));
  const Choice halves = ChooseSplit(OneAndTwo(), {With(1, 60), With(2, 59), With(3, 99)});
  EXPECT_EQ(halves.split.plan_hash, "two");
  EXPECT_THAT(halves.workers, ElementsAre(WorkerId(1), WorkerId(3)));
}

TEST(ChooseSplit, TooLittleMemory) {
  const Choice none = ChooseSplit(OneAndTwo(), {With(1, 59), With(2, 60)});
  EXPECT_THAT(none.workers, IsEmpty());
  EXPECT_EQ(none.available, 0);
}

TEST(ChooseSplit, TakesAnotherSplitBeforeWorkersOnWhichItFailed) {
  Candidate a = With(1, 100);
  Candidate b = With(2, 100);
  a.failed_plans = {"one"};
  EXPECT_THAT(ChooseSplit(OneAndTwo(), {a, b}).workers, ElementsAre(WorkerId(2)));
  b.failed_plans = {"one"};
  const Choice halves = ChooseSplit(OneAndTwo(), {a, b});
  EXPECT_EQ(halves.split.plan_hash, "two");
  EXPECT_THAT(halves.workers, ElementsAre(WorkerId(1), WorkerId(2)));
  a.failed_plans = {"one", "two"};
  const Choice again = ChooseSplit(OneAndTwo(), {a, b});
  EXPECT_EQ(again.split.plan_hash, "one");
  EXPECT_THAT(again.workers, ElementsAre(WorkerId(1)));
}

TEST(ChooseWorkers, NobodyThere) {
  const Choice c = ChooseWorkers(Of(2), {});
  EXPECT_THAT(c.workers, IsEmpty());
  EXPECT_EQ(c.available, 0);
}

}  // namespace
}  // namespace alphecca::coordinator

// Random workers that join, load, fail, fall silent, die and send late messages; invariants after every operation.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "coordinator/cluster/cluster.h"
#include "recording_effects.h"

namespace alphecca::coordinator {
namespace {

class Simulation {
 public:
  explicit Simulation(uint32_t seed)
      : rng_(seed), cluster_(TestOptions(), {TestModel("m", 2, 2, 2), TestModel("n", 3, 1, 1)}, effects_) {}

  void Step() {
    switch (rng_() % 10) {
      case 0:
      case 1:
        Join();
        break;
      case 2:
        Kill();
        break;
      case 3:
        now_ += absl::Milliseconds(rng_() % 3000);
        break;
      case 4:
        LateReport();
        break;
      case 5:
        Report(ShardState::kFailed);
        break;
      case 6:
        Report(ShardState::kLoading);
        break;
      default:
        Report(ShardState::kReady);
        break;
    }
    for (const WorkerView& w : cluster_.View().workers) {
      if (rng_() % 4 != 0) {
        (void)cluster_.Heartbeat(w.id, ++heartbeats_, now_);
      }
    }
    cluster_.Tick(now_);
  }

  void Check() {
    const ClusterView view = cluster_.View();
    std::set<uint64_t> live;
    for (const WorkerView& w : view.workers) {
      live.insert(w.id.value);
    }
    std::set<uint64_t> held;
    for (const GroupView& g : view.groups) {
      const bool formed = g.state == GroupState::kLoading || g.state == GroupState::kReady;
      const size_t wanted = g.model == "m" ? 2 : 3;
      ASSERT_EQ(g.ranks.size(), formed ? wanted : 0U);
      bool all_ready = true;
      for (const RankView& r : g.ranks) {
        ASSERT_TRUE(live.contains(r.worker.value)) << "a dead worker in a group";
        ASSERT_TRUE(held.insert(r.worker.value).second) << "a worker in two groups";
        ASSERT_EQ(r.report.epoch, g.epoch);
        all_ready = all_ready && r.report.state == ShardState::kReady;
      }
      ASSERT_EQ(g.state == GroupState::kReady, formed && all_ready);
      ASSERT_EQ(effects_.ready.contains(g.id), g.state == GroupState::kReady);
      if (g.state == GroupState::kReady) {
        ASSERT_EQ(effects_.ready.at(g.id), g.epoch);
      }
    }
    for (const GroupView& g : view.groups) {
      if (g.state == GroupState::kWaiting) {
        ASSERT_LT(live.size() - held.size(), g.model == "m" ? 2U : 3U) << "enough idle workers, but no group";
      }
    }
    uint64_t last = 0;  // epochs only grow
    for (const auto& sent : effects_.assigned) {
      ASSERT_GE(sent.assignment.epoch.value, last);
      last = sent.assignment.epoch.value;
    }
  }

 private:
  void Join() {
    if (cluster_.View().workers.size() < 10) {
      const int port = static_cast<int>(1 + rng_() % 12);  // may hit a live one: replaced, or its name is taken
      (void)cluster_.Join(TestWorker("w" + std::to_string(port), rng_() % 2 == 0 ? "h" : "i", port), now_);
    }
  }
  std::optional<WorkerView> Any() {
    const auto workers = cluster_.View().workers;
    return workers.empty() ? std::nullopt : std::optional(workers[rng_() % workers.size()]);
  }
  void Kill() {
    if (const auto w = Any()) {
      cluster_.Leave(w->id, "killed", now_);
    }
  }
  void Report(ShardState state) {
    if (const auto w = Any(); w && w->epoch.value != 0) {
      const bool back = state < w->state;
      ASSERT_EQ(cluster_.Report(w->id, TestReport(w->epoch, state, "x"), now_).ok(), !back);
    }
  }
  void LateReport() {
    if (const auto w = Any()) {
      const ClusterView before = cluster_.View();
      const Epoch old(w->epoch.value == 0 ? 100 : w->epoch.value - 1);
      ASSERT_FALSE(cluster_.Report(w->id, TestReport(old, ShardState::kFailed, "late"), now_).ok());
      const ClusterView after = cluster_.View();
      for (size_t i = 0; i < before.groups.size(); ++i) {
        ASSERT_EQ(before.groups[i].state, after.groups[i].state);
      }
    }
  }

  std::mt19937 rng_;
  RecordingEffects effects_;
  Cluster cluster_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  uint64_t heartbeats_ = 0;
};

TEST(ClusterRandom, InvariantsHold) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation simulation(seed);
    for (int step = 0; step < 300; ++step) {
      simulation.Step();
      ASSERT_NO_FATAL_FAILURE(simulation.Check()) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace alphecca::coordinator

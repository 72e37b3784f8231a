// Tenants that flood against one that comes anew, with random sizes: nobody starves.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>
#include <string>

#include "worker/engine/scheduler.h"

namespace alphecca::engine {
namespace {

class Flood {
 public:
  explicit Flood(uint32_t seed)
      : random_(seed),
        options_{.step_tokens = Draw(2, 24),
                 .logit_rows = Draw(1, 8),
                 .max_sequences = static_cast<int>(Draw(1, 6)),
                 .owners = static_cast<int>(Draw(1, 2)),
                 .block_tokens = static_cast<int>(Draw(1, 6)),
                 .full_blocks = Draw(30, 60)} {
    for (int64_t tenant = Draw(1, 4); tenant > 0; --tenant) {
      weights_[std::to_string(tenant)] = static_cast<double>(Draw(1, 100)) / 10.0;
    }
  }

  void Go() {
    auto created = Scheduler::Create(options_);
    ASSERT_TRUE(created.ok()) << created.status();
    scheduler_.emplace(*std::move(created));
    for (int newcomer = 0; newcomer < 8; ++newcomer) {
      for (int64_t step = Draw(0, 20); step > 0; --step) {
        ASSERT_NO_FATAL_FAILURE(Step());
      }
      ASSERT_NO_FATAL_FAILURE(AwaitNewcomer("newcomer " + std::to_string(newcomer)));
    }
  }

 private:
  struct Running {
    std::string tenant;
    int64_t left = 0;  // tokens to be generated
  };

  int64_t Draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }

  uint64_t Add(const std::string& tenant) {
    const int64_t tokens = Draw(1, 12);
    Arrival arrival{.key = SequenceKey(++keys_),
                    .prompt_tokens = Draw(1, 18),
                    .max_tokens = tokens,
                    .names = {},
                    .whole = std::nullopt,
                    .tenant = tenant,
                    .weight = weights_.contains(tenant) ? weights_.at(tenant) : 1.0};
    EXPECT_TRUE(scheduler_->Add(arrival).ok());
    live_[keys_] = {tenant, tokens};
    ++waiting_[tenant];
    return keys_;
  }

  // A newcomer starts level with the least served of those that contend. So each other tenant can go before it once,
  // from that level, and has got more then.
  void AwaitNewcomer(const std::string& tenant) {
    const uint64_t key = Add(tenant);
    joined_.clear();
    joins_.clear();
    for (int steps = 0; !joined_.contains(key); ++steps) {
      ASSERT_LT(steps, 600) << "it never joins";
      ASSERT_NO_FATAL_FAILURE(Step(key));
    }
    for (const auto& [other, joins] : joins_) {
      ASSERT_LE(joins, 1) << "tenant " << other;
    }
  }

  // Joins are counted until `key` joins.
  void Step(uint64_t key = 0) {
    for (const auto& [tenant, weight] : weights_) {
      while (waiting_[tenant] < 4) {
        Add(tenant);
      }
    }
    const auto batch = scheduler_->Next();
    ASSERT_TRUE(batch.ok()) << batch.status();
    ASSERT_FALSE(batch->shares.empty()) << "nothing runs though all wait";
    for (const Share& share : batch->shares) {
      if (share.opens) {
        const Running& sequence = live_.at(share.key.value);
        joins_[sequence.tenant] += joined_.contains(key) ? 0 : 1;
        joined_[share.key.value] = true;
        waiting_[sequence.tenant] -= 1;
      }
    }
    for (const Share& share : batch->shares) {
      if (!share.samples) {
        continue;
      }
      scheduler_->Sampled(share.key, std::nullopt);
      if (--live_.at(share.key.value).left == 0) {
        ASSERT_TRUE(scheduler_->Remove(share.key));
        live_.erase(share.key.value);
      }
    }
  }

  std::mt19937 random_;
  const SchedulerOptions options_;
  std::map<std::string, double> weights_;  // of the tenants that flood
  std::optional<Scheduler> scheduler_;
  std::map<uint64_t, Running> live_;
  std::map<std::string, int> waiting_;
  std::map<uint64_t, bool> joined_;
  std::map<std::string, int> joins_;
  uint64_t keys_ = 0;
};

TEST(SchedulerFairness, WhoComesAnewJoinsAfterOneOfEachOther) {
  for (uint32_t seed = 1; seed <= 500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    ASSERT_NO_FATAL_FAILURE(Flood(seed).Go());
  }
}

}  // namespace
}  // namespace alphecca::engine

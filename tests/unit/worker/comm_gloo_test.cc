#include "worker/comm/gloo.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "tests/unit/worker/comm_checks.h"

namespace alphecca::comm {
namespace {

// The exchange of a group within this process.
class Board {
 public:
  explicit Board(int size) : size_(size) {}

  ExchangeFn ForRank(int rank) {
    return [this, rank](const std::string& key, const std::string& value) -> absl::StatusOr<std::vector<std::string>> {
      absl::MutexLock lock(&mutex_);
      values_[key][rank] = value;
      const auto complete = [&] {
        mutex_.AssertHeld();
        return static_cast<int>(values_[key].size()) == size_;
      };
      if (!mutex_.AwaitWithTimeout(absl::Condition(&complete), absl::Seconds(20))) {
        return absl::DeadlineExceededError("a rank did not put its value");
      }
      std::vector<std::string> all;
      for (const auto& [r, v] : values_[key]) {
        all.push_back(v);
      }
      return all;
    };
  }

 private:
  const int size_;
  absl::Mutex mutex_;
  std::map<std::string, std::map<int, std::string>> values_ ABSL_GUARDED_BY(mutex_);
};

using Group = std::vector<std::unique_ptr<Communicator>>;

Group Connect(int size, const GlooOptions& options = {}) {
  Board board(size);
  Group group(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      auto comm = ConnectGloo(r, size, "secret", board.ForRank(r), options);
      EXPECT_TRUE(comm.ok()) << comm.status();
      if (comm.ok()) {
        group[r] = *std::move(comm);
      }
    });
  }
  for (std::thread& t : threads) {
    t.join();
  }
  return group;
}

class Gloo : public testing::TestWithParam<int> {};

TEST_P(Gloo, CollectivesAreExact) {
  const Group group = Connect(GetParam());
  ASSERT_FALSE(testing::Test::HasFailure());
  const auto results = OnAllRanks(group, [](Communicator& c) -> absl::Status {
    RETURN_IF_ERROR(CheckEverything(c, 8192));
    for (const int64_t count : {16384, 16385, 50001}) {
      RETURN_IF_ERROR(CheckAllReduce(c, count));
    }
    for (int i = 0; i < 300; ++i) {
      RETURN_IF_ERROR(CheckAllReduce(c, i % 67));
      RETURN_IF_ERROR(CheckAllToAll(c, i % 5));
    }
    return absl::OkStatus();
  });
  for (const absl::Status& s : results) {
    EXPECT_TRUE(s.ok()) << s;
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Gloo, testing::Values(1, 2, 3));

TEST(GlooGroup, AbortEndsTheWaitsHereAndThere) {
  Group group = Connect(3);
  ASSERT_FALSE(testing::Test::HasFailure());
  absl::Status there;
  absl::Status here;
  std::thread peer([&] { there = CheckAllReduce(*group[1], 100); });
  std::thread own([&] { here = CheckAllReduce(*group[0], 100); });  // rank 2 never comes
  group[0]->Abort("the operator said so");
  own.join();
  peer.join();
  EXPECT_EQ(here, absl::UnavailableError("the operator said so"));
  EXPECT_EQ(there.code(), absl::StatusCode::kUnavailable) << there;
  EXPECT_EQ(group[0]->Barrier(), here);
  EXPECT_EQ(group[1]->Barrier(), there);
}

TEST(GlooGroup, ARankThatEndsFailsTheOthers) {
  Group group = Connect(2);
  ASSERT_FALSE(testing::Test::HasFailure());
  group[1].reset();
  EXPECT_EQ(CheckAllReduce(*group[0], 100).code(), absl::StatusCode::kUnavailable);
}

TEST(GlooGroup, ASlowRankIsATimeout) {
  GlooOptions options;
  options.timeout = absl::Milliseconds(300);
  Group group = Connect(2, options);
  ASSERT_FALSE(testing::Test::HasFailure());
  EXPECT_EQ(CheckAllReduce(*group[0], 100).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CheckAllReduce(*group[1], 100).code(), absl::StatusCode::kUnavailable);
}

TEST(GlooGroup, AnotherSecretIsRefused) {
  Board board(2);
  std::vector<absl::Status> results(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back(
        [&, r] { results[r] = ConnectGloo(r, 2, r == 0 ? "this" : "that", board.ForRank(r)).status(); });
  }
  for (std::thread& t : threads) {
    t.join();
  }
  EXPECT_FALSE(results[0].ok());
  EXPECT_FALSE(results[1].ok());
}

TEST(GlooGroup, AFailedExchangePassesThrough) {
  const auto exchange = [](const std::string&, const std::string&) -> absl::StatusOr<std::vector<std::string>> {
    return absl::NotFoundError("no board");
  };
  EXPECT_EQ(ConnectGloo(0, 2, "s", exchange).status(), absl::NotFoundError("no board"));
}

TEST(GlooGroup, AHostThatIsNotOurs) {
  GlooOptions options;
  options.host = "not.a.host.invalid";
  EXPECT_EQ(ConnectGloo(0, 2, "s", Board(2).ForRank(0), options).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace alphecca::comm

#include "worker/comm/shm.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "tests/unit/worker/comm_checks.h"
#include "worker/comm/solo.h"

namespace alphecca::comm {
namespace {

using testing::HasSubstr;

constexpr int64_t kRegion = 8192;

ShmOptions SmallRegions() {
  ShmOptions options;
  options.region_bytes = kRegion;
  return options;
}

std::string Secret(const std::string& test) {
  return absl::StrCat("comm_shm_test/", test, "/", getpid(), "/", absl::ToUnixNanos(absl::Now()));
}

TEST(Solo, DoesEverything) {
  const auto comm = CreateSolo();
  EXPECT_EQ(comm->size(), 1);
  EXPECT_TRUE(CheckEverything(*comm, kRegion).ok());
  comm->Abort("enough");
  EXPECT_EQ(comm->Barrier(), absl::UnavailableError("enough"));
}

class Threads : public testing::TestWithParam<int> {};

TEST_P(Threads, CollectivesAreExact) {
  const auto group = CreateShmGroup(GetParam(), SmallRegions());
  ASSERT_TRUE(group.ok()) << group.status();
  for (const absl::Status& s : OnAllRanks(*group, [](Communicator& c) { return CheckEverything(c, kRegion); })) {
    EXPECT_TRUE(s.ok()) << s;
  }
}

// The default region is over the size up to which each rank sums for itself, so both ways are taken.
TEST_P(Threads, BothWaysToSumAreExact) {
  const auto group = CreateShmGroup(GetParam());
  ASSERT_TRUE(group.ok()) << group.status();
  for (const absl::Status& s : OnAllRanks(*group, [](Communicator& c) -> absl::Status {
         for (const int64_t count : {16384, 16385, 100003, 300007}) {
           RETURN_IF_ERROR(CheckAllReduce(c, count));
         }
         return absl::OkStatus();
       })) {
    EXPECT_TRUE(s.ok()) << s;
  }
}

TEST_P(Threads, ThousandsOfCallsReuseTheRegions) {
  const auto group = CreateShmGroup(GetParam(), SmallRegions());
  ASSERT_TRUE(group.ok()) << group.status();
  for (const absl::Status& s : OnAllRanks(*group, [](Communicator& c) -> absl::Status {
         for (int i = 0; i < 3000; ++i) {
           RETURN_IF_ERROR(CheckAllReduce(c, i % 67));
           if (i % 3 == 0) {
             RETURN_IF_ERROR(CheckAllGather(c, i % 31, i % 2 == 0));
           }
           if (i % 7 == 0) {
             RETURN_IF_ERROR(CheckAllToAll(c, i % 5));
           }
         }
         return absl::OkStatus();
       })) {
    EXPECT_TRUE(s.ok()) << s;
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Threads, testing::Values(1, 2, 3, 4));

TEST(ThreadGroup, AbortFromAnotherThreadEndsAllWaits) {
  auto group = *CreateShmGroup(3, SmallRegions());
  std::atomic<int> waiting{0};
  std::vector<absl::Status> results(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      ++waiting;
      results[r] = CheckAllReduce(*group[r], 100);  // rank 2 never comes
    });
  }
  while (waiting < 2) {
    std::this_thread::yield();
  }
  group[2]->Abort("the operator said so");
  for (std::thread& t : threads) {
    t.join();
  }
  for (const absl::Status& s : results) {
    EXPECT_EQ(s, absl::UnavailableError("the operator said so"));
  }
  // Broken for good, and the first reason stays.
  group[0]->Abort("something else");
  EXPECT_EQ(group[1]->Barrier(), absl::UnavailableError("the operator said so"));
  EXPECT_EQ(CheckAllGather(*group[2], 10, false), absl::UnavailableError("the operator said so"));
}

TEST(ThreadGroup, ARankThatEndsFailsTheOthersNextCallOnly) {
  auto group = *CreateShmGroup(2, SmallRegions());
  const auto results = OnAllRanks(group, [](Communicator& c) { return CheckAllReduce(c, 5000); });
  EXPECT_TRUE(results[0].ok() && results[1].ok());
  group[0].reset();
  EXPECT_EQ(group[1]->Barrier(), absl::UnavailableError("rank 0 left the group"));
}

TEST(ThreadGroup, ASlowRankIsATimeout) {
  ShmOptions options = SmallRegions();
  options.timeout = absl::Milliseconds(20);
  auto group = *CreateShmGroup(2, options);
  const absl::Status s = CheckAllReduce(*group[0], 5);
  EXPECT_EQ(s.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(s.message()), HasSubstr("AllReduce: rank 0 waited 20ms"));
  EXPECT_EQ(CheckAllReduce(*group[1], 5), s);
}

TEST(ThreadGroup, RanksOutOfStepAreToldSo) {
  auto group = *CreateShmGroup(2, SmallRegions());
  auto results = OnAllRanks(group, [](Communicator& c) { return CheckAllReduce(c, 5 + c.rank()); });
  for (const absl::Status& s : results) {
    EXPECT_FALSE(s.ok());
    EXPECT_THAT(std::string(s.message()), HasSubstr("out of step"));
  }
  group = *CreateShmGroup(2, SmallRegions());
  results =
      OnAllRanks(group, [](Communicator& c) { return c.rank() == 0 ? c.Barrier() : CheckAllGather(c, 8, false); });
  EXPECT_FALSE(results[0].ok());
  EXPECT_FALSE(results[1].ok());
}

TEST(ThreadGroup, AllToAllChecksWhatPeersExpect) {
  auto group = *CreateShmGroup(2, SmallRegions());
  const auto results = OnAllRanks(group, [](Communicator& c) {
    NoStream stream;
    char bytes[16] = {};
    const int64_t send[] = {4, 4};
    const int64_t recv[] = {4, c.rank() == 0 ? 5 : 4};
    char out[16];
    return c.AllToAll(stream, bytes, send, out, recv);
  });
  EXPECT_THAT(std::string(results[0].message()), HasSubstr("rank 1 sends 4 bytes to rank 0, which expects 5"));
}

TEST(ThreadGroup, RowsThatFindNoRoomAreAnError) {
  auto group = CreateShmGroup(2);
  ASSERT_TRUE(group.ok());
  const auto results = OnAllRanks(*group, [](Communicator& comm) {
    NoStream stream;
    std::vector<float> send(4, 1.0F);
    std::vector<float> recv(4);
    std::vector<int32_t> counts = {comm.rank() == 0 ? 0 : 2, 2};
    std::vector<int32_t> received(3);
    const auto tensor = [](void* data, kernels::DType type, int64_t rows, int64_t cols) {
      return kernels::Tensor{.data = data, .type = type, .rows = rows, .cols = cols, .stride = cols};
    };
    return comm.ExchangeRows(stream, {.send = tensor(send.data(), kernels::DType::kF32, 4, 1),
                                      .send_counts = tensor(counts.data(), kernels::DType::kI32, 1, 2),
                                      .recv = tensor(recv.data(), kernels::DType::kF32, 3, 1),
                                      .recv_counts = tensor(received.data(), kernels::DType::kI32, 1, 3)});
  });
  EXPECT_EQ(results[0].code(), absl::StatusCode::kUnavailable) << results[0];  // of no fault of its own
  EXPECT_EQ(results[1].code(), absl::StatusCode::kInternal) << results[1];     // 4 rows for a room of 3
}

TEST(ThreadGroup, OnlyDenseF32IsSummed) {
  auto group = *CreateShmGroup(1, SmallRegions());
  NoStream stream;
  std::vector<float> values(8);
  kernels::Tensor t = Row(values);
  t.stride = 9;
  EXPECT_EQ(group[0]->AllReduce(stream, t).code(), absl::StatusCode::kInternal);
}

TEST(ShmOptions, BadValuesAreNamed) {
  ShmOptions options;
  options.region_bytes = 1000;
  EXPECT_EQ(CreateShmGroup(2, options).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateShmGroup(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateShmGroup(65).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(JoinShm("s", 2, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(JoinShm("", 0, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

// ---- Processes ----

// Forks a rank that joins and runs `body`; its exit status is 0 if that is Ok.
pid_t ForkRank(const std::string& secret, int rank, int size, const std::function<absl::Status(Communicator&)>& body) {
  const pid_t pid = fork();
  if (pid != 0) {
    return pid;
  }
  auto comm = JoinShm(secret, rank, size, SmallRegions());
  const absl::Status status = comm.ok() ? body(**comm) : comm.status();
  if (!status.ok()) {
    std::fprintf(stderr, "rank %d: %s\n", rank, status.ToString().c_str());
  }
  comm = absl::CancelledError();  // leaves the group in order
  _exit(status.ok() ? 0 : 1);
}

int ExitStatus(pid_t pid) {
  int status = 0;
  return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

class Processes : public testing::TestWithParam<int> {};

TEST_P(Processes, CollectivesAreExact) {
  const std::string secret = Secret("exact");
  std::vector<pid_t> pids;
  for (int r = 0; r < GetParam(); ++r) {
    pids.push_back(ForkRank(secret, r, GetParam(), [](Communicator& c) -> absl::Status {
      RETURN_IF_ERROR(CheckEverything(c, kRegion));
      for (int i = 0; i < 1000; ++i) {
        RETURN_IF_ERROR(CheckAllReduce(c, i % 67));
      }
      return absl::OkStatus();
    }));
  }
  for (const pid_t pid : pids) {
    EXPECT_EQ(ExitStatus(pid), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Processes, testing::Values(1, 2, 3, 4));

TEST(ProcessGroup, AKilledPeerEndsTheWait) {
  const std::string secret = Secret("killed");
  // The victim meets the others once, tells so through the pipe, and then never comes again.
  int met[2];
  ASSERT_EQ(pipe(met), 0);
  const pid_t victim = ForkRank(secret, 1, 3, [&](Communicator& c) -> absl::Status {
    RETURN_IF_ERROR(c.Barrier());
    (void)!write(met[1], "x", 1);
    pause();
    return absl::OkStatus();
  });
  const auto outlive = [](Communicator& c) -> absl::Status {
    RETURN_IF_ERROR(c.Barrier());
    const absl::Status s = CheckAllReduce(c, 3000);
    if (s.code() != absl::StatusCode::kUnavailable || !absl::StrContains(s.message(), "rank 1 died")) {
      return absl::UnknownError(absl::StrCat("got ", s.ToString()));
    }
    return absl::OkStatus();
  };
  const pid_t other = ForkRank(secret, 2, 3, outlive);
  const pid_t killer = fork();
  if (killer == 0) {
    char c;
    _exit(read(met[0], &c, 1) == 1 && kill(victim, SIGKILL) == 0 ? 0 : 1);
  }
  auto comm = JoinShm(secret, 0, 3, SmallRegions());
  ASSERT_TRUE(comm.ok()) << comm.status();
  EXPECT_TRUE(outlive(**comm).ok());
  EXPECT_EQ(ExitStatus(killer), 0);
  EXPECT_EQ(ExitStatus(other), 0);
  EXPECT_EQ(ExitStatus(victim), -1);
  close(met[0]);
  close(met[1]);
}

TEST(ProcessGroup, NothingIsLeftByName) {
  const std::string secret = Secret("name");
  const auto segments = [] {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
      count += absl::StrContains(entry.path().string(), "alphecca-") ? 1 : 0;
    }
    return count;
  };
  const int before = segments();
  const pid_t peer = ForkRank(secret, 1, 2, [](Communicator& c) { return c.Barrier(); });
  auto comm = JoinShm(secret, 0, 2, SmallRegions());
  ASSERT_TRUE(comm.ok()) << comm.status();
  EXPECT_TRUE((*comm)->Barrier().ok());
  EXPECT_LE(segments(), before);
  EXPECT_EQ(ExitStatus(peer), 0);
}

TEST(ProcessGroup, APeerThatDoesNotJoinIsNamed) {
  ShmOptions options = SmallRegions();
  options.join_timeout = absl::Milliseconds(30);
  const auto comm = JoinShm(Secret("alone"), 0, 2, options);
  EXPECT_EQ(comm.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(comm.status().message()), HasSubstr("rank 1 to join"));
}

// Two come as rank 0: whichever is second is refused, and the other one's group forms all the same.
TEST(ProcessGroup, ARankJoinsOnce) {
  const std::string secret = Secret("twice");
  std::promise<absl::Status> refused;
  std::atomic<int> joined{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      const auto comm = JoinShm(secret, 0, 2, SmallRegions());
      if (comm.ok()) {
        ++joined;
      } else {
        refused.set_value(comm.status());
      }
    });
  }
  EXPECT_EQ(refused.get_future().get().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(JoinShm(secret, 1, 2, SmallRegions()).ok());
  for (std::thread& t : threads) {
    t.join();
  }
  EXPECT_EQ(joined, 1);
}

TEST(ProcessGroup, RanksMustAgreeOnTheLayout) {
  const std::string secret = Secret("layout");
  ShmOptions larger = SmallRegions();
  larger.region_bytes *= 2;
  std::vector<absl::Status> results(2);
  std::thread other([&] { results[1] = JoinShm(secret, 1, 2, larger).status(); });
  results[0] = JoinShm(secret, 0, 2, SmallRegions()).status();
  other.join();
  // The second to come is told; the first is not left waiting.
  EXPECT_TRUE((results[0].code() == absl::StatusCode::kInvalidArgument) !=
              (results[1].code() == absl::StatusCode::kInvalidArgument));
  EXPECT_FALSE(results[0].ok());
  EXPECT_FALSE(results[1].ok());
}

}  // namespace
}  // namespace alphecca::comm

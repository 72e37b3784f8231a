// All-reduce between the ranks of a group on this machine, beside a memcpy of the same bytes: shared memory between
// threads and between processes, Gloo over loopback between threads. One JSON line a row; microseconds of one call on
// rank 0, calls back to back: the median of all calls and the least median of a round, which says more where other
// work takes the cores away.
//   collectives_bench [ROUNDS]
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "worker/comm/shm.h"
#ifdef ALPHECCA_HAVE_GLOO
#include "worker/comm/gloo.h"
#endif

namespace {

using alphecca::comm::Communicator;
using alphecca::kernels::Stream;
using alphecca::kernels::Tensor;
using Group = std::vector<std::unique_ptr<Communicator>>;
// One call of what is measured; false: it failed.
using Call = std::function<bool()>;

class NoStream : public Stream {};

struct Timing {
  double median = 0;  // of all calls, microseconds
  double best = 0;    // the least median of a round
};

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "collectives_bench: %s\n", why.c_str());
  std::exit(1);
}

// Every rank makes as many calls as every other: rounds and their length are fixed beforehand.
int CallsOfRound(int64_t bytes) {
  return static_cast<int>(std::clamp<int64_t>((int64_t{16} << 20) / bytes, 100, 2000));
}

Timing Measure(int rounds, int64_t bytes, const Call& call) {
  using Clock = std::chrono::steady_clock;
  Timing timing;
  std::vector<double> all;
  for (int round = 0; round <= rounds; ++round) {
    std::vector<double> took;
    for (int i = 0; i < CallsOfRound(bytes); ++i) {
      const Clock::time_point start = Clock::now();
      if (!call()) {
        Die("a collective failed");
      }
      took.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    if (round > 0) {  // the first warms up
      const double median = Median(took);
      timing.best = round == 1 ? median : std::min(timing.best, median);
      all.insert(all.end(), took.begin(), took.end());
    }
  }
  timing.median = Median(std::move(all));
  return timing;
}

Timing AllReduce(Communicator& comm, int rounds, int64_t bytes) {
  NoStream stream;
  std::vector<float> values(static_cast<size_t>(bytes) / sizeof(float));  // zeros, so that no sum grows
  const auto cols = static_cast<int64_t>(values.size());
  const Tensor tensor{.data = values.data(), .rows = 1, .cols = cols, .stride = cols};
  return Measure(rounds, bytes, [&] { return comm.AllReduce(stream, tensor).ok(); });
}

Timing Memcpy(int rounds, int64_t bytes) {
  std::vector<char> from(static_cast<size_t>(bytes), 1);
  std::vector<char> to(from.size());
  return Measure(rounds, bytes, [&] {
    std::memcpy(to.data(), from.data(), from.size());
    asm volatile("" : : "r"(to.data()) : "memory");  // the copy counts as read
    return true;
  });
}

Timing OnThreads(const Group& group, int rounds, int64_t bytes) {
  Timing timing;
  std::vector<std::thread> threads;
  for (size_t r = 1; r < group.size(); ++r) {
    threads.emplace_back([&, r] { AllReduce(*group[r], rounds, bytes); });
  }
  timing = AllReduce(*group[0], rounds, bytes);
  for (std::thread& thread : threads) {
    thread.join();
  }
  return timing;
}

// Forks: only while this process has one thread.
Timing OnProcesses(int ranks, int rounds, int64_t bytes) {
  const std::string secret = absl::StrCat("collectives_bench/", getpid(), "/", ranks, "/", bytes);
  const auto run = [&](int rank) {
    auto comm = alphecca::comm::JoinShm(secret, rank, ranks);
    if (!comm.ok()) {
      Die(std::string(comm.status().message()));
    }
    return AllReduce(**comm, rounds, bytes);
  };
  std::vector<pid_t> children;
  for (int rank = 1; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      run(rank);
      std::_Exit(0);
    }
    children.push_back(child);
  }
  const Timing timing = run(0);
  for (const pid_t child : children) {
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
      Die("a rank's process failed");
    }
  }
  return timing;
}

#ifdef ALPHECCA_HAVE_GLOO
Group ConnectGlooGroup(int ranks) {
  absl::Mutex mutex;
  std::map<std::string, std::map<int, std::string>> values;
  const auto exchange_of = [&](int rank) {
    return [&, rank](const std::string& key, const std::string& value) -> absl::StatusOr<std::vector<std::string>> {
      const absl::MutexLock lock(&mutex);
      std::map<int, std::string>& of_key = values[key];
      of_key[rank] = value;
      const auto complete = [&] { return static_cast<int>(of_key.size()) == ranks; };
      mutex.Await(absl::Condition(&complete));
      std::vector<std::string> all;
      all.reserve(of_key.size());
      for (const auto& [r, v] : of_key) {
        all.push_back(v);
      }
      return all;
    };
  };
  Group group(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  threads.reserve(group.size());
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      auto comm = alphecca::comm::ConnectGloo(rank, ranks, "collectives_bench", exchange_of(rank));
      if (!comm.ok()) {
        Die(std::string(comm.status().message()));
      }
      group[static_cast<size_t>(rank)] = *std::move(comm);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return group;
}
#endif

void Print(const char* what, const char* between, int ranks, int64_t bytes, const Timing& timing) {
  std::printf(
      "{\"what\": \"%s\", \"between\": \"%s\", \"ranks\": %d, \"bytes\": %lld, \"median_us\": %.2f, "
      "\"best_round_us\": %.2f}\n",
      what, between, ranks, static_cast<long long>(bytes), timing.median, timing.best);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 10;
  if (rounds < 1) {
    Die("ROUNDS must be 1 or more");
  }
  constexpr int64_t kSizes[] = {8 << 10, 64 << 10, 1 << 20};
  for (const int64_t bytes : kSizes) {
    Print("memcpy", "none", 1, bytes, Memcpy(rounds, bytes));
  }
  for (const int ranks : {2, 4}) {
    for (const int64_t bytes : kSizes) {
      Print("shm", "processes", ranks, bytes, OnProcesses(ranks, rounds, bytes));
    }
  }
  for (const int ranks : {2, 4}) {
    auto shm = alphecca::comm::CreateShmGroup(ranks);
    if (!shm.ok()) {
      Die(std::string(shm.status().message()));
    }
    for (const int64_t bytes : kSizes) {
      Print("shm", "threads", ranks, bytes, OnThreads(*shm, rounds, bytes));
    }
  }
#ifdef ALPHECCA_HAVE_GLOO
  for (const int ranks : {2, 4}) {
    const Group gloo = ConnectGlooGroup(ranks);
    for (const int64_t bytes : kSizes) {
      Print("gloo", "threads", ranks, bytes, OnThreads(gloo, rounds, bytes));
    }
  }
#endif
  return 0;
}

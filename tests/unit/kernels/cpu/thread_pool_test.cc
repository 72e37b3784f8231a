#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/cpus.h"

namespace alphecca::kernels::cpu {
namespace {

TEST(ThreadPoolTest, EachItemRunsOnce) {
  for (const int threads : {1, 2, 4, 9}) {
    ThreadPool pool(threads);
    for (const int64_t items : {0, 1, 2, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 2000}) {
        std::vector<int> runs(static_cast<size_t>(items), 0);
        pool.Run(items, grain, [&](int64_t begin, int64_t end, int thread) {
          EXPECT_GE(thread, 0);
          EXPECT_LT(thread, pool.threads());
          for (int64_t i = begin; i < end; ++i) {
            ++runs[static_cast<size_t>(i)];
          }
        });
        EXPECT_EQ(runs, std::vector<int>(static_cast<size_t>(items), 1));
      }
    }
  }
}

// Plain, unsynchronised data goes from job to job: under ThreadSanitizer this shows that a job happens after the one
// before and before the one that follows.
TEST(ThreadPoolTest, JobsSeeWhatEarlierJobsWrote) {
  ThreadPool pool(4);
  std::vector<int64_t> values(256, 1);
  for (int round = 0; round < 2000; ++round) {
    const int64_t expected = values[0];
    pool.Run(256, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        values[static_cast<size_t>(i)] += values[static_cast<size_t>(i)] == expected ? 1 : 1000000;
      }
    });
  }
  EXPECT_EQ(values, std::vector<int64_t>(256, 2001));
}

// One piece throws, whichever thread it falls to: of two that throw at once, the second ends the process before the
// first has said why.
TEST(ThreadPoolDeathTest, WhatAPieceThrowsEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadPool pool(2);
        std::atomic<bool> thrown = false;
        try {
          pool.Run(64, 1, [&thrown](int64_t, int64_t, int) {
            if (!thrown.exchange(true)) {
              throw std::runtime_error("a piece");
            }
          });
        } catch (const std::exception&) {
          std::_Exit(0);
        }
      },
      "a piece");
}

// Each thread has its own place for scratch: two pieces that run at once never share it.
TEST(ThreadPoolTest, ThreadNumbersAreNotShared) {
  ThreadPool pool(4);
  std::vector<int64_t> own(4, 0);
  for (int round = 0; round < 500; ++round) {
    pool.Run(64, 1, [&](int64_t begin, int64_t end, int thread) { own[static_cast<size_t>(thread)] += end - begin; });
  }
  EXPECT_EQ(own[0] + own[1] + own[2] + own[3], 500 * 64);
}

TEST(ThreadPoolTest, PoolsWorkSideBySide) {
  std::vector<std::thread> ranks;
  std::vector<int64_t> sums(4, 0);
  for (size_t rank = 0; rank < 4; ++rank) {
    ranks.emplace_back([&sums, rank] {
      ThreadPool pool(3);
      std::vector<int64_t> values(100, 0);
      for (int round = 0; round < 200; ++round) {
        pool.Run(100, 5, [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) {
            ++values[static_cast<size_t>(i)];
          }
        });
      }
      for (const int64_t v : values) {
        sums[rank] += v;
      }
    });
  }
  for (std::thread& rank : ranks) {
    rank.join();
  }
  EXPECT_EQ(sums, std::vector<int64_t>(4, 100 * 200));
}

// Where each thread may run while a job runs, by thread. Each of `threads` items waits for all to have begun, so that
// every thread has one.
std::vector<std::vector<int>> Places(ThreadPool& pool) {
  std::vector<std::vector<int>> places(static_cast<size_t>(pool.threads()));
  std::atomic<int> begun = 0;
  pool.Run(pool.threads(), 1, [&](int64_t, int64_t, int thread) {
    places[static_cast<size_t>(thread)] = AllowedCpus();
    ++begun;
    while (begun < pool.threads()) {
      std::this_thread::yield();
    }
  });
  return places;
}

TEST(ThreadPoolTest, PinsItsWorkersAndNotItsCaller) {
  const std::vector<int> before = AllowedCpus();
  ASSERT_FALSE(before.empty());
  std::vector<int> cpus;
  for (size_t i = 0; i < 3; ++i) {
    cpus.push_back(before[i % before.size()]);
  }
  ThreadPool pool(3, cpus);
  ASSERT_EQ(pool.threads(), 3);
  EXPECT_EQ(Places(pool), (std::vector<std::vector<int>>{before, {cpus[1]}, {cpus[2]}}));
  EXPECT_EQ(AllowedCpus(), before);
  ThreadPool free(3);
  EXPECT_EQ(Places(free), (std::vector<std::vector<int>>{before, before, before}));
}

// Beyond the largest CPU of any machine: as if the CPU had left the process's set.
TEST(ThreadPoolTest, WorksWhereItMayNotPin) {
  const std::vector<int> none = {CPU_SETSIZE - 1, CPU_SETSIZE - 1};
  ThreadPool pool(2, none);
  EXPECT_EQ(Places(pool)[1], AllowedCpus());
}

}  // namespace
}  // namespace alphecca::kernels::cpu

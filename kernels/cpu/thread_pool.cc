#include "kernels/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <system_error>

namespace alphecca::kernels::cpu {
namespace {

using Clock = std::chrono::steady_clock;

// Ranks may share cores: longer spins would take time from the thread that is waited for.
constexpr std::chrono::microseconds kBusySpin(5);
constexpr std::chrono::microseconds kSpin(40);

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins, then yields, until done() or the time is over. Returns done().
template <typename Done>
bool Spin(Done done) {
  const Clock::time_point begin = Clock::now();
  while (true) {
    for (int i = 0; i < 32; ++i) {
      if (done()) {
        return true;
      }
      Pause();
    }
    const auto spent = Clock::now() - begin;
    if (spent > kSpin) {
      return done();
    }
    if (spent > kBusySpin) {
      sched_yield();
    }
  }
}

// A refusal (the CPU left the process's set) costs speed only.
void Pin(std::thread& thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  (void)pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::span<const int> cpus) {
  workers_.reserve(static_cast<size_t>(std::max(threads - 1, 0)));
  try {
    for (int i = 1; i < threads; ++i) {
      workers_.emplace_back([this, i] { WorkerLoop(i); });
      if (static_cast<size_t>(i) < cpus.size()) {
        Pin(workers_.back(), cpus[static_cast<size_t>(i)]);
      }
    }
  } catch (const std::system_error&) {
    // Fewer threads are slower, not wrong.
  }
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  {
    const std::lock_guard lock(mutex_);
    number_ += 1;
  }
  job_given_.notify_all();
  for (std::thread& worker : workers_) {
    worker.join();
  }
}

void ThreadPool::RunJob(const Job& job) {
  job_ = job;
  next_.store(0, std::memory_order_relaxed);
  open_ = true;
  number_ += 1;
  if (sleepers_ > 0) {
    { const std::lock_guard lock(mutex_); }
    job_given_.notify_all();
  }
  Work(job, 0);
  open_ = false;
  const auto all_left = [this] { return active_ == 0; };
  if (!Spin(all_left)) {
    std::unique_lock lock(mutex_);
    caller_waits_ = true;
    job_left_.wait(lock, all_left);
    caller_waits_ = false;
  }
}

void ThreadPool::Work(const Job& job, int thread) noexcept {
  while (true) {
    const int64_t begin = next_.fetch_add(job.grain, std::memory_order_relaxed);
    if (begin >= job.items) {
      return;
    }
    job.call(job.context, begin, std::min(begin + job.grain, job.items), thread);
  }
}

uint32_t ThreadPool::AwaitJob(uint32_t seen) {
  const auto given = [this, seen] { return number_ != seen; };
  if (!Spin(given)) {
    std::unique_lock lock(mutex_);
    sleepers_ += 1;
    job_given_.wait(lock, given);
    sleepers_ -= 1;
  }
  return number_;
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    seen = AwaitJob(seen);
    if (stop_) {
      return;
    }
    active_ += 1;
    if (open_) {
      Work(job_, thread);
    }
    if (active_.fetch_sub(1) == 1 && caller_waits_) {
      { const std::lock_guard lock(mutex_); }
      job_left_.notify_one();
    }
  }
}

}  // namespace alphecca::kernels::cpu

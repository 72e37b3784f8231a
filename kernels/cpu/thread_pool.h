// The threads of one backend. A job is a range of items that the caller and whichever workers are awake take in turn;
// the caller waits only for workers that have begun, so one that the system does not run holds nothing up.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace alphecca::kernels::cpu {

class ThreadPool {
 public:
  // `threads` >= 1, with the caller. Workers that the system refuses are done without. With `cpus`, one a thread,
  // worker i stays on cpus[i], as far as the system allows. The caller (thread 0) stays where its mask lets it be: a
  // pool does not own it, and threads that it starts would inherit its one CPU. It finds cpus[0] by itself, since that
  // is the one without a worker.
  explicit ThreadPool(int threads, std::span<const int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(begin, end, thread) for pieces of [0, items), each once, thread in [0, threads()); returns when all are
  // done. Pieces have at most `grain` items, but without other threads there is but one. By one thread at a time, not
  // from within f. Where threads share the pieces, what f throws ends the process: others are in the midst of theirs.
  template <typename Function>
  void Run(int64_t items, int64_t grain, Function&& f) {
    if (items <= grain || workers_.empty()) {
      if (items > 0) {
        f(int64_t{0}, items, 0);
      }
      return;
    }
    RunJob({[](void* context, int64_t begin, int64_t end, int thread) {
              (*static_cast<std::remove_reference_t<Function>*>(context))(begin, end, thread);
            },
            &f, items, grain});
  }

 private:
  struct Job {
    void (*call)(void* context, int64_t begin, int64_t end, int thread) = nullptr;
    void* context = nullptr;
    int64_t items = 0;
    int64_t grain = 1;
  };

  void RunJob(const Job& job);
  void Work(const Job& job, int thread) noexcept;
  void WorkerLoop(int thread);
  // Returns when job number `seen` is no longer the last, spinning shortly before it sleeps.
  uint32_t AwaitJob(uint32_t seen);

  Job job_;  // written while open_ is false and active_ is 0
  std::atomic<int64_t> next_{0};
  // A worker adds itself to active_, then looks whether the job is open; the caller closes the job, then waits for
  // active_ to be 0. In the single order of these four, either the worker sees a closed job or the caller a worker.
  std::atomic<bool> open_{false};
  std::atomic<int> active_{0};
  std::atomic<uint32_t> number_{0};  // of the last job
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_waits_{false};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // of the two sleeps; guards no data
  std::condition_variable job_given_;
  std::condition_variable job_left_;
  std::vector<std::thread> workers_;
};

}  // namespace alphecca::kernels::cpu

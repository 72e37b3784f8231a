// Threads for work on texts (tokenizing up to 8 MiB takes a while), so that RPC threads never do it.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace alphecca::coordinator {

// Thread-safe. The destructor runs what is queued, then joins.
class TextPool {
 public:
  TextPool(int threads, size_t max_queued);
  ~TextPool() ABSL_LOCKS_EXCLUDED(mutex_);
  TextPool(const TextPool&) = delete;
  TextPool& operator=(const TextPool&) = delete;

  // False: the queue is full, `work` was not taken.
  bool TryRun(std::function<void()> work) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Loop() ABSL_LOCKS_EXCLUDED(mutex_);

  const size_t max_queued_;
  Mutex mutex_;
  CondVar wake_;  // work came, or the end
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace alphecca::coordinator

#include "coordinator/request/text_pool.h"

#include <utility>

namespace alphecca::coordinator {

TextPool::TextPool(int threads, size_t max_queued) : max_queued_(max_queued) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { Loop(); });
  }
}

TextPool::~TextPool() {
  {
    const absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

bool TextPool::TryRun(std::function<void()> work) {
  const absl::MutexLock lock(&mutex_);
  if (queue_.size() >= max_queued_ || stop_) {
    return false;
  }
  queue_.push_back(std::move(work));
  return true;
}

void TextPool::Loop() {
  while (true) {
    std::function<void()> work;
    {
      const absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || !queue_.empty(); };
      mutex_.Await(absl::Condition(&ready));
      if (queue_.empty()) {
        return;
      }
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

}  // namespace alphecca::coordinator

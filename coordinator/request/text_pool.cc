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
    const MutexLock lock(mutex_);
    stop_ = true;
  }
  wake_.NotifyAll();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

bool TextPool::TryRun(std::function<void()> work) {
  {
    const MutexLock lock(mutex_);
    if (queue_.size() >= max_queued_ || stop_) {
      return false;
    }
    queue_.push_back(std::move(work));
  }
  wake_.NotifyOne();
  return true;
}

void TextPool::Loop() {
  while (true) {
    std::function<void()> work;
    {
      const MutexLock lock(mutex_);
      while (!stop_ && queue_.empty()) {
        wake_.Wait(mutex_);
      }
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

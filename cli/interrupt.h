// Ctrl-C and SIGTERM as events of a thread, not as signal handlers.
#pragma once

#include <csignal>
#include <functional>
#include <thread>

namespace alphecca::cli {

// Blocks SIGINT and SIGTERM in this and all later threads. Call first thing in main.
void BlockInterrupts();

// While it lives, the first SIGINT or SIGTERM calls `on_interrupt` once, on a thread of its own; the second one ends
// the process.
class Interrupt {
 public:
  explicit Interrupt(std::function<void()> on_interrupt);
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

 private:
  int wake_ = -1;  // eventfd: ends the thread
  std::thread thread_;
};

// Waits for SIGINT or SIGTERM, or until `done` says so (asked about every 200 ms). True if a signal came.
bool WaitForInterrupt(const std::function<bool()>& done);

}  // namespace alphecca::cli

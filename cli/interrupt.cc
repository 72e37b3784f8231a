#include "cli/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <ctime>
#include <utility>

namespace alphecca::cli {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void BlockInterrupts() {
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Interrupt::Interrupt(std::function<void()> on_interrupt) : wake_(eventfd(0, EFD_CLOEXEC)) {
  thread_ = std::thread([this, on_interrupt = std::move(on_interrupt)] {
    const sigset_t set = InterruptSet();
    const int signals = signalfd(-1, &set, SFD_CLOEXEC);
    pollfd fds[2] = {{.fd = signals, .events = POLLIN, .revents = 0}, {.fd = wake_, .events = POLLIN, .revents = 0}};
    for (int seen = 0;;) {
      if (poll(fds, 2, -1) < 0) {
        continue;
      }
      if ((fds[1].revents & POLLIN) != 0) {
        break;
      }
      signalfd_siginfo info;
      if (read(signals, &info, sizeof(info)) != sizeof(info)) {
        continue;
      }
      if (++seen == 1) {
        on_interrupt();
      } else {
        _exit(130);
      }
    }
    close(signals);
  });
}

Interrupt::~Interrupt() {
  const uint64_t one = 1;
  (void)!write(wake_, &one, sizeof(one));
  thread_.join();
  close(wake_);
}

bool WaitForInterrupt(const std::function<bool()>& done) {
  const sigset_t set = InterruptSet();
  const timespec tick = {.tv_sec = 0, .tv_nsec = 200'000'000};
  while (!done()) {
    if (sigtimedwait(&set, nullptr, &tick) > 0) {
      return true;
    }
  }
  return false;
}

}  // namespace alphecca::cli

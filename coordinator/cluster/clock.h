// Time for leases and backoffs: it never jumps when someone sets the clock.
#pragma once

#include <chrono>

#include "absl/time/time.h"

namespace alphecca::coordinator {

// Seconds since an arbitrary start, as an absl::Time; only differences mean anything.
inline absl::Time SteadyNow() {
  return absl::FromUnixNanos(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

}  // namespace alphecca::coordinator

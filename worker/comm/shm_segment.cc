#include "worker/comm/shm_segment.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "worker/comm/futex.h"

namespace alphecca::comm {
namespace {

constexpr uint32_t kAborted = 0x80000000U;
constexpr absl::Duration kLivenessInterval = absl::Milliseconds(100);

constexpr int64_t HeaderBytes() {
  return (static_cast<int64_t>(sizeof(ShmHeader)) + 4095) / 4096 * 4096;
}

uint32_t Round(uint32_t generation) {
  return generation & ~kAborted;
}

}  // namespace

int64_t ShmSegment::Bytes(int size, const ShmOptions& options) {
  return HeaderBytes() + (int64_t{2} * size + 1) * options.region_bytes;
}

ShmSegment::ShmSegment(std::shared_ptr<void> owner, void* base, int fd, int rank, int size, const ShmOptions& options)
    : owner_(std::move(owner)),
      header_(static_cast<ShmHeader*>(base)),
      regions_(static_cast<std::byte*>(base) + HeaderBytes()),
      fd_(fd),
      rank_(rank),
      size_(size),
      region_bytes_(options.region_bytes),
      spin_(options.spin) {
  if (spin_ < absl::ZeroDuration()) {
    const bool own_core = static_cast<int>(std::thread::hardware_concurrency()) >= size;
    spin_ = own_core ? absl::Microseconds(50) : absl::Microseconds(2);
  }
}

ShmSegment::~ShmSegment() {
  Abort(absl::StrCat("rank ", rank_, " left the group"));
  if (fd_ >= 0) {
    close(fd_);  // drops this rank's lock
  }
}

absl::Status ShmSegment::Meet(const char* what, absl::Duration timeout, const std::function<bool()>& give_up) {
  const uint32_t generation = header_->generation.load(std::memory_order_acquire);
  if ((generation & kAborted) != 0) {
    return BrokenStatus();
  }
  const int cpu = sched_getcpu();
  header_->cpus[rank_].store(cpu + 1, std::memory_order_relaxed);
  if (header_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size_)) {
    // No one arrives for the next round before the generation moves on: the reset cannot be overtaken.
    header_->arrived.store(0, std::memory_order_relaxed);
    uint32_t seen = generation;
    // Sequentially consistent with Sleep: either this sees the sleeper, or the sleeper sees the new generation.
    while (!header_->generation.compare_exchange_weak(seen, Round(seen + 1) | (seen & kAborted),
                                                      std::memory_order_seq_cst)) {
    }
    if (header_->sleepers.load(std::memory_order_seq_cst) > 0) {
      FutexWakeAll(header_->generation);
    }
    return absl::OkStatus();
  }
  if (SharesCpu(cpu)) {
    return Sleep(generation, what, timeout, give_up);
  }
  const int64_t spin_until = absl::GetCurrentTimeNanos() + absl::ToInt64Nanoseconds(spin_);
  do {
    for (int i = 0; i < 32; ++i) {
      if (header_->generation.load(std::memory_order_acquire) != generation) {
        return Sleep(generation, what, timeout, give_up);  // returns at once
      }
      CpuRelax();
    }
  } while (absl::GetCurrentTimeNanos() < spin_until);
  return Sleep(generation, what, timeout, give_up);
}

absl::Status ShmSegment::Sleep(uint32_t round, const char* what, absl::Duration timeout,
                               const std::function<bool()>& give_up) {
  const absl::Time deadline = absl::Now() + timeout;
  // Past the spin, the loop below counts as a sleeper for as long as it may call FutexWait.
  struct Count {
    std::atomic<uint32_t>& sleepers;
    explicit Count(std::atomic<uint32_t>& s) : sleepers(s) { sleepers.fetch_add(1, std::memory_order_seq_cst); }
    ~Count() { sleepers.fetch_sub(1, std::memory_order_relaxed); }
  };
  uint32_t seen = header_->generation.load(std::memory_order_acquire);
  if (Round(seen) != round) {
    return absl::OkStatus();
  }
  const Count count(header_->sleepers);
  while (true) {
    seen = header_->generation.load(std::memory_order_seq_cst);
    if (Round(seen) != round) {
      return absl::OkStatus();  // even if aborted since: this round was complete
    }
    if ((seen & kAborted) != 0) {
      return BrokenStatus();
    }
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      const std::string missing = Missing();
      Abort(absl::StrCat(what, ": rank ", rank_, " waited ", absl::FormatDuration(timeout), " for ",
                         missing.empty() ? "the other ranks" : missing));
      continue;
    }
    FutexWait(header_->generation, seen, std::min(left, kLivenessInterval));
    if (header_->generation.load(std::memory_order_acquire) != seen) {
      continue;
    }
    // A rank that died after this round was complete has moved the generation on: looked at again before giving up.
    const int dead = FindDead();
    if (dead >= 0 && header_->generation.load(std::memory_order_acquire) == seen) {
      Abort(absl::StrCat(what, ": rank ", dead, " died"));
    } else if (give_up != nullptr && give_up()) {
      Abort(absl::StrCat(what, ": rank ", rank_, " gave up"));
    }
  }
}

bool ShmSegment::SharesCpu(int cpu) const {
  for (int r = 0; r < size_; ++r) {
    if (r != rank_ && header_->cpus[r].load(std::memory_order_relaxed) == cpu + 1) {
      return true;
    }
  }
  return false;
}

int ShmSegment::FindDead() const {
  if (fd_ < 0) {
    return -1;
  }
  const uint64_t joined = header_->joined.load(std::memory_order_acquire);
  for (int r = 0; r < size_; ++r) {
    if (r == rank_ || (joined >> r & 1) == 0) {
      continue;
    }
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = r;
    lock.l_len = 1;
    if (fcntl(fd_, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK) {
      return r;
    }
  }
  return -1;
}

std::string ShmSegment::Missing() const {
  if (fd_ < 0) {
    return "";
  }
  std::string ranks;
  const uint64_t joined = header_->joined.load(std::memory_order_acquire);
  for (int r = 0; r < size_; ++r) {
    if ((joined >> r & 1) == 0) {
      absl::StrAppend(&ranks, ranks.empty() ? "rank " : ", ", r);
    }
  }
  return ranks.empty() ? ranks : absl::StrCat(ranks, " to join");
}

void ShmSegment::Abort(const std::string& reason) {
  uint32_t none = 0;
  if (header_->reason_state.compare_exchange_strong(none, 1, std::memory_order_acq_rel)) {
    const size_t n = std::min(reason.size(), sizeof(header_->reason) - 1);
    std::memcpy(header_->reason, reason.data(), n);
    header_->reason[n] = '\0';
    header_->reason_state.store(2, std::memory_order_release);
  }
  header_->generation.fetch_or(kAborted, std::memory_order_seq_cst);
  FutexWakeAll(header_->generation);
}

absl::Status ShmSegment::BrokenStatus() const {
  if ((header_->generation.load(std::memory_order_acquire) & kAborted) == 0) {
    return absl::OkStatus();
  }
  // State 1: another rank is writing it this moment, or died doing so.
  if (header_->reason_state.load(std::memory_order_acquire) != 2) {
    return absl::UnavailableError("the group was aborted");
  }
  return absl::UnavailableError(std::string(header_->reason, strnlen(header_->reason, sizeof(header_->reason))));
}

}  // namespace alphecca::comm

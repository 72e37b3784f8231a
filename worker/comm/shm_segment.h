// The memory that the ranks of a shared-memory group have in common, and the barrier in it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/shm.h"

namespace alphecca::comm {

// What a rank says of the collective it is in, so that ranks out of step are told apart from a slow one.
struct ShmCall {
  uint32_t op = 0;
  uint32_t pieces = 0;              // AllToAll: how many the rank needs
  int64_t bytes = 0;                // of the whole collective
  int64_t to_rank[kMaxShmRanks]{};  // AllToAll: bytes to each
};

// All zero is the state before anyone came, so that no one has to come first. Only lock-free atomics and plain data.
struct ShmHeader {
  std::atomic<uint64_t> identity;  // of secret and layout; 0: not set yet
  std::atomic<uint64_t> joined;    // bit r: rank r is there
  alignas(64) std::atomic<uint32_t> arrived;
  // Rounds of the barrier so far, in 31 bits; the top bit: aborted. The futex word.
  alignas(64) std::atomic<uint32_t> generation;
  std::atomic<uint32_t> sleepers;
  std::atomic<uint32_t> reason_state;  // 0: none, 1: being written, 2: there
  char reason[512];
  // The CPU that each rank last arrived on, plus 1; 0: not yet. A hint.
  std::atomic<int32_t> cpus[kMaxShmRanks];
  alignas(64) ShmCall calls[2][kMaxShmRanks];
};

// One rank's view. Not thread-safe but for Abort and BrokenStatus.
class ShmSegment {
 public:
  // The size of a segment, bytes.
  static int64_t Bytes(int size, const ShmOptions& options);

  // `base`: Bytes() of memory, kept alive by `owner`. `fd`: the file whose byte r rank r holds locked; -1: threads.
  ShmSegment(std::shared_ptr<void> owner, void* base, int fd, int rank, int size, const ShmOptions& options);
  ~ShmSegment();
  ShmSegment(const ShmSegment&) = delete;
  ShmSegment& operator=(const ShmSegment&) = delete;

  ShmHeader& header() { return *header_; }
  ShmCall& call(int parity, int rank) { return header_->calls[parity][rank]; }
  std::byte* input(int parity, int rank) { return regions_ + (parity * size_ + rank) * region_bytes_; }
  std::byte* sums() { return regions_ + int64_t{2} * size_ * region_bytes_; }

  // Returns when all ranks have called it. All that a rank wrote before is visible to all after.
  // Unavailable: aborted, a rank died, or `timeout` passed (which aborts); `what` names the caller for the message.
  // `give_up` (may be null) is asked now and then: true aborts.
  absl::Status Meet(const char* what, absl::Duration timeout, const std::function<bool()>& give_up = nullptr);

  // Ends all waits of all ranks, now and later. The first reason stays.
  void Abort(const std::string& reason);
  // Unavailable with the reason, if aborted.
  absl::Status BrokenStatus() const;

 private:
  absl::Status Sleep(uint32_t round, const char* what, absl::Duration timeout, const std::function<bool()>& give_up);
  // Whether another rank was last seen on this CPU: it cannot come while this one spins there.
  bool SharesCpu(int cpu) const;
  // A rank that has joined and is gone, or -1.
  int FindDead() const;
  // "ranks 1, 3", those of this host that have not joined; empty if all have.
  std::string Missing() const;

  std::shared_ptr<void> owner_;
  ShmHeader* header_;
  std::byte* regions_;
  int fd_;
  int rank_;
  int size_;
  int64_t region_bytes_;
  absl::Duration spin_;
};

}  // namespace alphecca::comm

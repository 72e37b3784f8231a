// Ranks on one host, over shared memory: threads of one process or processes.
//
// The group shares one segment: a header with a barrier, and for each rank two regions that its collectives write in
// turn. A collective writes its input to the rank's region, meets the others once, and reads theirs; a large sum meets
// twice: each rank sums one part for all. Inputs larger than a region go in pieces.
//
// Waits spin for a moment, unless another rank was last seen on the same CPU and so cannot come meanwhile, and then
// sleep on a futex. Each process holds a lock on one byte of the segment's file, which the kernel drops when it dies in
// whatever way: sleepers look ten times a second.
//
// For backends whose ops are done when they return and whose memory is the host's ("ref", "cpu"): call order is
// stream order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/communicator.h"

namespace alphecca::comm {

inline constexpr int kMaxShmRanks = 64;

struct ShmOptions {
  // Bytes of one rank's region, a multiple of 64; the segment has 2 * ranks + 1 of them. The same on every rank.
  int64_t region_bytes = int64_t{1} << 20;
  // How long a collective waits for the other ranks; past it the group is aborted.
  absl::Duration timeout = absl::Seconds(30);
  // The same for Barrier(), which ranks reach at different times (after loading their shards).
  absl::Duration barrier_timeout = absl::Minutes(15);
  // How long JoinShm waits for the other ranks.
  absl::Duration join_timeout = absl::Seconds(60);
  // Asked ten times a second while JoinShm waits: true ends the wait with Unavailable. May be null.
  std::function<bool()> give_up;
  // Busy wait before sleeping. Negative: 50 us where every rank can have a core of its own, else 2 us.
  absl::Duration spin = absl::Microseconds(-1);

  // InvalidArgument: names the field, its value and what would be right.
  absl::Status Validate() const;
};

// A group whose ranks are threads of this process: [r] is rank r's. They may end in any order; a collective after one
// has ended fails on the others.
absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> CreateShmGroup(int size, const ShmOptions& options = {});

// Joins, as `rank` of `size`, the processes of this user and host that give the same secret; returns when all are
// there. The secret names the segment (mode 0600, not to be seen by name once all have joined), so it must not be used
// twice. InvalidArgument; ResourceExhausted: no shared memory left; AlreadyExists: the rank is taken; Unavailable: a
// rank did not come in time, or died.
absl::StatusOr<std::unique_ptr<Communicator>> JoinShm(const std::string& secret, int rank, int size,
                                                      const ShmOptions& options = {});

}  // namespace alphecca::comm

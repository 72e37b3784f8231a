// Collectives between the ranks of a shard group, in stream order with the backend's ops.
//
// Every rank calls the same collectives in the same order with the same sizes. Sums are taken in rank order in F32, so
// the result is the same bits on every rank and every run. A dead or aborted peer ends a wait within a second;
// after any error the communicator is broken for good and every call returns that error.
//
// Thread rule: one thread at a time, except Abort(), which any thread may call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace alphecca::comm {

// Rows of values that go from each rank to each. How many is a value of the device: nobody on the host knows it.
struct RowExchange {
  kernels::Tensor send;         // [rows, n], dense: first those for rank 0, then for rank 1, ...
  kernels::Tensor send_counts;  // [1, size()] i32: rows for each rank
  kernels::Tensor recv;         // [room, n], dense: gets those from rank 0, then from rank 1, ...
  kernels::Tensor recv_counts;  // [1, size() + 1] i32, out: rows from each rank, then their sum
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string Kind() const = 0;  // part of the fingerprint: "solo", "shm", "gloo", "nccl"

  // data[i] = sum over ranks, in rank order. `data` [rows, cols] is in the backend's memory, dense (stride == cols).
  virtual absl::Status AllReduce(kernels::Stream& stream, const kernels::Tensor& data) = 0;

  // recv[r] = rank r's send, for r in rank order. recv holds size() * bytes bytes; send may be recv + rank() * bytes.
  virtual absl::Status AllGather(kernels::Stream& stream, const void* send, int64_t bytes, void* recv) = 0;

  // send holds one run of bytes for each rank, in rank order (send_bytes[j] for rank j); recv gets theirs likewise.
  virtual absl::Status AllToAll(kernels::Stream& stream, const void* send, std::span<const int64_t> send_bytes,
                                void* recv, std::span<const int64_t> recv_bytes) = 0;

  // Exchanges rows. Internal: counts that are negative, or more rows than `send` or `recv` has room for.
  // This one reads the counts where they lie: for backends whose memory is the host's.
  virtual absl::Status ExchangeRows(kernels::Stream& stream, const RowExchange& exchange);

  virtual absl::Status Barrier() = 0;

  // Ends all waits, here and (as far as it can reach them) at the peers, with Unavailable and `reason`.
  virtual void Abort(const std::string& reason) = 0;
};

}  // namespace alphecca::comm

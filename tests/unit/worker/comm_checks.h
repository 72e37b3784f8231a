// What every communicator must do, as one function that a rank runs: in a thread or in a forked process.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/comm/communicator.h"

namespace alphecca::comm {

class NoStream : public kernels::Stream {};

// Values of such different sizes that a sum in any other order has other bits.
inline float Value(int rank, int64_t i) {
  uint32_t h = static_cast<uint32_t>(i) * 2654435761U + static_cast<uint32_t>(rank) * 40503U + 17U;
  h ^= h >> 15;
  h *= 2246822519U;
  h ^= h >> 13;
  const float scale[] = {1e-6F, 1.0F, 3e3F, 1e7F};
  return (static_cast<float>(h % 20001U) - 10000.0F) * scale[(h >> 20) % 4];
}

inline kernels::Tensor Row(std::vector<float>& values) {
  kernels::Tensor t;
  t.data = values.data();
  t.rows = 1;
  t.cols = t.stride = static_cast<int64_t>(values.size());
  return t;
}

inline absl::Status CheckAllReduce(Communicator& comm, int64_t count) {
  NoStream stream;
  std::vector<float> values(static_cast<size_t>(count));
  std::vector<float> expected(values.size());
  for (int64_t i = 0; i < count; ++i) {
    values[i] = Value(comm.rank(), i);
    expected[i] = Value(0, i);
    for (int r = 1; r < comm.size(); ++r) {
      expected[i] += Value(r, i);
    }
  }
  RETURN_IF_ERROR(comm.AllReduce(stream, Row(values)));
  for (int64_t i = 0; i < count; ++i) {
    if (std::memcmp(&values[i], &expected[i], sizeof(float)) != 0) {
      return absl::DataLossError(absl::StrCat("sum of ", count, ": [", i, "] is ", values[i], ", not ", expected[i]));
    }
  }
  return absl::OkStatus();
}

inline uint8_t Byte(int from, int to, int64_t i) {
  return static_cast<uint8_t>(static_cast<uint64_t>(i) * 31 + static_cast<uint64_t>(from) * 7 +
                              static_cast<uint64_t>(to) * 3);
}

inline absl::Status CheckAllGather(Communicator& comm, int64_t bytes, bool in_place) {
  NoStream stream;
  std::vector<uint8_t> recv(static_cast<size_t>(bytes * comm.size()), 0xEE);
  std::vector<uint8_t> apart(static_cast<size_t>(bytes));
  uint8_t* send = in_place ? recv.data() + comm.rank() * bytes : apart.data();
  for (int64_t i = 0; i < bytes; ++i) {
    send[i] = Byte(comm.rank(), 0, i);
  }
  RETURN_IF_ERROR(comm.AllGather(stream, send, bytes, recv.data()));
  for (int r = 0; r < comm.size(); ++r) {
    for (int64_t i = 0; i < bytes; ++i) {
      if (recv[r * bytes + i] != Byte(r, 0, i)) {
        return absl::DataLossError(absl::StrCat("gather of ", bytes, ": rank ", r, "'s byte ", i, " is wrong"));
      }
    }
  }
  return absl::OkStatus();
}

// Sizes differ by pair, some are 0.
inline absl::Status CheckAllToAll(Communicator& comm, int64_t unit) {
  NoStream stream;
  const auto size_of = [&](int from, int to) { return (from + 2 * to) % 4 * unit + (from == to ? 1 : 0); };
  std::vector<int64_t> send_bytes;
  std::vector<int64_t> recv_bytes;
  std::vector<uint8_t> send;
  std::vector<uint8_t> expected;
  for (int r = 0; r < comm.size(); ++r) {
    send_bytes.push_back(size_of(comm.rank(), r));
    recv_bytes.push_back(size_of(r, comm.rank()));
    for (int64_t i = 0; i < send_bytes.back(); ++i) {
      send.push_back(Byte(comm.rank(), r, i));
    }
    for (int64_t i = 0; i < recv_bytes.back(); ++i) {
      expected.push_back(Byte(r, comm.rank(), i));
    }
  }
  std::vector<uint8_t> recv(expected.size());
  RETURN_IF_ERROR(comm.AllToAll(stream, send.data(), send_bytes, recv.data(), recv_bytes));
  return recv == expected ? absl::OkStatus() : absl::DataLossError(absl::StrCat("all-to-all by ", unit, " is wrong"));
}

// As many rows as sizes of CheckAllToAll say, which only the senders know beforehand.
inline absl::Status CheckExchangeRows(Communicator& comm, int64_t cols) {
  NoStream stream;
  const auto rows_of = [](int from, int to) { return (from + 2 * to) % 4; };
  const int size = comm.size();
  std::vector<int32_t> counts(static_cast<size_t>(size));
  std::vector<int32_t> received(static_cast<size_t>(size) + 1, -1);
  std::vector<float> send;
  std::vector<float> expected;
  std::vector<int32_t> expected_counts;
  for (int r = 0; r < size; ++r) {
    counts[r] = rows_of(comm.rank(), r);
    expected_counts.push_back(rows_of(r, comm.rank()));
    for (int64_t i = 0; i < counts[r] * cols; ++i) {
      send.push_back(Value(16 * comm.rank() + r, i));
    }
    for (int64_t i = 0; i < expected_counts.back() * cols; ++i) {
      expected.push_back(Value(16 * r + comm.rank(), i));
    }
  }
  expected_counts.push_back(static_cast<int32_t>(expected.size()) / static_cast<int32_t>(cols));
  std::vector<float> recv(static_cast<size_t>(3 * size * cols));
  const auto tensor = [](void* data, kernels::DType type, int64_t rows, int64_t width) {
    return kernels::Tensor{.data = data, .type = type, .rows = rows, .cols = width, .stride = width};
  };
  const RowExchange exchange = {
      .send = tensor(send.data(), kernels::DType::kF32, static_cast<int64_t>(send.size()) / cols, cols),
      .send_counts = tensor(counts.data(), kernels::DType::kI32, 1, size),
      .recv = tensor(recv.data(), kernels::DType::kF32, 3 * size, cols),
      .recv_counts = tensor(received.data(), kernels::DType::kI32, 1, size + 1)};
  RETURN_IF_ERROR(comm.ExchangeRows(stream, exchange));
  recv.resize(expected.size());
  return recv == expected && received == expected_counts
             ? absl::OkStatus()
             : absl::DataLossError(absl::StrCat("exchange of rows of ", cols, " is wrong"));
}

// `region`: the implementation's piece size in bytes; sizes below go to and beyond it.
inline absl::Status CheckEverything(Communicator& comm, int64_t region) {
  const int64_t floats = region / 4;
  for (const int64_t count :
       {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{1000}, floats - 1, floats, floats + 1, 3 * floats + 5}) {
    RETURN_IF_ERROR(CheckAllReduce(comm, count));
  }
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{13}, region, region + 1, 2 * region + 3}) {
    RETURN_IF_ERROR(CheckAllGather(comm, bytes, false));
    RETURN_IF_ERROR(CheckAllGather(comm, bytes, true));
  }
  for (const int64_t unit : {int64_t{0}, int64_t{1}, int64_t{100}, region / 2 + 1, region}) {
    RETURN_IF_ERROR(CheckAllToAll(comm, unit));
  }
  for (const int64_t cols : {int64_t{1}, int64_t{33}, floats / 2 + 1}) {
    RETURN_IF_ERROR(CheckExchangeRows(comm, cols));
  }
  return comm.Barrier();
}

// Runs `body` on each communicator in a thread of its own; [r] is what rank r's returned.
inline std::vector<absl::Status> OnAllRanks(const std::vector<std::unique_ptr<Communicator>>& group,
                                            const std::function<absl::Status(Communicator&)>& body) {
  std::vector<absl::Status> results(group.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < group.size(); ++r) {
    threads.emplace_back([&, r] { results[r] = body(*group[r]); });
  }
  for (std::thread& t : threads) {
    t.join();
  }
  return results;
}

}  // namespace alphecca::comm

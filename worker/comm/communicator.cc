#include "worker/comm/communicator.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::comm {
namespace {

// Bytes of each run; `total` rows altogether.
absl::StatusOr<std::vector<int64_t>> RunBytes(const int32_t* counts, int ranks, int64_t row_bytes, int64_t room,
                                              const char* what, int64_t& total) {
  std::vector<int64_t> bytes;
  total = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    total += counts[rank];
    if (counts[rank] < 0 || total > room) {
      return absl::InternalError(absl::StrCat("ExchangeRows: ", counts[rank], " rows to ", what, " for rank ", rank,
                                              ", ", total, " up to it, room for ", room));
    }
    bytes.push_back(counts[rank] * row_bytes);
  }
  return bytes;
}

}  // namespace

absl::Status Communicator::ExchangeRows(kernels::Stream& stream, const RowExchange& e) {
  const std::vector<int64_t> one(static_cast<size_t>(size()), sizeof(int32_t));
  auto* received = static_cast<int32_t*>(e.recv_counts.data);
  RETURN_IF_ERROR(AllToAll(stream, e.send_counts.data, one, received, one));
  const int64_t row_bytes = e.send.cols * kernels::Info(e.send.type).block_bytes;
  int64_t sent = 0;
  int64_t total = 0;
  const auto* counts = static_cast<const int32_t*>(e.send_counts.data);
  absl::StatusOr<std::vector<int64_t>> send = RunBytes(counts, size(), row_bytes, e.send.rows, "send", sent);
  absl::StatusOr<std::vector<int64_t>> recv = RunBytes(received, size(), row_bytes, e.recv.rows, "receive", total);
  if (!send.ok() || !recv.ok()) {
    const absl::Status& wrong = send.ok() ? recv.status() : send.status();
    Abort(absl::StrCat("rank ", rank(), ": ", std::string(wrong.message())));
    return wrong;
  }
  received[size()] = static_cast<int32_t>(total);
  return AllToAll(stream, e.send.data, *send, e.recv.data, *recv);
}

}  // namespace alphecca::comm

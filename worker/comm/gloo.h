// Ranks on several hosts, over TCP: Gloo's connections and buffers under sums of our own, so that the order of every
// sum is the ranks' order (Gloo's all-reduce adds in the order of its ring).
//
// Each group has a thread of its own here that looks out for ranks that end; the process ignores SIGPIPE from the first
// group on.
//
// For backends whose memory is the host's and whose ops are done when they return ("ref", "cpu").
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/communicator.h"

namespace alphecca::comm {

// Puts this rank's value for `key` where the others find it, waits until all ranks have, returns theirs by rank.
using ExchangeFn =
    std::function<absl::StatusOr<std::vector<std::string>>(const std::string& key, const std::string& value)>;

struct GlooOptions {
  // Name or address of the interface to listen on, as the other hosts reach it.
  std::string host = "127.0.0.1";
  // As in ShmOptions. The connections come to be within `timeout` too.
  absl::Duration timeout = absl::Seconds(30);
  absl::Duration barrier_timeout = absl::Minutes(15);
};

// Connects every rank with every other one; returns when all are connected and each has shown that it knows `secret`.
// InvalidArgument; Unavailable: `host` cannot be listened on, a peer cannot be reached or did not come in time. Errors
// of `exchange` pass through.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectGloo(int rank, int size, const std::string& secret,
                                                          const ExchangeFn& exchange, const GlooOptions& options = {});

}  // namespace alphecca::comm

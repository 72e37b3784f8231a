// The monitoring port of a process: /metrics, /healthz (the process lives), /readyz (it can serve).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/metrics.h"

namespace alphecca {

class StatusServer {
 public:
  // Listens on host:port (port 0: any free one) with a few threads of its own. `ready` is asked at each /readyz: its
  // message is the answer's body, 503 if it is not ok. The registry must outlive the server. Unavailable if the port is
  // taken.
  static absl::StatusOr<std::unique_ptr<StatusServer>> Start(const std::string& host, int port,
                                                             MetricsRegistry& registry,
                                                             std::function<absl::Status()> ready);
  virtual ~StatusServer() = default;
  virtual int port() const = 0;
};

}  // namespace alphecca

// The CLI as a client of a coordinator: the same public API that everyone uses.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "alphecca/v1/cluster.pb.h"
#include "alphecca/v1/inference.pb.h"

namespace alphecca::cli {

class Client {
 public:
  // `address` is host:port. Connects at the first call.
  static std::unique_ptr<Client> Connect(const std::string& address);
  virtual ~Client() = default;

  // Streams; `on_event` returning false cancels. Statuses are the server's, with the first detail's text.
  virtual absl::Status Generate(const v1::GenerateRequest& request,
                                const std::function<bool(const v1::GenerateEvent&)>& on_event) = 0;
  virtual absl::Status Chat(const v1::ChatRequest& request,
                            const std::function<bool(const v1::ChatEvent&)>& on_event) = 0;
  virtual absl::StatusOr<v1::ClusterStatus> Status(absl::Duration timeout) = 0;
  virtual absl::StatusOr<v1::Model> GetModel(const std::string& name) = 0;
  // Ends the call under way, from any thread.
  virtual void Cancel() = 0;
};

}  // namespace alphecca::cli

#include "common/status_server.h"

#include <CivetServer.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace alphecca {
namespace {

void Answer(mg_connection* connection, int code, const char* reason, const std::string& type, const std::string& body) {
  mg_printf(connection, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", code,
            reason, type.c_str(), body.size());
  mg_write(connection, body.data(), body.size());
}

class MetricsHandler : public CivetHandler {
 public:
  explicit MetricsHandler(MetricsRegistry& registry) : registry_(registry) {}
  bool handleGet(CivetServer*, mg_connection* connection) override {
    Answer(connection, 200, "OK", "text/plain; version=0.0.4; charset=utf-8", registry_.Text());
    return true;
  }

 private:
  MetricsRegistry& registry_;
};

class StateHandler : public CivetHandler {
 public:
  explicit StateHandler(std::function<absl::Status()> state) : state_(std::move(state)) {}
  bool handleGet(CivetServer*, mg_connection* connection) override {
    const absl::Status status = state_();
    const bool ok = status.ok();
    Answer(connection, ok ? 200 : 503, ok ? "OK" : "Service Unavailable", "text/plain; charset=utf-8",
           ok ? "ok\n" : absl::StrCat(status.message(), "\n"));
    return true;
  }

 private:
  std::function<absl::Status()> state_;
};

class CivetStatusServer : public StatusServer {
 public:
  CivetStatusServer(const std::vector<std::string>& options, MetricsRegistry& registry,
                    std::function<absl::Status()> ready)
      : metrics_(registry), health_([] { return absl::OkStatus(); }), ready_(std::move(ready)), server_(options) {
    server_.addHandler("/metrics", metrics_);
    server_.addHandler("/healthz", health_);
    server_.addHandler("/readyz", ready_);
  }
  int port() const override {
    const std::vector<int> ports = const_cast<CivetServer&>(server_).getListeningPorts();
    return ports.empty() ? 0 : ports.front();
  }

 private:
  MetricsHandler metrics_;
  StateHandler health_;
  StateHandler ready_;
  CivetServer server_;  // last: its threads use the handlers
};

}  // namespace

absl::StatusOr<std::unique_ptr<StatusServer>> StatusServer::Start(const std::string& host, int port,
                                                                  MetricsRegistry& registry,
                                                                  std::function<absl::Status()> ready) {
  const std::vector<std::string> options = {
      "listening_ports", absl::StrCat(host, ":", port), "num_threads", "3", "request_timeout_ms", "5000"};
  try {
    return std::make_unique<CivetStatusServer>(options, registry, std::move(ready));
  } catch (const CivetException& e) {
    return absl::UnavailableError(
        absl::StrCat("monitoring port ", host, ":", port, ": ", e.what(), "; is the port taken? 0 takes any free one"));
  }
}

}  // namespace alphecca

#include "common/status_server.h"

#include <httplib.h>

#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace alphecca {
namespace {

constexpr char kText[] = "text/plain; charset=utf-8";
constexpr size_t kThreads = 3;

class HttpStatusServer : public StatusServer {
 public:
  HttpStatusServer(MetricsRegistry& registry, std::function<absl::Status()> ready) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    server_.set_keep_alive_max_count(1);              // a connection left open must not hold up the end of the process
    server_.set_socket_options([](socket_t socket) {  // the default also lets two processes share a port
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server_.set_read_timeout(kTimeoutSeconds);
    server_.set_write_timeout(kTimeoutSeconds);
    server_.Get("/metrics", [&registry](const httplib::Request&, httplib::Response& response) {
      response.set_content(registry.Text(), "text/plain; version=0.0.4; charset=utf-8");
    });
    server_.Get("/healthz",
                [](const httplib::Request&, httplib::Response& response) { response.set_content("ok\n", kText); });
    server_.Get("/readyz", [ready = std::move(ready)](const httplib::Request&, httplib::Response& response) {
      const absl::Status status = ready();
      response.status = status.ok() ? 200 : 503;
      response.set_content(status.ok() ? "ok\n" : absl::StrCat(status.message(), "\n"), kText);
    });
  }

  ~HttpStatusServer() override {
    server_.stop();
    if (thread_.joinable()) {
      thread_.join();
    }
  }

  bool Listen(const std::string& host, int port) {
    port_ = port == 0 ? server_.bind_to_any_port(host) : server_.bind_to_port(host, port) ? port : -1;
    if (port_ < 0) {
      return false;
    }
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) {  // until then stop() does nothing
      std::this_thread::yield();
    }
    return true;
  }

  int port() const override { return port_; }

 private:
  static constexpr int kTimeoutSeconds = 5;

  httplib::Server server_;
  std::thread thread_;
  int port_ = -1;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StatusServer>> StatusServer::Start(const std::string& host, int port,
                                                                  MetricsRegistry& registry,
                                                                  std::function<absl::Status()> ready) {
  auto server = std::make_unique<HttpStatusServer>(registry, std::move(ready));
  if (!server->Listen(host, port)) {
    return absl::UnavailableError(absl::StrCat("monitoring port ", host, ":", port,
                                               ": cannot listen there; is the port taken? 0 takes any free one"));
  }
  return server;
}

}  // namespace alphecca

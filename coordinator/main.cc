// alphecca-coordinator: reads its flags, loads what it needs of the models, serves until a signal, drains.
#include <google/protobuf/stubs/logging.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <pthread.h>
#include <signal.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/status_macros.h"
#include "common/status_server.h"
#include "common/version.h"
#include "coordinator/api/inference_service.h"
#include "coordinator/cluster/clock.h"
#include "coordinator/cluster/controller.h"
#include "coordinator/flags.h"
#include "coordinator/metrics.h"
#include "coordinator/routing/context_watch.h"
#include "coordinator/rpc/cluster_service.h"
#include "coordinator/rpc/group_connections.h"
#include "model/prefix_hash.h"

namespace alphecca::coordinator {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
// The largest request: 8 MiB of text, or as many ids, and its options.
constexpr int kMaxRequestBytes = 48 << 20;

uint64_t Random64() {
  thread_local std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

std::string MakeRendezvous() {
  return absl::StrFormat("%016x%016x", Random64(), Random64());
}

// Everything that runs, in order of construction: later members use earlier ones and end first.
class Coordinator {
 public:
  Coordinator(const CoordinatorFlags& flags, std::vector<std::unique_ptr<ServedModel>> models,
              const model::PrefixKey& prefix_key)
      : flags_(flags),
        models_(std::move(models)),
        metrics_(registry_),
        admission_({.max_sequences = flags.max_open_sequences}),
        prefixes_(std::make_shared<PrefixIndex>(prefix_key)),
        router_(prefixes_),
        connections_(router_, prefixes_),
        controller_(ClusterOptionsOf(flags, prefix_key), Specs(models_), connections_),
        pool_(flags.text_threads, 4096),
        inference_({models_, router_, admission_, metrics_, pool_, flags.tenant_weights, Random64}),
        cluster_({flags.heartbeat, flags.lease, BuildVersion()}, controller_, router_) {}

  absl::Status Start();
  // Until SIGINT or SIGTERM (which must be blocked), then drains.
  void Serve(const sigset_t& signals);

 private:
  static ClusterOptions ClusterOptionsOf(const CoordinatorFlags& flags, const model::PrefixKey& prefix_key);
  static std::vector<ModelSpec> Specs(const ModelCatalogue& models);
  // Ok when every model has a group that can take requests.
  absl::Status Ready() const;
  void TickLoop();
  void Drain(const sigset_t& signals);
  void SetHealth(bool ready);

  const CoordinatorFlags& flags_;
  const ModelCatalogue models_;
  MetricsRegistry registry_;
  CoordinatorMetrics metrics_;
  Admission admission_;
  const std::shared_ptr<PrefixIndex> prefixes_;
  Router router_;
  GroupConnections connections_;
  ClusterController controller_;
  TextPool pool_;
  InferenceService inference_;
  ClusterService cluster_;
  ContextWatch context_watch_;  // the ticker's
  std::atomic<bool> draining_{false};
  absl::Notification stop_ticking_;
  std::unique_ptr<StatusServer> status_server_;
  std::unique_ptr<grpc::Server> server_;
  std::thread ticker_;
};

ClusterOptions Coordinator::ClusterOptionsOf(const CoordinatorFlags& flags, const model::PrefixKey& prefix_key) {
  ClusterOptions options;
  options.lease = flags.lease;
  options.first_epoch = Epoch(static_cast<uint64_t>(absl::ToUnixMillis(absl::Now())));
  options.make_rendezvous = MakeRendezvous;
  options.prefix_key = prefix_key;
  return options;
}

std::vector<ModelSpec> Coordinator::Specs(const ModelCatalogue& models) {
  std::vector<ModelSpec> specs;
  for (const auto& model : models.all()) {
    specs.push_back(model->spec());
  }
  return specs;
}

absl::Status Coordinator::Ready() const {
  if (draining_) {
    return absl::UnavailableError("shutting down");
  }
  for (const auto& model : models_.all()) {
    RETURN_IF_ERROR(router_.Pick({.model = model->spec().name}).status());
  }
  return absl::OkStatus();
}

absl::Status Coordinator::Start() {
  ASSIGN_OR_RETURN(status_server_, StatusServer::Start(flags_.metrics.host, flags_.metrics.port, registry_,
                                                       [this] { return Ready(); }));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(flags_.listen.ToString(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&inference_);
  builder.RegisterService(&cluster_);
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder.SetMaxSendMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // two on one port would share its clients
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", flags_.listen.ToString(),
                                               "; is the port taken? 0 "
                                               "takes any free one"));
  }
  SetHealth(false);
  ticker_ = std::thread([this] { TickLoop(); });
  HostPort listen = flags_.listen;
  listen.port = port;
  HostPort metrics = flags_.metrics;
  metrics.port = status_server_->port();
  const nlohmann::json line = {{"listen", listen.ToString()}, {"metrics", metrics.ToString()}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
  LogInfo("listening on {}, monitoring on {}", listen.ToString(), metrics.ToString());
  return absl::OkStatus();
}

void Coordinator::SetHealth(bool ready) {
  grpc::HealthCheckServiceInterface& health = *server_->GetHealthCheckService();
  for (const char* service : {"", "alphecca.v1.Inference"}) {
    health.SetServingStatus(service, ready);
  }
  health.SetServingStatus("alphecca.v1.Cluster", true);
}

void Coordinator::TickLoop() {
  bool was_ready = false;
  while (!stop_ticking_.WaitForNotificationWithTimeout(kTick)) {
    const absl::Time now = SteadyNow();
    controller_.Tick(now);
    connections_.Tick(now);
    const ClusterView view = controller_.View();
    metrics_.SetCluster(view, router_);
    for (const std::string& warning : context_watch_.Look(view, router_)) {
      LogWarn("{}", warning);
    }
    prefixes_->Sweep();
    metrics_.SetPrefixIndex(prefixes_->size());
    const absl::Status ready = Ready();
    if (ready.ok() != was_ready) {
      was_ready = ready.ok();
      SetHealth(was_ready);
      LogInfo("{}", was_ready ? "ready: every model has a group" : absl::StrCat("not ready: ", ready.message()));
    }
  }
}

void Coordinator::Serve(const sigset_t& signals) {
  int signal = 0;
  sigwait(&signals, &signal);
  LogInfo("signal {}: shutting down, {} open sequences", signal, admission_.open_sequences());
  Drain(signals);
  connections_.CloseAll(absl::UnavailableError("the coordinator is shutting down"));
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  stop_ticking_.Notify();
  ticker_.join();
  status_server_.reset();
  server_.reset();
}

void Coordinator::Drain(const sigset_t& signals) {
  draining_ = true;
  admission_.Drain();
  SetHealth(false);
  const absl::Time deadline = absl::Now() + flags_.drain;
  const timespec poll = {.tv_sec = 0, .tv_nsec = 50'000'000};
  while (admission_.open_sequences() > 0 && absl::Now() < deadline) {
    if (sigtimedwait(&signals, nullptr, &poll) > 0) {
      LogWarn("second signal: not waiting for {} open sequences", admission_.open_sequences());
      return;
    }
  }
}

int Run(int argc, char** argv) {
  const absl::StatusOr<CoordinatorFlags> flags = ParseFlags(argc, argv);
  if (absl::IsCancelled(flags.status())) {
    std::fputs(std::string(flags.status().message()).c_str(), stdout);
    return 0;
  }
  if (!flags.ok()) {
    std::fprintf(stderr, "alphecca-coordinator: %s\n", std::string(flags.status().message()).c_str());
    return 2;
  }
  // Before any thread starts, so that all of them inherit it and only Serve sees the signals.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  InitLog("coordinator");
  google::protobuf::SetLogHandler(nullptr);  // it writes a line for each malformed request; we answer and count those
  std::vector<std::unique_ptr<ServedModel>> models;
  for (const ServeOptions& options : flags->models) {
    absl::StatusOr<std::unique_ptr<ServedModel>> model = LoadServedModel(options);
    if (!model.ok()) {
      std::fprintf(stderr, "alphecca-coordinator: model %s: %s\n", options.name.c_str(),
                   std::string(model.status().message()).c_str());
      return 1;
    }
    const ModelSpec& spec = (*model)->spec();
    LogInfo("model {}: {}, context {}, vocabulary {}, {}", spec.name, spec.checkpoint, spec.context,
            (*model)->limits().vocabulary,
            options.tp == 0 ? std::string("split as the workers' memory wants")
                            : absl::StrCat("tp ", spec.splits[0].tp, ", ep ", spec.splits[0].ep));
    models.push_back(*std::move(model));
  }
  const absl::StatusOr<model::PrefixKey> prefix_key = model::DrawPrefixKey();
  if (!prefix_key.ok()) {
    std::fprintf(stderr, "alphecca-coordinator: %s\n", std::string(prefix_key.status().message()).c_str());
    return 1;
  }
  Coordinator coordinator(*flags, std::move(models), *prefix_key);
  if (const absl::Status status = coordinator.Start(); !status.ok()) {
    std::fprintf(stderr, "alphecca-coordinator: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  coordinator.Serve(signals);
  return 0;
}

}  // namespace
}  // namespace alphecca::coordinator

// What jemalloc reads: few arenas and no hoards, since requests come and go by thousands while little stays.
extern "C" {
extern const char* const malloc_conf;
const char* const malloc_conf = "narenas:2,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0";
}

int main(int argc, char** argv) {
  try {
    return alphecca::coordinator::Run(argc, argv);
  } catch (const std::exception& e) {  // of libraries: out of memory, no more threads
    std::fprintf(stderr, "alphecca-coordinator: %s\n", e.what());
    return 1;
  }
}

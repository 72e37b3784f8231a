// alphecca-worker: one device that holds one shard of one model. Flags, wiring, signals.
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/cpus.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/status_macros.h"
#include "common/status_server.h"
#include "common/version.h"
#include "worker/forward/trace.h"
#include "worker/rpc/cluster_client.h"
#include "worker/rpc/host_info.h"
#include "worker/rpc/server.h"

namespace alphecca::worker {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
// Without --memory nobody has said what the machine is for: weights take what they need, KV no more than this.
constexpr int64_t kDefaultKvBytes = 2 * kGiB;
// Blocks from this size on are mappings of their own. By default glibc raises the bound to the largest block that was
// ever freed (32 MiB at most): once a shard was dropped, the KV cache of the next would come from the heap, filled with
// zeros where a mapping commits pages as they are touched, and stay there when it is dropped in turn.
constexpr int kMapFromBytes = 1 << 20;
// A process that has not left this long after it was told to is stuck.
constexpr unsigned kLeaveSeconds = 20;

struct Flags {
  std::string coordinator = "127.0.0.1:7070";
  std::string listen = "127.0.0.1:0";
  std::string advertise;
  std::string role = "target";
  std::string name;
  int threads = 0;
  bool pin_threads = false;
  double memory_gib = 0;
  std::string metrics = "127.0.0.1:0";
  std::string kernels = "cpu";
  std::string trace;
  double step_ms = 250;
  int max_waiting = 1024;
  bool no_prefix_cache = false;
  double drain_seconds = 5;
};

constexpr char kAbout[] =
    "Holds one shard of one model on this device and computes it with the other ranks of its group.\n"
    "It joins a coordinator, loads what it is assigned, and stays until SIGTERM or Ctrl-C.\n";
constexpr char kExamples[] =
    "\nExamples:\n"
    "  # two workers on one host, half of the cores each\n"
    "  alphecca-worker --coordinator 127.0.0.1:7070 --threads 8\n"
    "  alphecca-worker --coordinator 127.0.0.1:7070 --threads 8\n"
    "  # a worker that others reach over the network\n"
    "  alphecca-worker --coordinator front:7070 --listen 0.0.0.0:7700 --advertise node7:7700 --metrics 0.0.0.0:9100\n"
    "\nOn start it prints one line of JSON to stdout: {\"listen\":\"host:port\",\"metrics\":\"host:port\"}.\n"
    "Logs are JSON lines on stderr; ALPHECCA_LOG=debug|info|warn|error|off sets what is shown.\n";

void AddOptions(CLI::App& app, Flags& flags) {
  app.add_option("--coordinator", flags.coordinator, "host:port of the coordinator")->capture_default_str();
  app.add_option("--listen", flags.listen, "host:port to serve peers on; port 0: any free one")->capture_default_str();
  app.add_option("--advertise", flags.advertise,
                 "host or host:port by which coordinator and peers reach this worker; default: that of --listen");
  app.add_option("--role", flags.role, "target: a shard of a served model")->capture_default_str();
  app.add_option("--name", flags.name, "name for people, unique in the cluster; default: made up");
  app.add_option("--threads", flags.threads, "CPU threads; 0: all that the process may use")->capture_default_str();
  app.add_flag(
      "--pin-threads", flags.pin_threads,
      "keep each thread on a CPU of its own, if there are exactly as many threads as CPUs that the process may "
      "run on; only where nothing else runs on them");
  app.add_option("--memory", flags.memory_gib,
                 "GiB that weights and KV cache may take together; default: what is free, with at most 2 GiB of KV");
  app.add_option("--metrics", flags.metrics, "host:port of /metrics, /healthz and /readyz; empty: none")
      ->capture_default_str();
  app.add_option("--kernels", flags.kernels, "cpu: fast; ref: the slow yardstick")->capture_default_str();
  app.add_option("--trace", flags.trace, "write a timeline of ops and collectives to this file (Chrome trace form)");
  app.add_option("--step-ms", flags.step_ms,
                 "milliseconds that a step may take while some sequences decode and others' prompts are read: the "
                 "longest wait for a next token that prompts should cause")
      ->capture_default_str();
  app.add_option(
         "--max-waiting", flags.max_waiting,
         "sequences that may queue; further ones are refused, but of tenants with less than an equal part of them")
      ->capture_default_str();
  app.add_flag("--no-prefix-cache", flags.no_prefix_cache, "compute every prompt from its beginning");
  app.add_option("--drain", flags.drain_seconds, "seconds that running sequences may still take after SIGTERM")
      ->capture_default_str();
  app.set_version_flag("--version", BuildVersion());
}

absl::StatusOr<DeviceOptions> MakeDevice(const Flags& flags) {
  DeviceOptions device;
  device.kernels = flags.kernels;
  device.threads = flags.threads;
  device.pin_threads = flags.pin_threads;
  if (flags.memory_gib < 0 || flags.memory_gib > 1 << 20) {
    return absl::InvalidArgumentError(absl::StrCat("--memory ", flags.memory_gib, " must be above 0, in GiB"));
  }
  if (flags.memory_gib > 0) {
    device.memory_bytes = static_cast<int64_t>(flags.memory_gib * static_cast<double>(kGiB));
  } else {
    device.memory_bytes = AvailableMemoryBytes() / 10 * 9;
    device.max_kv_bytes = kDefaultKvBytes;
  }
  if (!(flags.step_ms >= 1 && flags.step_ms <= 60000)) {
    return absl::InvalidArgumentError(absl::StrCat("--step-ms ", flags.step_ms, " must be 1 to 60000"));
  }
  if (flags.max_waiting < 1 || flags.max_waiting > 1 << 20) {
    return absl::InvalidArgumentError(absl::StrCat("--max-waiting ", flags.max_waiting, " must be 1 to ", 1 << 20));
  }
  device.step_time = absl::Milliseconds(flags.step_ms);
  device.max_waiting = flags.max_waiting;
  device.prefix_cache = !flags.no_prefix_cache;
  RETURN_IF_ERROR(device.Validate());
  return device;
}

// What peers are told to connect to.
absl::StatusOr<HostPort> Advertised(const Flags& flags, int port) {
  ASSIGN_OR_RETURN(HostPort address, ParseHostPort("--listen", flags.listen));
  address.port = port;
  if (address.host == "0.0.0.0" || address.host == "::") {
    address.host = HostName();
  }
  if (flags.advertise.empty()) {
    return address;
  }
  if (flags.advertise.find(':') == std::string::npos) {
    address.host = flags.advertise;
    return address;
  }
  ASSIGN_OR_RETURN(address, ParseHostPort("--advertise", flags.advertise));
  if (address.port == 0) {
    address.port = port;
  }
  return address;
}

absl::StatusOr<v1::Register> MakeRegistration(const Flags& flags, const DeviceOptions& device,
                                              const std::string& address) {
  v1::Register registration;
  registration.set_protocol_version(1);
  registration.set_build(BuildVersion());
  registration.set_address(address);
  registration.set_name(flags.name);
  registration.set_host(HostIdentity());
  v1::Device& d = *registration.mutable_device();
  d.set_kind("cpu");
  d.set_name(CpuName());
  d.set_memory_bytes(device.memory_bytes);
  d.set_threads(device.threads > 0 ? device.threads : UsableThreads());
  DeviceOptions probe = device;
  probe.threads = 1;
  ASSIGN_OR_RETURN(const std::unique_ptr<kernels::Backend> backend,
                   CreateBackend(probe, kernels::Activations::kDefault));
  d.set_isa(backend->IsaPath());
  return registration;
}

// Waits for a signal while `tick` runs a few times a second; true: one came before the deadline.
bool AwaitSignal(const sigset_t& signals, absl::Time deadline, const std::function<bool()>& tick) {
  const timespec interval{0, 100 * 1000 * 1000};
  while (absl::Now() < deadline && tick()) {
    if (sigtimedwait(&signals, nullptr, &interval) > 0) {
      return true;
    }
  }
  return false;
}

void OnStuck(int) {
  constexpr char message[] = "{\"level\":\"error\",\"process\":\"worker\",\"message\":\"did not leave in time\"}\n";
  (void)!write(STDERR_FILENO, message, sizeof(message) - 1);
  _exit(1);
}

absl::Status Serve(const Flags& flags, const sigset_t& signals) {
  if (flags.role == "draft") {
    return absl::UnimplementedError("draft role is not served by this build: use --role target");
  }
  if (flags.role != "target") {
    return absl::InvalidArgumentError(absl::StrCat("--role \"", flags.role, "\" must be target"));
  }
  RETURN_IF_ERROR(ParseHostPort("--coordinator", flags.coordinator).status());
  ASSIGN_OR_RETURN(DeviceOptions device, MakeDevice(flags));
  std::unique_ptr<forward::TraceFile> trace;
  if (!flags.trace.empty()) {
    ASSIGN_OR_RETURN(trace, forward::TraceFile::Create(flags.trace));
    device.trace = trace.get();
  }
  MetricsRegistry registry;
  WorkerMetrics metrics(registry);
  ShardDirectory directory;
  ASSIGN_OR_RETURN(const std::unique_ptr<WorkerServer> server, WorkerServer::Start(flags.listen, directory, metrics));
  ASSIGN_OR_RETURN(const HostPort address, Advertised(flags, server->port()));
  device.host = address.host;
  const std::string listen = JoinHostPort(address.host, address.port);
  ClusterClientOptions options;
  options.coordinator = flags.coordinator;
  options.device = device;
  ASSIGN_OR_RETURN(options.registration, MakeRegistration(flags, device, listen));
  ClusterClient cluster(std::move(options), directory, metrics);
  std::unique_ptr<StatusServer> status_server;
  nlohmann::json started = {{"listen", listen}};
  if (!flags.metrics.empty()) {
    ASSIGN_OR_RETURN(const HostPort at, ParseHostPort("--metrics", flags.metrics));
    ASSIGN_OR_RETURN(status_server, StatusServer::Start(at.host, at.port, registry, [&] { return cluster.Ready(); }));
    started["metrics"] = JoinHostPort(at.host, status_server->port());
  }
  std::printf("%s\n", started.dump().c_str());
  std::fflush(stdout);

  std::thread member([&] { cluster.Run(); });
  AwaitSignal(signals, absl::InfiniteFuture(), [&] {
    server->SetReady(cluster.Ready().ok());
    return true;
  });
  LogInfo("leaving: running sequences may take {} s more", flags.drain_seconds);
  server->SetReady(false);
  cluster.StopAdmitting("this worker is leaving");
  AwaitSignal(signals, absl::Now() + absl::Seconds(flags.drain_seconds), [&] { return cluster.Busy(); });
  signal(SIGALRM, OnStuck);
  alarm(kLeaveSeconds);
  cluster.Stop();
  member.join();
  server->Shutdown(absl::Seconds(1));
  LogInfo("left");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app(kAbout, "alphecca-worker");
  app.footer(kExamples);
  app.get_formatter()->column_width(32);
  AddOptions(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  InitLog("worker");
  mallopt(M_MMAP_THRESHOLD, kMapFromBytes);
  // Before any thread starts: all inherit the mask, and the main thread takes the signals when it looks for them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const absl::Status status = Serve(flags, signals);
  if (!status.ok()) {
    std::fprintf(stderr, "alphecca-worker: %s\n", std::string(status.message()).c_str());
    return absl::IsInvalidArgument(status) || absl::IsUnimplemented(status) ? 2 : 1;
  }
  return 0;
}

}  // namespace
}  // namespace alphecca::worker

int main(int argc, char** argv) {
  try {
    return alphecca::worker::Main(argc, argv);
  } catch (const std::exception& e) {
    std::fputs(e.what(), stderr);
    return 1;
  }
}

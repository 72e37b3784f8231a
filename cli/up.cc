// alphecca up: a local cluster that answers one prompt, says what to try next, and stays until Ctrl-C.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/interrupt.h"

namespace alphecca::cli {
namespace {

struct UpFlags {
  ClusterFlags cluster;
  std::string prompt = "In the beginning";
  int max_tokens = 48;
  bool once = false;
};

absl::Status Answer(LocalCluster& cluster, const std::string& model, const UpFlags& flags) {
  v1::GenerateRequest request;
  request.set_model(model);
  request.set_text(flags.prompt);
  request.mutable_options()->set_max_tokens(flags.max_tokens);
  request.mutable_options()->mutable_sampling()->set_temperature(0);
  std::printf("\n> %s", flags.prompt.c_str());
  std::fflush(stdout);
  const absl::Time start = absl::Now();
  int tokens = 0;
  absl::Status status = cluster.client().Generate(request, [&tokens](const v1::GenerateEvent& event) {
    tokens += event.ids_size();
    std::fwrite(event.text().data(), 1, event.text().size(), stdout);
    std::fflush(stdout);
    return true;
  });
  if (status.ok()) {
    std::printf("\n\n%d tokens in %.2f s\n", tokens, absl::ToDoubleSeconds(absl::Now() - start));
  }
  return status;
}

void PrintAddresses(const LocalCluster& cluster, const UpFlags& flags) {
  const std::string& address = cluster.address();
  std::printf("\n%s is served at %s (gRPC, alphecca.v1.Inference)\n", flags.cluster.options.model.name.c_str(),
              address.c_str());
  std::printf("  metrics  http://%s/metrics  (coordinator)\n", cluster.metrics_address().c_str());
  for (const std::string& worker : cluster.worker_metrics()) {
    std::printf("           http://%s/metrics  (worker)\n", worker.c_str());
  }
  std::printf("  logs     %s\n\nTry next:\n", cluster.log_folder().c_str());
  std::printf("  alphecca generate --connect %s --model %s --prompt \"And Moses said\" --max-tokens 60\n",
              address.c_str(), flags.cluster.options.model.name.c_str());
  std::printf("  alphecca chat --connect %s --model %s\n", address.c_str(), flags.cluster.options.model.name.c_str());
  std::printf("  alphecca status --connect %s\n\nCtrl-C stops the cluster.\n", address.c_str());
  std::fflush(stdout);
}

int Run(UpFlags& flags) {
  if (const absl::Status status = ResolveClusterFlags(flags.cluster); !status.ok()) {
    return Fail(status);
  }
  const LocalClusterOptions& options = flags.cluster.options;
  std::printf("Starting a coordinator and %d workers for %s (%s)\n", std::max(options.tp, options.ep),
              options.model.name.c_str(), options.model.path.c_str());
  std::fflush(stdout);
  absl::StatusOr<std::unique_ptr<LocalCluster>> cluster = LocalCluster::Start(options, absl::Minutes(30));
  if (!cluster.ok()) {
    return Fail(cluster.status());
  }
  if (const absl::Status status = Answer(**cluster, options.model.name, flags); !status.ok()) {
    return Fail(status);
  }
  PrintAddresses(**cluster, flags);
  if (flags.once) {
    return 0;
  }
  // A worker that dies is the coordinator's business (the group waits for another); the coordinator's end is ours.
  absl::Status running;
  const bool interrupted = WaitForInterrupt([&] {
    running = (*cluster)->Running();
    return !running.ok();
  });
  if (!interrupted) {
    return Fail(running);
  }
  std::puts("\nStopping.");
  return 0;
}

}  // namespace

void AddUp(CLI::App& app, int& result) {
  auto flags = std::make_shared<UpFlags>();
  flags->cluster.options.listen = "127.0.0.1:7070";
  flags->cluster.options.metrics = "127.0.0.1:7071";
  CLI::App* command = app.add_subcommand("up", "Start a local cluster and answer a prompt");
  command->footer(
      "A coordinator and max(tp, ep) workers on loopback; stays up until Ctrl-C.\n"
      "  alphecca up\n"
      "  alphecca up --model gemma.gguf --tp 1\n"
      "  alphecca up --expert-mode wide --ep 3");
  AddClusterFlags(*command, flags->cluster, 2);
  command->add_option("--listen", flags->cluster.options.listen, "host:port of the coordinator; port 0: any free one")
      ->capture_default_str();
  command->add_option("--metrics", flags->cluster.options.metrics, "host:port of its monitoring")
      ->capture_default_str();
  command->add_option("-p,--prompt", flags->prompt, "The first prompt")->capture_default_str();
  command->add_option("-n,--max-tokens", flags->max_tokens, "Tokens of its answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--once", flags->once, "Stop after the answer");
  command->callback([flags, &result] { result = Run(*flags); });
}

}  // namespace alphecca::cli

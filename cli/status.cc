// alphecca status: models, groups, ranks and workers of a running cluster.
#include <google/protobuf/util/json_util.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cli/commands.h"
#include "cli/progress.h"

namespace alphecca::cli {
namespace {

struct StatusFlags {
  std::string connect = "127.0.0.1:7070";
  bool json = false;
};

std::string StateName(v1::ShardState state) {
  const std::string name = v1::ShardState_Name(state);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "SHARD_STATE_"));
}

void PrintGroup(const v1::GroupStatus& group) {
  const std::string experts = group.expert_mode().empty() ? "" : absl::StrCat("  experts ", group.expert_mode());
  std::printf("  group %llu  epoch %llu  tp %d  ep %d%s  %s", static_cast<unsigned long long>(group.group_id()),
              static_cast<unsigned long long>(group.epoch()), group.tp(), group.ep(), experts.c_str(),
              group.state().c_str());
  if (group.state() == "ready") {
    std::printf("  running %d  waiting %d", group.running(), group.waiting());
  }
  std::printf("%s%s\n", group.message().empty() ? "" : "  ", group.message().c_str());
  if (!group.plan_hash().empty()) {
    std::printf("    plan %s  fingerprint %s\n", group.plan_hash().c_str(), group.fingerprint().c_str());
  }
  for (const v1::RankStatus& rank : group.ranks()) {
    std::printf("    rank %d  worker %llu  %-10s", rank.rank(), static_cast<unsigned long long>(rank.worker_id()),
                StateName(rank.state()).c_str());
    if (rank.state() == v1::SHARD_STATE_LOADING) {
      std::printf("  %s", Bar(rank.loaded_bytes(), rank.total_bytes()).c_str());
    } else if (rank.weight_bytes() > 0) {
      std::printf("  weights %s  KV %s", Bytes(rank.weight_bytes()).c_str(), Bytes(rank.kv_bytes()).c_str());
    }
    std::printf("%s%s\n", rank.message().empty() ? "" : "  ", rank.message().c_str());
  }
}

int Run(const StatusFlags& flags) {
  const absl::StatusOr<v1::ClusterStatus> status = Client::Connect(flags.connect)->Status(absl::Seconds(10));
  if (!status.ok()) {
    return Fail(status.status());
  }
  if (flags.json) {
    google::protobuf::util::JsonPrintOptions options;
    options.always_print_primitive_fields = true;
    options.preserve_proto_field_names = true;
    std::string text;
    if (!google::protobuf::util::MessageToJsonString(*status, &text, options).ok()) {
      return Fail(absl::InternalError("the status cannot be written as JSON"));
    }
    std::puts(text.c_str());
    return 0;
  }
  std::printf("coordinator %s  %s  up %.0f s\n", flags.connect.c_str(), status->build().c_str(),
              status->uptime_seconds());
  for (const v1::ModelStatus& model : status->models()) {
    std::printf("\nmodel %s  (%s)\n", model.name().c_str(), model.checkpoint().c_str());
    for (const v1::GroupStatus& group : model.groups()) {
      PrintGroup(group);
    }
  }
  std::puts("");
  for (const v1::WorkerStatus& worker : status->workers()) {
    std::printf("worker %llu  %s  %s  %s %s, %d threads, %s  %s\n", static_cast<unsigned long long>(worker.worker_id()),
                worker.name().c_str(), worker.address().c_str(), worker.device().kind().c_str(),
                worker.device().isa().c_str(), worker.device().threads(), Bytes(worker.device().memory_bytes()).c_str(),
                StateName(worker.state()).c_str());
  }
  return 0;
}

}  // namespace

void AddStatus(CLI::App& app, int& result) {
  auto flags = std::make_shared<StatusFlags>();
  CLI::App* command = app.add_subcommand("status", "Show models, groups, ranks and workers of a cluster");
  command->add_option("--connect", flags->connect, "host:port of the coordinator")->capture_default_str();
  command->add_flag("--json", flags->json, "alphecca.v1.ClusterStatus as JSON");
  command->callback([flags, &result] { result = Run(*flags); });
}

}  // namespace alphecca::cli

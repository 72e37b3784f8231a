#include "worker/rpc/shard_loader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/ref/ref_backend.h"
#include "model/planner/footprint.h"
#include "model/shard_plan.h"
#include "worker/comm/shm.h"
#include "worker/comm/solo.h"
#include "worker/forward/tracing.h"
#include "worker/rpc/metered.h"
#ifdef ALPHECCA_HAVE_GLOO
#include "worker/comm/gloo.h"
#endif

namespace alphecca::worker {
namespace {

constexpr int kDefaultMaxSequences = 16;
constexpr int64_t kMinKvBytes = int64_t{16} << 20;

absl::StatusOr<model::ShardPlan> MakePlan(const model::Checkpoint& checkpoint, const ShardAssignment& a) {
  if (const std::string seen = checkpoint.Revision(); !a.revision.empty() && seen != a.revision) {
    return absl::FailedPreconditionError(absl::StrCat(a.checkpoint, " has revision ", seen,
                                                      " on this host, the coordinator saw ", a.revision,
                                                      ": the same files must be on all hosts"));
  }
  ASSIGN_OR_RETURN(model::ShardPlan plan, model::MakeShardPlan(checkpoint, a.sharding, a.weights));
  if (const std::string hash = plan.Hash(); !a.plan_hash.empty() && hash != a.plan_hash) {
    return absl::FailedPreconditionError(absl::StrCat("the shard plan of ", a.checkpoint, " for tp ", a.sharding.tp,
                                                      ", ep ", a.sharding.ep, " is ", hash, " here, ", a.plan_hash,
                                                      " at the coordinator: all must run the same build"));
  }
  return plan;
}

absl::StatusOr<std::unique_ptr<comm::Communicator>> Connect(const ShardAssignment& a, const DeviceOptions& device,
                                                            const LoadHooks& hooks) {
  if (a.size() == 1) {
    return comm::CreateSolo();
  }
  if (a.communicator == "shm") {
    comm::ShmOptions options;
    options.barrier_timeout = device.load_timeout;
    options.join_timeout = device.connect_timeout;
    options.give_up = hooks.cancelled;
    return comm::JoinShm(a.rendezvous, a.rank, a.size(), options);
  }
#ifdef ALPHECCA_HAVE_GLOO
  comm::GlooOptions options;
  options.host = device.host;
  options.barrier_timeout = device.load_timeout;
  return comm::ConnectGloo(a.rank, a.size(), a.rendezvous, hooks.exchange, options);
#else
  return absl::UnimplementedError("this build has no Gloo communicator: it serves ranks on one host only");
#endif
}

// What this rank can give to KV; the group takes the least of all ranks, since their pools must be equal.
absl::StatusOr<int64_t> KvBudget(const ShardAssignment& a, const model::Checkpoint& checkpoint,
                                 const model::ShardPlan& plan, const DeviceOptions& device, kernels::Backend& backend,
                                 comm::Communicator& comm) {
  const model::StepSizes sizes = model::StepSizesFor(engine::ShardOptions().max_rows,
                                                     a.max_sequences > 0 ? a.max_sequences : kDefaultMaxSequences);
  ASSIGN_OR_RETURN(model::Footprint footprint,
                   model::RankFootprint(checkpoint, plan, a.rank, a.weights, a.kv_type, sizes));
  if (a.resident_tables) {
    footprint.HoldTables();
  }
  const int64_t held = footprint.weight_bytes + footprint.workspace_bytes;
  int64_t budget = std::min(device.memory_bytes - held, device.max_kv_bytes);
  const std::unique_ptr<kernels::Stream> stream = backend.CreateStream();
  std::vector<int64_t> budgets(static_cast<size_t>(comm.size()));
  RETURN_IF_ERROR(comm.AllGather(*stream, &budget, sizeof(budget), budgets.data()));
  RETURN_IF_ERROR(backend.Synchronize(*stream));
  const auto least = std::min_element(budgets.begin(), budgets.end());
  if (*least < kMinKvBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("rank ", least - budgets.begin(), " has ", *least,
                     " bytes for KV beside weights and activations (", held, " bytes on this rank), needs at least ",
                     kMinKvBytes, ": more memory (--memory) or more ranks (", plan.wide() ? "--ep" : "--tp", ")"));
  }
  return *least;
}

}  // namespace

absl::Status DeviceOptions::Validate() const {
  if (kernels != "cpu" && kernels != "ref") {
    return absl::InvalidArgumentError(absl::StrCat("kernels \"", kernels, "\" is neither cpu nor ref"));
  }
  if (threads < 0 || threads > 4096) {
    return absl::InvalidArgumentError(absl::StrCat("threads ", threads, " must be 0 (all there are) to 4096"));
  }
  if (memory_bytes < kMinKvBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory of ", memory_bytes, " bytes is too little, must be at least ", kMinKvBytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<kernels::Backend>> CreateBackend(const DeviceOptions& device,
                                                                kernels::Activations activations) {
  kernels::BackendOptions options;
  options.activations = activations;
  options.threads = device.threads;
  options.pin_threads = device.pin_threads;
  return device.kernels == "ref" ? kernels::CreateRefBackend(options) : kernels::CreateCpuBackend(options);
}

absl::Status LoadShard(const ShardAssignment& a, const DeviceOptions& device, WorkerMetrics& metrics,
                       const LoadHooks& hooks, LoadedShard& shard) {
  ASSIGN_OR_RETURN(shard.checkpoint, model::Checkpoint::Open(a.checkpoint));
  ASSIGN_OR_RETURN(const model::ShardPlan plan, MakePlan(*shard.checkpoint, a));
  ASSIGN_OR_RETURN(shard.device, CreateBackend(device, a.activations));
  ASSIGN_OR_RETURN(shard.connection, Connect(a, device, hooks));
  kernels::Backend* backend = shard.device.get();
  comm::Communicator* comm = shard.connection.get();
  if (device.trace != nullptr) {
    shard.traced_device = forward::TraceBackend(*backend, *device.trace, a.rank);
    shard.traced = forward::TraceCommunicator(*comm, *device.trace);
    backend = shard.traced_device.get();
    comm = shard.traced.get();
  }
  shard.metered = MeterCommunicator(*comm, metrics);
  hooks.connected(*shard.metered);

  engine::ShardOptions options;
  options.context = a.context;
  options.max_sequences = a.max_sequences > 0 ? a.max_sequences : kDefaultMaxSequences;
  options.kv_type = a.kv_type;
  options.weights = a.weights;
  ASSIGN_OR_RETURN(options.kv_budget_bytes, KvBudget(a, *shard.checkpoint, plan, device, *backend, *shard.metered));
  ASSIGN_OR_RETURN(shard.loaded, engine::ShardRunner::Create(*shard.checkpoint, plan, a.rank, *backend, *shard.metered,
                                                             options, hooks.progress));
  if (a.resident_tables) {
    model::HoldTables(*shard.checkpoint);
  }
  shard.runner = MeterRunner(*shard.loaded, metrics);
  return absl::OkStatus();
}

}  // namespace alphecca::worker

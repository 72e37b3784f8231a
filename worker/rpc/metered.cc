#include "worker/rpc/metered.h"

#include <string>

#include "absl/time/clock.h"
#include "common/status_macros.h"

namespace alphecca::worker {
namespace {

constexpr absl::Duration kExpertLoadEvery = absl::Seconds(1);

class Timer {
 public:
  explicit Timer(Histogram& seconds) : seconds_(seconds) {}
  ~Timer() { seconds_.Observe(absl::ToDoubleSeconds(absl::Nanoseconds(absl::GetCurrentTimeNanos() - start_))); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  Histogram& seconds_;
  const int64_t start_ = absl::GetCurrentTimeNanos();
};

class MeteredCommunicator final : public comm::Communicator {
 public:
  MeteredCommunicator(comm::Communicator& inner, WorkerMetrics& metrics) : inner_(inner), metrics_(metrics) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::string Kind() const override { return inner_.Kind(); }
  absl::Status AllReduce(kernels::Stream& stream, const kernels::Tensor& data) override {
    const Timer timer(metrics_.AllReduceSeconds());
    return inner_.AllReduce(stream, data);
  }
  absl::Status AllGather(kernels::Stream& stream, const void* send, int64_t bytes, void* recv) override {
    const Timer timer(metrics_.AllGatherSeconds());
    return inner_.AllGather(stream, send, bytes, recv);
  }
  absl::Status AllToAll(kernels::Stream& stream, const void* send, std::span<const int64_t> send_bytes, void* recv,
                        std::span<const int64_t> recv_bytes) override {
    const Timer timer(metrics_.AllToAllSeconds());
    return inner_.AllToAll(stream, send, send_bytes, recv, recv_bytes);
  }
  absl::Status ExchangeRows(kernels::Stream& stream, const comm::RowExchange& exchange) override {
    const Timer timer(metrics_.AllToAllSeconds());
    return inner_.ExchangeRows(stream, exchange);
  }
  absl::Status Barrier() override {
    const Timer timer(metrics_.BarrierSeconds());
    return inner_.Barrier();
  }
  void Abort(const std::string& reason) override { inner_.Abort(reason); }

 private:
  comm::Communicator& inner_;
  WorkerMetrics& metrics_;
};

class MeteredRunner final : public engine::ShardRunner {
 public:
  MeteredRunner(engine::ShardRunner& inner, WorkerMetrics& metrics) : inner_(inner), metrics_(metrics) {}
  ~MeteredRunner() override { metrics_.ClearExpertImbalance(load_.size()); }

  const engine::ShardLimits& limits() const override { return inner_.limits(); }
  forward::Gemma& gemma() override { return inner_.gemma(); }
  int64_t weight_bytes() const override { return inner_.weight_bytes(); }
  int64_t kv_bytes() const override { return inner_.kv_bytes(); }
  std::string fingerprint() const override { return inner_.fingerprint(); }
  absl::StatusOr<engine::StepResult> Run(const engine::StepPlan& plan) override {
    const Timer timer(metrics_.step_seconds);
    metrics_.steps.Increment();
    metrics_.step_rows.Increment(static_cast<double>(plan.rows.size()));
    absl::StatusOr<engine::StepResult> result = inner_.Run(plan);
    // Here and not on a thread of gauges: a backend is used by one thread at a time.
    const absl::Time now = absl::Now();
    if (result.ok() && now - load_read_at_ >= kExpertLoadEvery) {
      load_read_at_ = now;
      RETURN_IF_ERROR(ReadExpertLoad().status());
    }
    return result;
  }
  absl::StatusOr<forward::ExpertLoad> ReadExpertLoad() override {
    ASSIGN_OR_RETURN(forward::ExpertLoad load, inner_.ReadExpertLoad());
    metrics_.SetExpertLoad(load, load_);
    load_ = load;
    return load;
  }

 private:
  engine::ShardRunner& inner_;
  WorkerMetrics& metrics_;
  forward::ExpertLoad load_;  // as it was when last read
  absl::Time load_read_at_ = absl::InfinitePast();
};

}  // namespace

std::unique_ptr<comm::Communicator> MeterCommunicator(comm::Communicator& inner, WorkerMetrics& metrics) {
  return std::make_unique<MeteredCommunicator>(inner, metrics);
}

std::unique_ptr<engine::ShardRunner> MeterRunner(engine::ShardRunner& inner, WorkerMetrics& metrics) {
  return std::make_unique<MeteredRunner>(inner, metrics);
}

}  // namespace alphecca::worker

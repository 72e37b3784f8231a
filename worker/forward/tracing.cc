#include "worker/forward/tracing.h"

#include <algorithm>
#include <initializer_list>
#include <numeric>
#include <span>
#include <string>

#include "absl/time/clock.h"

namespace alphecca::forward {
namespace {

using kernels::Tensor;

int64_t Bytes(const Tensor& tensor) {
  return tensor.rows * tensor.cols * kernels::Info(tensor.type).block_bytes;
}

// Of an op that reads some tensors, writes others and does a few operations a value.
kernels::OpCost Streaming(std::initializer_list<Tensor> tensors, int64_t flops_per_value) {
  kernels::OpCost cost;
  for (const Tensor& tensor : tensors) {
    cost.bytes += Bytes(tensor);
    cost.flops = std::max(cost.flops, flops_per_value * tensor.rows * tensor.cols);
  }
  return cost;
}

int64_t VisibleKeys(std::span<const kernels::KeyRange> rows) {
  return std::accumulate(rows.begin(), rows.end(), int64_t{0}, [](int64_t sum, const kernels::KeyRange& range) {
    return sum + std::max(0, range.last - range.first + 1);
  });
}

class TracingBackend : public kernels::Backend {
 public:
  TracingBackend(kernels::Backend& inner, TraceFile& trace, int rank) : inner_(inner), trace_(trace), rank_(rank) {}

  std::string Name() const override { return inner_.Name(); }
  std::string IsaPath() const override { return inner_.IsaPath(); }
  kernels::Activations activations() const override { return inner_.activations(); }

  absl::StatusOr<std::unique_ptr<kernels::Buffer>> Allocate(int64_t bytes) override { return inner_.Allocate(bytes); }
  absl::StatusOr<std::unique_ptr<kernels::Matrix>> Pack(std::span<const kernels::PackSource> sources,
                                                        kernels::DType type) override {
    const absl::Time start = absl::Now();
    auto matrix = inner_.Pack(sources, type);
    trace_.Add("Pack", "load", rank_, start, absl::Now(), {.bytes = matrix.ok() ? (*matrix)->bytes : 0, .flops = 0});
    return matrix;
  }
  absl::StatusOr<std::unique_ptr<kernels::KvPool>> CreateKvPool(const kernels::KvPoolSpec& spec) override {
    return inner_.CreateKvPool(spec);
  }

  std::unique_ptr<kernels::Stream> CreateStream() override { return inner_.CreateStream(); }
  void Write(kernels::Stream& stream, kernels::Buffer& to, int64_t offset, std::span<const std::byte> from) override {
    inner_.Write(stream, to, offset, from);
  }
  absl::Status Read(kernels::Stream& stream, const void* device, std::span<std::byte> to) override {
    return inner_.Read(stream, device, to);
  }
  absl::Status Synchronize(kernels::Stream& stream) override { return inner_.Synchronize(stream); }
  std::unique_ptr<kernels::Step> Upload(kernels::Stream& stream, const kernels::StepInput& input, kernels::KvPool* full,
                                        kernels::KvPool* sliding) override {
    keys_[kernels::kFullPool] = VisibleKeys(input.full);
    keys_[kernels::kSlidingPool] = VisibleKeys(input.sliding);
    std::unique_ptr<kernels::Step> step;
    Span(stream, "Upload", {}, [&] { step = inner_.Upload(stream, input, full, sliding); });
    return step;
  }
  absl::Status ReserveSlots(int num_slots) override { return inner_.ReserveSlots(num_slots); }

  void Embed(kernels::Stream& s, const kernels::Step& step, const kernels::EmbedArgs& a) override {
    Span(s, "Embed", Streaming({a.out, a.out}, 1), [&] { inner_.Embed(s, step, a); });
  }
  void PerLayerInput(kernels::Stream& s, const kernels::Step& step, const kernels::PerLayerInputArgs& a) override {
    Span(s, "PerLayerInput", Streaming({a.ctx, a.out}, 6), [&] { inner_.PerLayerInput(s, step, a); });
  }
  void RmsNorm(kernels::Stream& s, const kernels::RmsNormArgs& a) override {
    Span(s, "RmsNorm", Streaming({a.in, a.out}, 4), [&] { inner_.RmsNorm(s, a); });
  }
  void ResidualNorm(kernels::Stream& s, const kernels::ResidualNormArgs& a) override {
    Span(s, "ResidualNorm", Streaming({a.x, a.x, a.y, a.out}, 10), [&] { inner_.ResidualNorm(s, a); });
  }
  void AddNorms(kernels::Stream& s, const kernels::AddNormsArgs& a) override {
    Span(s, "AddNorms", Streaming({a.a, a.b, a.out}, 9), [&] { inner_.AddNorms(s, a); });
  }
  void MatMul(kernels::Stream& s, const kernels::MatMulArgs& a) override {
    Span(s, "MatMul", Cost(a), [&] { inner_.MatMul(s, a); });
  }
  void GatedMatMul(kernels::Stream& s, const kernels::GatedMatMulArgs& a) override {
    Span(s, "GatedMatMul", Cost(a), [&] { inner_.GatedMatMul(s, a); });
  }
  void GeluMul(kernels::Stream& s, const kernels::GeluMulArgs& a) override {
    Span(s, "GeluMul", Streaming({a.a, a.a, a.b}, 9), [&] { inner_.GeluMul(s, a); });
  }
  void Qkv(kernels::Stream& s, const kernels::Step& step, const kernels::QkvArgs& a) override {
    Span(s, "Qkv", Streaming({a.qkv, a.qkv}, 8), [&] { inner_.Qkv(s, step, a); });
  }
  void Attend(kernels::Stream& s, const kernels::Step& step, const kernels::AttendArgs& a) override {
    Span(s, "Attend", Cost(a, keys_[a.pool_kind]), [&] { inner_.Attend(s, step, a); });
  }
  void Route(kernels::Stream& s, const kernels::RouteArgs& a) override {
    Span(s, "Route", Streaming({a.logits, a.ids, a.weights}, 4), [&] { inner_.Route(s, a); });
  }
  void PlaceExperts(kernels::Stream& s, const kernels::Step& step, const kernels::PlaceExpertsArgs& a) override {
    Span(s, "PlaceExperts", Streaming({a.ids, a.ids}, 0), [&] { inner_.PlaceExperts(s, step, a); });
  }
  void Dispatch(kernels::Stream& s, const kernels::Step& step, const kernels::DispatchArgs& a) override {
    Span(s, "Dispatch", Streaming({a.in, a.out}, 0), [&] { inner_.Dispatch(s, step, a); });
  }
  void Combine(kernels::Stream& s, const kernels::CombineArgs& a) override {
    Span(s, "Combine", Streaming({a.in, a.out}, 1), [&] { inner_.Combine(s, a); });
  }
  void Experts(kernels::Stream& s, const kernels::ExpertsArgs& a) override {
    Span(s, "Experts", Cost(a), [&] { inner_.Experts(s, a); });
  }
  void GatherRows(kernels::Stream& s, const kernels::Step& step, const kernels::GatherRowsArgs& a) override {
    Span(s, "GatherRows", Streaming({a.out, a.out}, 0), [&] { inner_.GatherRows(s, step, a); });
  }
  void Softcap(kernels::Stream& s, const kernels::SoftcapArgs& a) override {
    Span(s, "Softcap", Streaming({a.logits, a.logits}, 3), [&] { inner_.Softcap(s, a); });
  }
  void Candidates(kernels::Stream& s, const kernels::Step& step, const kernels::CandidatesArgs& a) override {
    Span(s, "Candidates", Streaming({a.logits}, 4), [&] { inner_.Candidates(s, step, a); });
  }
  void Choose(kernels::Stream& s, const kernels::Step& step, const kernels::ChooseArgs& a) override {
    const int64_t bytes = a.ranks * step.logit_rows * kernels::CandidateRecordBytes(a.count);
    Span(s, "Choose", {.bytes = bytes, .flops = 0}, [&] { inner_.Choose(s, step, a); });
  }

  void KvCopy(kernels::Stream& s, kernels::KvPool& pool, int32_t from, int32_t to) override {
    Span(s, "KvCopy", {}, [&] { inner_.KvCopy(s, pool, from, to); });
  }
  absl::Status KvExport(kernels::Stream& s, const kernels::KvPool& pool, int layer, int32_t slot, Range positions,
                        std::span<float> key, std::span<float> value) override {
    return inner_.KvExport(s, pool, layer, slot, positions, key, value);
  }
  absl::Status KvImport(kernels::Stream& s, kernels::KvPool& pool, int layer, int32_t slot, Range positions,
                        std::span<const float> key, std::span<const float> value) override {
    return inner_.KvImport(s, pool, layer, slot, positions, key, value);
  }
  int64_t WorkspaceBytes(int64_t max_rows) const override { return inner_.WorkspaceBytes(max_rows); }

 private:
  template <typename Op>
  void Span(kernels::Stream& stream, const char* name, const kernels::OpCost& cost, Op op) {
    const absl::Time start = absl::Now();
    op();
    // A fault is sticky: it surfaces at the caller's next Read.
    inner_.Synchronize(stream).IgnoreError();
    trace_.Add(name, "op", rank_, start, absl::Now(), cost);
  }

  kernels::Backend& inner_;
  TraceFile& trace_;
  const int rank_;
  int64_t keys_[2] = {0, 0};  // visible to the rows of the last uploaded step, by PoolKind
};

class TracingCommunicator : public comm::Communicator {
 public:
  TracingCommunicator(comm::Communicator& inner, TraceFile& trace) : inner_(inner), trace_(trace) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::string Kind() const override { return inner_.Kind(); }

  absl::Status AllReduce(kernels::Stream& stream, const Tensor& data) override {
    const kernels::OpCost cost{.bytes = Bytes(data), .flops = (size() - 1) * data.rows * data.cols};
    return Span("AllReduce", cost, [&] { return inner_.AllReduce(stream, data); });
  }
  absl::Status AllGather(kernels::Stream& stream, const void* send, int64_t bytes, void* recv) override {
    return Span("AllGather", {.bytes = size() * bytes, .flops = 0},
                [&] { return inner_.AllGather(stream, send, bytes, recv); });
  }
  absl::Status AllToAll(kernels::Stream& stream, const void* send, std::span<const int64_t> send_bytes, void* recv,
                        std::span<const int64_t> recv_bytes) override {
    const int64_t bytes = std::accumulate(recv_bytes.begin(), recv_bytes.end(), int64_t{0});
    return Span("AllToAll", {.bytes = bytes, .flops = 0},
                [&] { return inner_.AllToAll(stream, send, send_bytes, recv, recv_bytes); });
  }
  absl::Status ExchangeRows(kernels::Stream& stream, const comm::RowExchange& exchange) override {
    // How many rows travel is known on the device only: as many as can.
    return Span("ExchangeRows", {.bytes = Bytes(exchange.recv), .flops = 0},
                [&] { return inner_.ExchangeRows(stream, exchange); });
  }
  absl::Status Barrier() override {
    return Span("Barrier", {}, [&] { return inner_.Barrier(); });
  }
  void Abort(const std::string& reason) override { inner_.Abort(reason); }

 private:
  template <typename Collective>
  absl::Status Span(const char* name, const kernels::OpCost& cost, Collective collective) {
    const absl::Time start = absl::Now();
    absl::Status status = collective();
    trace_.Add(name, "collective", rank(), start, absl::Now(), cost);
    return status;
  }

  comm::Communicator& inner_;
  TraceFile& trace_;
};

}  // namespace

std::unique_ptr<kernels::Backend> TraceBackend(kernels::Backend& inner, TraceFile& trace, int rank) {
  return std::make_unique<TracingBackend>(inner, trace, rank);
}

std::unique_ptr<comm::Communicator> TraceCommunicator(comm::Communicator& inner, TraceFile& trace) {
  return std::make_unique<TracingCommunicator>(inner, trace);
}

}  // namespace alphecca::forward

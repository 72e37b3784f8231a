// What any backend in host memory shares: buffers, steps, KV pools, and the ops that only move or choose. Ops run at
// once, so a stream is a formality and a step is a copy of its input.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/host/host_kv_pool.h"
#include "kernels/host/host_matrix.h"
#include "kernels/host/host_memory.h"

namespace alphecca::kernels {

class HostBuffer : public Buffer {
 public:
  HostMemory memory;
};

class HostStream : public Stream {};

// Its own copy of a StepInput: it outlives the caller's spans.
class HostStep : public Step {
 public:
  std::vector<int32_t> tokens;  // as given: see HostBackend::TokenOf
  std::vector<int32_t> positions;
  std::vector<int32_t> slots;
  std::vector<KeyRange> visible[2];  // by PoolKind
  std::vector<int32_t> soft;         // [T] or empty
  std::vector<float> soft_rows;
  std::vector<int32_t> logit_list;  // [R] rows of the step
  std::vector<SamplingRow> sampling;
  std::vector<uint32_t> masks;  // [n, mask_words]
  int64_t mask_words = 0;

  bool IsSoft(int64_t row) const { return !soft.empty() && soft[static_cast<size_t>(row)] >= 0; }
  // The soft row of width d that stands for step row `row`; aborts if soft_rows ends before it.
  const float* SoftRow(int64_t row, int64_t d) const;
};

// Row `row` of a tensor of F32 or I32.
inline float* FloatRow(const Tensor& t, int64_t row) {
  return static_cast<float*>(t.data) + row * t.stride;
}
inline int32_t* IntRow(const Tensor& t, int64_t row) {
  return static_cast<int32_t*>(t.data) + row * t.stride;
}
// value + by, modulo 2^32.
inline void CountUp(int32_t& value, int64_t by) {
  value = static_cast<int32_t>(static_cast<uint32_t>(value) + static_cast<uint32_t>(by));
}
// The floats of a buffer, null for a null buffer; aborts if it holds fewer than `count`.
const float* Floats(const Buffer* buffer, int64_t count);

// Rows of a.in that there are.
int64_t LiveRows(const ExpertsArgs& a);

class HostBackend : public Backend {
 public:
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) override;
  // A HostMatrix; backends with a layout of their own override it.
  absl::StatusOr<std::unique_ptr<Matrix>> Pack(std::span<const PackSource> sources, DType type) override;
  absl::StatusOr<std::unique_ptr<KvPool>> CreateKvPool(const KvPoolSpec& spec) override;

  std::unique_ptr<Stream> CreateStream() override;
  void Write(Stream&, Buffer& to, int64_t offset, std::span<const std::byte> from) override;
  absl::Status Read(Stream&, const void* device, std::span<std::byte> to) override;
  absl::Status Synchronize(Stream&) override;
  std::unique_ptr<Step> Upload(Stream&, const StepInput& input, KvPool* full, KvPool* sliding) override;
  absl::Status ReserveSlots(int num_slots) override;

  void PlaceExperts(Stream&, const Step&, const PlaceExpertsArgs&) override;
  void Dispatch(Stream&, const Step&, const DispatchArgs&) override;
  void Combine(Stream&, const CombineArgs&) override;
  void GatherRows(Stream&, const Step&, const GatherRowsArgs&) override;
  void Softcap(Stream&, const SoftcapArgs&) override;
  void Candidates(Stream&, const Step&, const CandidatesArgs&) override;
  void Choose(Stream&, const Step&, const ChooseArgs&) override;

  void KvCopy(Stream&, KvPool& pool, int32_t from, int32_t to) override;
  absl::Status KvExport(Stream&, const KvPool& pool, int layer, int32_t slot, Range positions, std::span<float> key,
                        std::span<float> value) override;
  absl::Status KvImport(Stream&, KvPool& pool, int layer, int32_t slot, Range positions, std::span<const float> key,
                        std::span<const float> value) override;

 protected:
  static const HostStep& Host(const Step& step) { return static_cast<const HostStep&>(step); }
  static const HostMatrix& Host(const Matrix& matrix) { return static_cast<const HostMatrix&>(matrix); }
  static HostKvPool& Host(KvPool& pool) { return static_cast<HostKvPool&>(pool); }
  static const HostKvPool& Host(const KvPool& pool) { return static_cast<const HostKvPool&>(pool); }

  // The id of a step's row, looked up now: what its slot sampled last, where the step refers to that (-1 if the slot
  // has sampled nothing).
  int32_t TokenOf(const HostStep& step, int64_t row) const;

  // What changes the logits of logit row `row`; valid until the next step.
  Adjustment AdjustmentOf(const HostStep& step, int64_t row) const;

 private:
  void Open(const SlotOpening& opening);

  std::vector<int32_t> sampled_;                   // [num_slots]
  std::vector<std::unique_ptr<SlotRules>> rules_;  // [num_slots]; null: none
};

}  // namespace alphecca::kernels

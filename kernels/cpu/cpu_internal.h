// The class behind CreateCpuBackend, its ops spread over the files of this folder.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_matrix.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/host/host_backend.h"

namespace alphecca::kernels::cpu {

// Memory that an op needs for its own time: grows to the largest ever asked for and stays.
class Scratch {
 public:
  // At least `bytes`, on a cache line; what was there is lost. Ends the process if there is no such room.
  std::byte* Bytes(int64_t bytes);
  float* Floats(int64_t count) { return reinterpret_cast<float*>(Bytes(count * 4)); }
  int32_t* Ints(int64_t count) { return reinterpret_cast<int32_t*>(Bytes(count * 4)); }

 private:
  HostMemory memory_;
};

// Rows of one expert that are computed together, as a range of all experts' rows.
struct ExpertTile {
  int64_t expert = 0;
  int64_t first = 0;
  int64_t tokens = 0;
  int64_t first_packed = 0;  // its tiles of kTileTokens among those of all; few tokens have none
  int64_t end_packed() const {
    return first_packed + (tokens < kMinTileTokens ? 0 : (tokens + kTileTokens - 1) / kTileTokens);
  }
};

class CpuBackend : public HostBackend {
 public:
  CpuBackend(const KernelTable& kernels, Activations activations, int threads, std::span<const int> cpus = {});

  std::string Name() const override { return "cpu"; }
  std::string IsaPath() const override { return kernels_.name; }
  Activations activations() const override { return activations_; }
  int64_t WorkspaceBytes(int64_t max_rows) const override;

  // cpu_backend.cc
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) override;
  absl::StatusOr<std::unique_ptr<Matrix>> Pack(std::span<const PackSource> sources, DType type) override;
  void Write(Stream&, Buffer& to, int64_t offset, std::span<const std::byte> from) override;
  std::unique_ptr<Step> Upload(Stream&, const StepInput& input, KvPool* full, KvPool* sliding) override;
  // product.cc
  void MatMul(Stream&, const MatMulArgs&) override;
  void GatedMatMul(Stream&, const GatedMatMulArgs&) override;
  void GeluMul(Stream&, const GeluMulArgs&) override;
  // experts.cc
  void Route(Stream&, const RouteArgs&) override;
  void Experts(Stream&, const ExpertsArgs&) override;
  // rows.cc
  void Embed(Stream&, const Step&, const EmbedArgs&) override;
  void PerLayerInput(Stream&, const Step&, const PerLayerInputArgs&) override;
  void RmsNorm(Stream&, const RmsNormArgs&) override;
  void ResidualNorm(Stream&, const ResidualNormArgs&) override;
  void AddNorms(Stream&, const AddNormsArgs&) override;
  void Softcap(Stream&, const SoftcapArgs&) override;
  // qkv.cc
  void Qkv(Stream&, const Step&, const QkvArgs&) override;
  // attend.cc
  void Attend(Stream&, const Step&, const AttendArgs&) override;
  // candidates.cc
  void Candidates(Stream&, const Step&, const CandidatesArgs&) override;

 private:
  // Rows of activations in the form that products with a matrix read.
  struct Input {
    int64_t rows = 0;
    const float* floats = nullptr;
    int64_t stride = 0;
    QuantRows quant;  // records; null if not wanted
    QuantRows tiles;  // see TilePath; null if not wanted
  };
  struct Angles {
    const Step* step = nullptr;
    const float* frequencies = nullptr;
    int64_t half = 0;
    std::vector<float> cosine;  // [T, half]
    std::vector<float> sine;
  };

  static const CpuMatrix& Cpu(const Matrix& matrix) { return static_cast<const CpuMatrix&>(matrix); }

  bool UsesInt8(const CpuMatrix& m) const {
    return activations_ == Activations::kDefault && kernels_.panel_int8[static_cast<int>(m.type)] != nullptr;
  }
  bool UsesTiles(const CpuMatrix& m, int64_t tokens) const {
    return UsesInt8(m) && tokens >= kMinTileTokens && kernels_.tiles_int8[static_cast<int>(m.type)].panel != nullptr;
  }
  // product.cc: rows for products with a matrix, in `scratch` if it wants them quantised.
  Input Prepare(const CpuMatrix& m, const float* in, int64_t stride, int64_t rows, Scratch& scratch);
  // The same, but never in tiles, so that rows can be chosen from them.
  Input PrepareRecords(const CpuMatrix& m, const float* in, int64_t stride, int64_t rows, Scratch& scratch);
  // Rows index[0], index[1], .. of a matrix's input, one after another.
  Input Gather(const CpuMatrix& m, const Input& from, std::span<const int32_t> index, Scratch& scratch);
  // experts.cc: the records of each expert's rows in tiles, where there are rows enough for products of tiles.
  QuantRows PackExperts(const CpuMatrix& m, const Input& rows, std::span<const ExpertTile> tiles, Scratch& scratch);
  Input OfExpert(const CpuMatrix& m, const Input& rows, QuantRows packed, const ExpertTile& tile) const;
  // Groups of a matrix times the first `tokens` rows of the input.
  void RunPanels(const CpuMatrix& m, int64_t item, Range groups, const Input& input, int64_t tokens, float scale,
                 float* out, int64_t out_stride) const;
  // The same of a gated pair: gate rows begin at group 0, up rows at row `width`, a whole number of groups.
  void RunGatedPanels(const CpuMatrix& m, int64_t item, Range groups, const Input& input, int64_t tokens, float* out,
                      int64_t out_stride) const;
  static Input From(const Input& input, int64_t first);
  // Rows of activations that are computed together at most.
  int64_t Tile(const CpuMatrix& m) const;
  // Of `groups` groups that threads share out.
  int64_t GroupsAtATime(const CpuMatrix& m, int64_t groups, int64_t tokens) const;

  // 1 / sqrt(mean(x^2) + eps).
  float InverseRms(const float* x, int64_t n, float eps) const;
  // Calls f(row, thread) for each row, by several threads if that many elements are worth it.
  template <typename Function>
  void ForRows(int64_t rows, int64_t cols, Function f) {
    const int64_t grain = std::max<int64_t>(1, kSerialElements / std::max<int64_t>(cols, 1));
    pool_.Run(rows, grain, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t row = begin; row < end; ++row) {
        f(row, thread);
      }
    });
  }
  Scratch& Own(int thread) { return own_[static_cast<size_t>(thread)]; }

  const Angles& AnglesOf(const HostStep& step, const Buffer* frequencies, int64_t half);

  // Elements of simple work that are not worth waking a thread for.
  static constexpr int64_t kSerialElements = 16384;

  const KernelTable& kernels_;
  const Activations activations_;
  ThreadPool pool_;
  std::vector<Scratch> own_;  // of each thread
  Scratch quantised_;
  Scratch gathered_;
  Scratch packed_;
  Scratch middle_;
  Scratch quantised_middle_;
  Scratch expanded_;
  Scratch partial_;
  std::vector<Angles> angles_;
  int64_t widest_ = 0;  // rows or columns of any matrix so far
};

}  // namespace alphecca::kernels::cpu

#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "common/cpus.h"
#include "common/status_macros.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/isa.h"

namespace alphecca::kernels {
namespace cpu {

std::byte* Scratch::Bytes(int64_t bytes) {
  if (bytes > memory_.bytes()) {
    auto memory = HostMemory::Create(bytes + bytes / 4);
    Check(memory.ok(), "memory for the scratch of an op");
    memory_ = *std::move(memory);
  }
  return memory_.data();
}

CpuBackend::CpuBackend(const KernelTable& kernels, Activations activations, int threads, std::span<const int> cpus)
    : kernels_(kernels), activations_(activations), pool_(threads, cpus), own_(static_cast<size_t>(pool_.threads())) {}

// Quantised rows, the middle of a gated pair or of experts, and partial attention: a bound for plain layers; experts
// add their own, which depends on how many a token has.
int64_t CpuBackend::WorkspaceBytes(int64_t max_rows) const {
  return 2 * max_rows * (QuantRowBytes(widest_) + widest_ * static_cast<int64_t>(sizeof(float)));
}

// A new buffer may lie where frequencies lay before.
absl::StatusOr<std::unique_ptr<Buffer>> CpuBackend::Allocate(int64_t bytes) {
  angles_.clear();
  return HostBackend::Allocate(bytes);
}

absl::StatusOr<std::unique_ptr<Matrix>> CpuBackend::Pack(std::span<const PackSource> sources, DType type) {
  ASSIGN_OR_RETURN(std::unique_ptr<CpuMatrix> matrix, PackCpu(sources, type, pool_));
  // The vocabulary's rows are outputs of the caller's; nothing here is as long as they are.
  widest_ = std::max({widest_, matrix->cols, std::min<int64_t>(matrix->rows, 65536)});
  return matrix;
}

void CpuBackend::Write(Stream& stream, Buffer& to, int64_t offset, std::span<const std::byte> from) {
  angles_.clear();
  HostBackend::Write(stream, to, offset, from);
}

std::unique_ptr<Step> CpuBackend::Upload(Stream& stream, const StepInput& input, KvPool* full, KvPool* sliding) {
  angles_.clear();
  return HostBackend::Upload(stream, input, full, sliding);
}

}  // namespace cpu

std::unique_ptr<Backend> CreateCpuBackend(const BackendOptions& options) {
  const char* isa = std::getenv("ALPHECCA_CPU_ISA");
  const int threads = options.threads > 0 ? options.threads : UsableThreads();
  std::vector<int> cpus;
  if (options.pin_threads) {
    cpus = AllowedCpus();
    if (cpus.size() != static_cast<size_t>(threads)) {
      cpus.clear();
    }
  }
  return std::make_unique<cpu::CpuBackend>(cpu::ChooseKernels(isa != nullptr ? isa : ""), options.activations, threads,
                                           cpus);
}

}  // namespace alphecca::kernels

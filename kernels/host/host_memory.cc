#include "kernels/host/host_memory.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace alphecca::kernels {

absl::StatusOr<HostMemory> HostMemory::Create(int64_t bytes) {
  if (bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("allocation of ", bytes, " bytes: want 0 or more"));
  }
  HostMemory memory;
  // calloc gives untouched zero pages for large sizes, where a fill would commit them all.
  memory.owner_.reset(bytes <= INT64_MAX - kAlignment ? std::calloc(1, static_cast<size_t>(bytes + kAlignment))
                                                      : nullptr);
  if (memory.owner_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
  }
  const auto address = reinterpret_cast<uintptr_t>(memory.owner_.get());
  const uintptr_t aligned = (address + kAlignment - 1) / kAlignment * kAlignment;
  memory.data_ = static_cast<std::byte*>(memory.owner_.get()) + (aligned - address);
  memory.bytes_ = bytes;
  return memory;
}

}  // namespace alphecca::kernels

// Zeroed memory on a cache-line boundary, committed page by page as it is first touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "absl/status/statusor.h"

namespace alphecca::kernels {

class HostMemory {
 public:
  static constexpr int64_t kAlignment = 64;

  HostMemory() = default;
  // InvalidArgument if bytes is negative, ResourceExhausted if the system has no such room.
  static absl::StatusOr<HostMemory> Create(int64_t bytes);

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> owner_;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace alphecca::kernels

#include "kernels/ref/ref_backend.h"

#include <memory>

#include "kernels/ref/ref_internal.h"

namespace alphecca::kernels {

int64_t RefBackend::WorkspaceBytes(int64_t) const {
  return 0;
}

std::unique_ptr<Backend> CreateRefBackend(const BackendOptions&) {
  return std::make_unique<RefBackend>();
}

}  // namespace alphecca::kernels

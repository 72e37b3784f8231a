#include "coordinator/routing/admission.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/request/errors.h"

namespace alphecca::coordinator {

Admission::Ticket::Ticket(Admission* owner, std::string tenant, int sequences, int64_t bytes)
    : owner_(owner), tenant_(std::move(tenant)), sequences_(sequences), bytes_(bytes) {}

Admission::Ticket::Ticket(Ticket&& other) noexcept {
  *this = std::move(other);
}

Admission::Ticket& Admission::Ticket::operator=(Ticket&& other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(tenant_, other.tenant_);
  std::swap(sequences_, other.sequences_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Admission::Ticket::~Ticket() {
  if (owner_ != nullptr) {
    owner_->GiveBack(tenant_, sequences_, bytes_);
  }
}

absl::StatusOr<Admission::Ticket> Admission::Admit(const std::string& tenant, int sequences, int64_t bytes) {
  const MutexLock lock(mutex_);
  if (draining_) {
    return absl::UnavailableError("this coordinator is shutting down; retry elsewhere");
  }
  const auto full = [&](const std::string& what) { return RetryLater(what, options_.retry_after); };
  if (!of_tenants_.Allows(tenant, sequences, int64_t{open_} + sequences)) {
    return full(absl::StrCat(open_, " sequences are open, at most ", options_.max_sequences, " may be"));
  }
  if (bytes_ + bytes > options_.max_request_bytes) {
    return full(absl::StrCat("open requests hold ", bytes_, " bytes, this one would add ", bytes, "; at most ",
                             options_.max_request_bytes, " may be held"));
  }
  open_ += sequences;
  bytes_ += bytes;
  of_tenants_.Take(tenant, sequences);
  return Ticket(this, tenant, sequences, bytes);
}

void Admission::GiveBack(const std::string& tenant, int sequences, int64_t bytes) {
  const MutexLock lock(mutex_);
  open_ -= sequences;
  bytes_ -= bytes;
  of_tenants_.GiveBack(tenant, sequences);
}

void Admission::Drain() {
  const MutexLock lock(mutex_);
  draining_ = true;
}

int Admission::open_sequences() const {
  const MutexLock lock(mutex_);
  return open_;
}

}  // namespace alphecca::coordinator

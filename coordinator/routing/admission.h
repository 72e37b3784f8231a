// How much may be open at once: a bound on what clients can make this process hold, fair between tenants.
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/fair_bound.h"
#include "common/mutex.h"

namespace alphecca::coordinator {

struct AdmissionOptions {
  int max_sequences = 4096;                        // open at once: see FairBound
  int64_t max_request_bytes = int64_t{256} << 20;  // of requests being held, of all tenants together
  absl::Duration retry_after = absl::Seconds(1);
};

// Thread-safe.
class Admission {
 public:
  // Room for one request; gives it back when destroyed. Must not outlive the Admission.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept;
    Ticket& operator=(Ticket&& other) noexcept;
    ~Ticket();

   private:
    friend class Admission;
    Ticket(Admission* owner, std::string tenant, int sequences, int64_t bytes);
    Admission* owner_ = nullptr;
    std::string tenant_;
    int sequences_ = 0;
    int64_t bytes_ = 0;
  };

  explicit Admission(const AdmissionOptions& options) : options_(options), of_tenants_(options.max_sequences) {}

  // ResourceExhausted (with a delay after which to retry, see request/errors.h): no room. Unavailable: draining.
  absl::StatusOr<Ticket> Admit(const std::string& tenant, int sequences, int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // From now on nothing is admitted.
  void Drain() ABSL_LOCKS_EXCLUDED(mutex_);
  int open_sequences() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void GiveBack(const std::string& tenant, int sequences, int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  const AdmissionOptions options_;
  mutable Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  int open_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  FairBound of_tenants_ ABSL_GUARDED_BY(mutex_);  // sequences
};

}  // namespace alphecca::coordinator

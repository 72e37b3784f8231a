// A timeline of what a worker does: a file in Chrome's trace form (chrome://tracing, Perfetto), one row a rank.
//
// The file is a JSON array that is never closed, which the form allows: it is readable after a crash, too.
#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/backend.h"

namespace alphecca::forward {

// Thread-safe.
class TraceFile {
 public:
  // Overwrites the file. PermissionDenied names it.
  static absl::StatusOr<std::unique_ptr<TraceFile>> Create(const std::string& path);
  ~TraceFile();

  // One finished span. category: "op", "collective" or "load". Cost: bytes moved and operations done, from which the
  // viewer's user reads bandwidth and rate.
  void Add(std::string_view name, std::string_view category, int rank, absl::Time start, absl::Time end,
           const kernels::OpCost& cost);

 private:
  explicit TraceFile(std::ofstream file);
  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Time zero_;
  absl::Mutex mutex_;
  std::ofstream file_ ABSL_GUARDED_BY(mutex_);
  std::string pending_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::forward

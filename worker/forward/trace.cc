#include "worker/forward/trace.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace alphecca::forward {
namespace {

// A step of a large model is some thousand spans of 150 bytes: written out now and then.
constexpr size_t kFlushBytes = size_t{1} << 20;

}  // namespace

TraceFile::TraceFile(std::ofstream file) : zero_(absl::Now()), file_(std::move(file)) {}

TraceFile::~TraceFile() {
  const absl::MutexLock lock(&mutex_);
  Flush();
}

absl::StatusOr<std::unique_ptr<TraceFile>> TraceFile::Create(const std::string& path) {
  std::ofstream file(path, std::ios::trunc);
  file << "[\n";
  if (!file.flush()) {
    return absl::PermissionDeniedError(absl::StrFormat("--trace %s: the file cannot be written", path));
  }
  return std::unique_ptr<TraceFile>(new TraceFile(std::move(file)));
}

void TraceFile::Add(std::string_view name, std::string_view category, int rank, absl::Time start, absl::Time end,
                    const kernels::OpCost& cost) {
  const std::string event = absl::StrFormat(
      R"({"name":"%s","cat":"%s","ph":"X","pid":1,"tid":%d,"ts":%.3f,"dur":%.3f,"args":{"bytes":%d,"flops":%d}},)"
      "\n",
      name, category, rank, absl::ToDoubleMicroseconds(start - zero_), absl::ToDoubleMicroseconds(end - start),
      cost.bytes, cost.flops);
  const absl::MutexLock lock(&mutex_);
  pending_ += event;
  if (pending_.size() >= kFlushBytes) {
    Flush();
  }
}

void TraceFile::Flush() {
  file_ << pending_;
  file_.flush();
  pending_.clear();
}

}  // namespace alphecca::forward

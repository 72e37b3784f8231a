// The client's end of one Generate or Chat: writes a Generation's events as fast as the client takes them.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "coordinator/request/generation.h"
#include "coordinator/routing/admission.h"

namespace alphecca::coordinator {

// A request that passed all checks, and how its events are written.
struct PreparedGeneration {
  std::shared_ptr<Generation> generation;
  std::function<grpc::ByteBuffer(GenerationEvent)> serialize;
  Admission::Ticket ticket;
};

// Owns itself until OnDone. Never writes from under a lock.
class GenerationReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  using Done = std::function<void(const absl::Status& status, const Generation* generation)>;

  static std::shared_ptr<GenerationReactor> Create(Done done);
  explicit GenerationReactor(Done done) : done_(std::move(done)) {}

  // Once, by any thread: what to write, or why there is nothing. Starts the generation.
  void Run(absl::StatusOr<PreparedGeneration> prepared) ABSL_LOCKS_EXCLUDED(mutex_);
  // The generation may have something new.
  void Pump() ABSL_LOCKS_EXCLUDED(mutex_);
  // The client went before Run: nothing needs to be prepared.
  bool cancelled() const ABSL_LOCKS_EXCLUDED(mutex_);

  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone() override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void End(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  const Done done_;
  std::shared_ptr<GenerationReactor> self_;  // until OnDone
  grpc::ByteBuffer writing_bytes_;           // the writer's while writing_

  mutable Mutex mutex_;
  std::optional<PreparedGeneration> prepared_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;  // a write is in flight, or a thread looks for one
  bool again_ ABSL_GUARDED_BY(mutex_) = false;    // something came while writing_
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status final_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::coordinator

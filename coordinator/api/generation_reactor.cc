#include "coordinator/api/generation_reactor.h"

#include <utility>

#include "coordinator/rpc/convert.h"

namespace alphecca::coordinator {

std::shared_ptr<GenerationReactor> GenerationReactor::Create(Done done) {
  auto reactor = std::make_shared<GenerationReactor>(std::move(done));
  reactor->self_ = reactor;
  return reactor;
}

void GenerationReactor::Run(absl::StatusOr<PreparedGeneration> prepared) {
  if (!prepared.ok()) {
    End(prepared.status());
    return;
  }
  const std::shared_ptr<Generation> generation = prepared->generation;
  bool cancelled = false;
  {
    const MutexLock lock(mutex_);
    cancelled = cancelled_;
    prepared_ = *std::move(prepared);
  }
  if (cancelled) {
    End(absl::CancelledError("the client cancelled"));
    return;
  }
  generation->Start();
  Pump();
}

bool GenerationReactor::cancelled() const {
  const MutexLock lock(mutex_);
  return cancelled_;
}

void GenerationReactor::Pump() {
  std::shared_ptr<Generation> generation;
  const std::function<grpc::ByteBuffer(GenerationEvent)>* serialize = nullptr;
  {
    const MutexLock lock(mutex_);
    if (finished_ || !prepared_) {
      return;
    }
    if (writing_) {
      again_ = true;
      return;
    }
    writing_ = true;  // ours, until there turns out to be nothing to write
    again_ = false;
    generation = prepared_->generation;
    serialize = &prepared_->serialize;  // stays while writing_
  }
  while (true) {
    if (std::optional<GenerationEvent> event = generation->Next()) {
      writing_bytes_ = (*serialize)(*std::move(event));
      StartWrite(&writing_bytes_);
      return;
    }
    const std::optional<absl::Status> over = generation->Finished();
    {
      const MutexLock lock(mutex_);
      if (!over && !cancelled_ && std::exchange(again_, false)) {
        continue;
      }
      writing_ = false;
      if (!over && !cancelled_) {
        return;
      }
    }
    End(over ? *over : absl::CancelledError("the client cancelled"));
    return;
  }
}

void GenerationReactor::OnWriteDone(bool ok) {
  bool cancelled = false;
  {
    const MutexLock lock(mutex_);
    writing_ = false;
    cancelled = cancelled_ || !ok;
  }
  if (cancelled) {
    End(absl::CancelledError("the client cancelled"));
  } else {
    Pump();
  }
}

void GenerationReactor::OnCancel() {
  std::shared_ptr<Generation> generation;
  bool writing = false;
  {
    const MutexLock lock(mutex_);
    cancelled_ = true;
    writing = writing_;
    if (prepared_) {
      generation = prepared_->generation;
    }
  }
  if (generation == nullptr) {
    return;  // Run sees it
  }
  generation->Cancel();
  if (!writing) {
    End(absl::CancelledError("the client cancelled"));
  }
}

void GenerationReactor::End(const absl::Status& status) {
  std::shared_ptr<Generation> generation;
  {
    const MutexLock lock(mutex_);
    if (finished_ || writing_) {
      return;  // after the write, OnWriteDone comes here
    }
    finished_ = true;
    final_ = status;
    if (prepared_) {
      generation = prepared_->generation;
    }
  }
  if (generation != nullptr && !status.ok()) {
    generation->Cancel();
  }
  Finish(ToGrpc(status));
}

void GenerationReactor::OnDone() {
  absl::Status status;
  std::optional<PreparedGeneration> prepared;
  {
    const MutexLock lock(mutex_);
    status = cancelled_ && final_.ok() ? absl::CancelledError("the client cancelled") : final_;
    prepared = std::move(prepared_);
    prepared_.reset();
  }
  done_(status, prepared ? prepared->generation.get() : nullptr);
  const std::shared_ptr<GenerationReactor> last = std::move(self_);
}

}  // namespace alphecca::coordinator

// The way to an engine that may end at any moment: streams hold the gate, never the engine.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "alphecca/v1/engine.pb.h"
#include "worker/engine/engine.h"

namespace alphecca::worker {

// A client's end of a gate.
class GateClient : public engine::TokenSink, public engine::BlockWatcher {
 public:
  // The engine has ended: nothing comes after this. Called once, by the thread that closes the gate. Must not block.
  virtual void OnClosed(const absl::Status& why) = 0;
};

// Thread-safe. Calls reach the engine while the gate is open; afterwards they do nothing.
class EngineGate {
 public:
  // `engine` must live until Close returns.
  EngineGate(engine::Engine& engine, v1::Welcome welcome) : welcome_(std::move(welcome)), engine_(&engine) {}

  const v1::Welcome& welcome() const { return welcome_; }

  // Unavailable: closed.
  absl::Status Attach(const std::shared_ptr<GateClient>& client);
  // Ends all sequences of the client and its watch; it is not called again after the return.
  void Detach(const std::shared_ptr<GateClient>& client);

  // As the engine's. Unavailable: closed, or no sequences are admitted any more.
  absl::Status Open(const std::shared_ptr<GateClient>& client, engine::SequenceRequest request);
  void Cancel(const std::shared_ptr<GateClient>& client, SequenceId id);
  void Credit(const std::shared_ptr<GateClient>& client, SequenceId id, int32_t tokens);
  void Watch(const std::shared_ptr<GateClient>& client);

  engine::EngineCounts counts() const;
  // Refuses new sequences from now on; those there go on.
  void StopAdmitting(const std::string& why);
  // Stops the engine (its sequences end with `why`), tells all clients, forgets the engine.
  void Close(const absl::Status& why);

 private:
  const v1::Welcome welcome_;
  // Readers call the engine; the writer takes it away, for a moment. The engine's own thread reads too, where a stream
  // ends in OnStep: it holds no lock of the engine's then.
  mutable absl::Mutex engine_mutex_;
  engine::Engine* engine_ ABSL_GUARDED_BY(engine_mutex_);
  absl::Status refusal_ ABSL_GUARDED_BY(engine_mutex_);

  absl::Mutex clients_mutex_;
  std::set<std::shared_ptr<GateClient>> clients_ ABSL_GUARDED_BY(clients_mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(clients_mutex_);
};

}  // namespace alphecca::worker

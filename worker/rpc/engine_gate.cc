#include "worker/rpc/engine_gate.h"

#include <utility>

namespace alphecca::worker {

absl::Status EngineGate::Attach(const std::shared_ptr<GateClient>& client) {
  const absl::MutexLock lock(&clients_mutex_);
  if (closed_.ok()) {
    clients_.insert(client);
  }
  return closed_;
}

void EngineGate::Detach(const std::shared_ptr<GateClient>& client) {
  {
    const absl::MutexLock lock(&clients_mutex_);
    clients_.erase(client);
  }
  const absl::ReaderMutexLock lock(&engine_mutex_);
  if (engine_ != nullptr) {
    engine_->Detach(client);
    engine_->Unwatch(client);
  }
}

absl::Status EngineGate::Open(const std::shared_ptr<GateClient>& client, engine::SequenceRequest request) {
  const absl::ReaderMutexLock lock(&engine_mutex_);
  if (!refusal_.ok()) {
    return refusal_;
  }
  return engine_->Open(client, std::move(request));
}

void EngineGate::Cancel(const std::shared_ptr<GateClient>& client, SequenceId id) {
  const absl::ReaderMutexLock lock(&engine_mutex_);
  if (engine_ != nullptr) {
    engine_->Cancel(client, id);
  }
}

void EngineGate::Credit(const std::shared_ptr<GateClient>& client, SequenceId id, int32_t tokens) {
  const absl::ReaderMutexLock lock(&engine_mutex_);
  if (engine_ != nullptr) {
    engine_->Credit(client, id, tokens);
  }
}

void EngineGate::Watch(const std::shared_ptr<GateClient>& client) {
  const absl::ReaderMutexLock lock(&engine_mutex_);
  if (engine_ != nullptr) {
    engine_->Watch(client);
  }
}

engine::EngineCounts EngineGate::counts() const {
  const absl::ReaderMutexLock lock(&engine_mutex_);
  return engine_ == nullptr ? engine::EngineCounts{} : engine_->counts();
}

void EngineGate::StopAdmitting(const std::string& why) {
  const absl::MutexLock lock(&engine_mutex_);
  if (refusal_.ok()) {
    refusal_ = absl::UnavailableError(why);
  }
}

void EngineGate::Close(const absl::Status& why) {
  engine::Engine* engine = nullptr;
  {
    const absl::MutexLock lock(&engine_mutex_);
    refusal_ = why;
    engine = std::exchange(engine_, nullptr);
  }
  if (engine != nullptr) {
    engine->Stop(why);  // ends every sequence, through the clients
  }
  std::set<std::shared_ptr<GateClient>> clients;
  {
    const absl::MutexLock lock(&clients_mutex_);
    closed_ = why;
    clients.swap(clients_);
  }
  for (const std::shared_ptr<GateClient>& client : clients) {
    client->OnClosed(why);
  }
}

}  // namespace alphecca::worker

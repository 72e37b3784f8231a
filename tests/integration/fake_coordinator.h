// A coordinator that does what a test tells it: takes workers in, assigns what it is given, remembers what they report.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "alphecca/v1/cluster.grpc.pb.h"

namespace alphecca::testing {

class FakeCoordinator final : public v1::Cluster::Service {
 public:
  // Port 0: any free one.
  explicit FakeCoordinator(int port = 0) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeCoordinator() override { Stop(); }

  // Ends all streams.
  void Stop() {
    if (server_ != nullptr) {
      server_->Shutdown(absl::ToChronoTime(absl::Now()));
      server_->Wait();
      server_.reset();
    }
  }
  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  grpc::Status Join(grpc::ServerContext*,
                    grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>* stream) override {
    v1::WorkerMessage message;
    if (!stream->Read(&message) || !message.has_register_()) {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no Register");
    }
    const std::string name = message.register_().name();
    {
      const absl::MutexLock lock(&mutex_);
      Worker& worker = workers_[name];
      worker = Worker{};
      worker.registration = message.register_();
      worker.stream = stream;
      v1::CoordinatorMessage answer;
      answer.mutable_registered()->set_worker_id(workers_.size());
      answer.mutable_registered()->set_heartbeat_interval_ms(100);
      answer.mutable_registered()->set_lease_ms(1000);
      stream->Write(answer);
    }
    while (stream->Read(&message)) {
      const absl::MutexLock lock(&mutex_);
      Worker& worker = workers_[name];
      worker.heartbeats += message.has_heartbeat() ? 1 : 0;
      if (message.has_state()) {
        worker.reports.push_back(message.state());
      }
    }
    const absl::MutexLock lock(&mutex_);
    if (workers_[name].stream == stream) {
      workers_[name].stream = nullptr;
    }
    return grpc::Status::OK;
  }

  void Assign(const std::string& worker, const v1::Assignment& assignment) {
    v1::CoordinatorMessage message;
    *message.mutable_assignment() = assignment;
    Write(worker, message);
  }
  void Release(const std::string& worker, uint64_t epoch) {
    v1::CoordinatorMessage message;
    message.mutable_release()->set_epoch(epoch);
    message.mutable_release()->set_reason("the test says so");
    Write(worker, message);
  }

  // The registration of a worker, once it is a member.
  std::optional<v1::Register> AwaitWorker(const std::string& name, absl::Duration timeout = absl::Seconds(30)) {
    const auto there = [&] {
      mutex_.AssertHeld();
      return workers_.contains(name) && workers_[name].stream != nullptr;
    };
    const absl::MutexLock lock(&mutex_);
    if (!mutex_.AwaitWithTimeout(absl::Condition(&there), timeout)) {
      return std::nullopt;
    }
    return workers_[name].registration;
  }
  bool AwaitGone(const std::string& name, absl::Duration timeout = absl::Seconds(10)) {
    const auto gone = [&] {
      mutex_.AssertHeld();
      return workers_[name].stream == nullptr;
    };
    const absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&gone), timeout);
  }
  bool AwaitHeartbeats(const std::string& name, int count) {
    const auto enough = [&] {
      mutex_.AssertHeld();
      return workers_[name].heartbeats >= count;
    };
    const absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(30));
  }
  // The first report of the epoch in this state.
  std::optional<v1::StateReport> AwaitState(const std::string& name, uint64_t epoch, v1::ShardState state,
                                            absl::Duration timeout = absl::Seconds(60)) {
    std::optional<v1::StateReport> found;
    const auto reported = [&] {
      mutex_.AssertHeld();
      for (const v1::StateReport& report : workers_[name].reports) {
        if (report.epoch() == epoch && report.state() == state) {
          found = report;
        }
      }
      return found.has_value();
    };
    const absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&reported), timeout);
    return found;
  }
  std::vector<v1::StateReport> Reports(const std::string& name) {
    const absl::MutexLock lock(&mutex_);
    return workers_[name].reports;
  }

 private:
  struct Worker {
    v1::Register registration;
    grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>* stream = nullptr;
    int heartbeats = 0;
    std::vector<v1::StateReport> reports;
  };

  void Write(const std::string& worker, const v1::CoordinatorMessage& message) {
    const absl::MutexLock lock(&mutex_);
    if (workers_[worker].stream != nullptr) {
      workers_[worker].stream->Write(message);
    }
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  absl::Mutex mutex_;
  std::map<std::string, Worker> workers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::testing

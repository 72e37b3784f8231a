#include "worker/comm/solo.h"

#include <cstring>
#include <string>

#include "common/mutex.h"

namespace alphecca::comm {
namespace {

class Solo final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string Kind() const override { return "solo"; }

  absl::Status AllReduce(kernels::Stream&, const kernels::Tensor&) override { return Status(); }

  absl::Status AllGather(kernels::Stream&, const void* send, int64_t bytes, void* recv) override {
    if (send != recv && bytes > 0) {
      std::memmove(recv, send, static_cast<size_t>(bytes));
    }
    return Status();
  }

  absl::Status AllToAll(kernels::Stream& stream, const void* send, std::span<const int64_t> send_bytes, void* recv,
                        std::span<const int64_t> recv_bytes) override {
    if (send_bytes.size() != 1 || recv_bytes.size() != 1 || send_bytes[0] != recv_bytes[0]) {
      return absl::InvalidArgumentError("AllToAll in a world of one takes one equal size each way");
    }
    return AllGather(stream, send, send_bytes[0], recv);
  }

  absl::Status Barrier() override { return Status(); }

  void Abort(const std::string& reason) override {
    MutexLock lock(mutex_);
    if (status_.ok()) {
      status_ = absl::UnavailableError(reason);
    }
  }

 private:
  absl::Status Status() {
    MutexLock lock(mutex_);
    return status_;
  }

  Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<Communicator> CreateSolo() {
  return std::make_unique<Solo>();
}

}  // namespace alphecca::comm

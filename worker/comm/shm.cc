#include "worker/comm/shm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "worker/comm/rank_sum.h"
#include "worker/comm/shm_segment.h"

namespace alphecca::comm {
namespace {

enum Op : uint32_t { kAllReduce = 1, kAllGather, kAllToAll, kBarrier };

const char* OpName(uint32_t op) {
  switch (op) {
    case kAllReduce:
      return "AllReduce";
    case kAllGather:
      return "AllGather";
    case kAllToAll:
      return "AllToAll";
    case kBarrier:
      return "Barrier";
    default:
      return "no collective";
  }
}

// Up to this many bytes each rank sums everything for itself: reading all regions costs less than a second meeting.
constexpr int64_t kSumAloneBytes = 64 * 1024;

void Copy(void* to, const void* from, int64_t bytes) {
  if (bytes > 0 && to != from) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
}

class ShmCommunicator final : public Communicator {
 public:
  ShmCommunicator(std::unique_ptr<ShmSegment> segment, int rank, int size, const ShmOptions& options)
      : segment_(std::move(segment)), rank_(rank), size_(size), options_(options) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string Kind() const override { return "shm"; }

  absl::Status AllReduce(kernels::Stream&, const kernels::Tensor& data) override {
    RETURN_IF_ERROR(Status());
    if (data.type != kernels::DType::kF32 || data.stride != data.cols || data.rows < 0 || data.cols < 0) {
      return Fail(absl::InternalError(absl::StrCat("AllReduce takes dense F32 rows, got ",
                                                   std::string(kernels::Info(data.type).name), " [", data.rows, ", ",
                                                   data.cols, "] with stride ", data.stride)));
    }
    float* values = static_cast<float*>(data.data);
    const int64_t count = data.rows * data.cols;
    const int64_t piece = options_.region_bytes / static_cast<int64_t>(sizeof(float));
    for (int64_t begin = 0; begin < count; begin += piece) {
      RETURN_IF_ERROR(ReducePiece(values + begin, std::min(piece, count - begin), count));
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(kernels::Stream&, const void* send, int64_t bytes, void* recv) override {
    RETURN_IF_ERROR(Status());
    const std::byte* from = static_cast<const std::byte*>(send);
    std::byte* to = static_cast<std::byte*>(recv);
    for (int64_t begin = 0; begin < bytes; begin += options_.region_bytes) {
      const int64_t n = std::min(options_.region_bytes, bytes - begin);
      Copy(segment_->input(parity_, rank_), from + begin, n);
      Copy(to + rank_ * bytes + begin, from + begin, n);
      RETURN_IF_ERROR(Meet(kAllGather, bytes, options_.timeout));
      for (int r = 0; r < size_; ++r) {
        if (r != rank_) {
          Copy(to + r * bytes + begin, segment_->input(parity_, r), n);
        }
      }
      parity_ ^= 1;
    }
    return absl::OkStatus();
  }

  absl::Status AllToAll(kernels::Stream&, const void* send, std::span<const int64_t> send_bytes, void* recv,
                        std::span<const int64_t> recv_bytes) override;

  absl::Status Barrier() override {
    RETURN_IF_ERROR(Status());
    RETURN_IF_ERROR(Meet(kBarrier, 0, options_.barrier_timeout));
    parity_ ^= 1;
    return absl::OkStatus();
  }

  void Abort(const std::string& reason) override { segment_->Abort(reason); }

 private:
  absl::Status Status() {
    if (!broken_.ok()) {
      return broken_;
    }
    return segment_->BrokenStatus();
  }

  // A use that would leave the ranks out of step ends the group.
  absl::Status Fail(absl::Status status) {
    broken_ = std::move(status);
    segment_->Abort(absl::StrCat("rank ", rank_, ": ", broken_.message()));
    return broken_;
  }

  absl::Status ReducePiece(float* values, int64_t count, int64_t total);
  // Meets the others, all of which must be in the same call.
  absl::Status Meet(Op op, int64_t bytes, absl::Duration timeout);

  std::unique_ptr<ShmSegment> segment_;
  const int rank_;
  const int size_;
  const ShmOptions options_;
  // Which of the two regions the next piece goes to. Two are enough: whoever has met the others over piece n + 1 knows
  // that they have read piece n.
  int parity_ = 0;
  absl::Status broken_;
};

absl::Status ShmCommunicator::Meet(Op op, int64_t bytes, absl::Duration timeout) {
  ShmCall& mine = segment_->call(parity_, rank_);
  mine.op = op;
  mine.bytes = bytes;
  RETURN_IF_ERROR(segment_->Meet(OpName(op), timeout));
  for (int r = 0; r < size_; ++r) {
    const ShmCall& theirs = segment_->call(parity_, r);
    if (theirs.op != op || theirs.bytes != bytes) {
      return Fail(
          absl::InternalError(absl::StrCat("ranks are out of step: rank ", rank_, " is in ", OpName(op), " of ", bytes,
                                           " bytes, rank ", r, " in ", OpName(theirs.op), " of ", theirs.bytes)));
    }
  }
  return absl::OkStatus();
}

absl::Status ShmCommunicator::ReducePiece(float* values, int64_t count, int64_t total) {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  Copy(segment_->input(parity_, rank_), values, bytes);
  RETURN_IF_ERROR(Meet(kAllReduce, total * static_cast<int64_t>(sizeof(float)), options_.timeout));
  const float* parts[kMaxShmRanks];
  const auto take_from = [&](int64_t begin) {
    for (int r = 0; r < size_; ++r) {
      parts[r] = reinterpret_cast<const float*>(segment_->input(parity_, r)) + begin;
    }
    return std::span<const float* const>(parts, static_cast<size_t>(size_));
  };
  if (bytes <= kSumAloneBytes) {
    SumInRankOrder(take_from(0), count, values);
  } else {
    const int64_t begin = count * rank_ / size_;
    const int64_t end = count * (rank_ + 1) / size_;
    float* sums = reinterpret_cast<float*>(segment_->sums());
    SumInRankOrder(take_from(begin), end - begin, sums + begin);
    RETURN_IF_ERROR(segment_->Meet(OpName(kAllReduce), options_.timeout));
    Copy(values, sums, bytes);
  }
  parity_ ^= 1;
  return absl::OkStatus();
}

absl::Status ShmCommunicator::AllToAll(kernels::Stream&, const void* send, std::span<const int64_t> send_bytes,
                                       void* recv, std::span<const int64_t> recv_bytes) {
  RETURN_IF_ERROR(Status());
  const size_t size = static_cast<size_t>(size_);
  const auto negative = [](int64_t n) { return n < 0; };
  if (send_bytes.size() != size || recv_bytes.size() != size ||
      std::any_of(send_bytes.begin(), send_bytes.end(), negative)) {
    return Fail(
        absl::InternalError(absl::StrCat("AllToAll takes a size >= 0 for each of ", size_, " ranks, got ",
                                         send_bytes.size(), " to send and ", recv_bytes.size(), " to receive")));
  }
  // A region is cut into one run for each receiver; the rank that needs the most pieces decides how many there are.
  const int64_t run = options_.region_bytes / size_;
  const int64_t most = *std::max_element(send_bytes.begin(), send_bytes.end());
  int64_t pieces = (most + run - 1) / run;
  for (int64_t piece = 0; piece == 0 || piece < pieces; ++piece) {
    ShmCall& mine = segment_->call(parity_, rank_);
    mine.pieces = static_cast<uint32_t>((most + run - 1) / run);
    std::copy(send_bytes.begin(), send_bytes.end(), mine.to_rank);
    const std::byte* from = static_cast<const std::byte*>(send);
    for (int r = 0; r < size_; ++r) {
      const int64_t begin = std::min(piece * run, send_bytes[r]);
      Copy(segment_->input(parity_, rank_) + r * run, from + begin, std::min(run, send_bytes[r] - begin));
      from += send_bytes[r];
    }
    RETURN_IF_ERROR(Meet(kAllToAll, 0, options_.timeout));
    std::byte* to = static_cast<std::byte*>(recv);
    for (int r = 0; r < size_; ++r) {
      const ShmCall& theirs = segment_->call(parity_, r);
      if (theirs.to_rank[rank_] != recv_bytes[r]) {
        return Fail(absl::InternalError(absl::StrCat("AllToAll: rank ", r, " sends ", theirs.to_rank[rank_],
                                                     " bytes to rank ", rank_, ", which expects ", recv_bytes[r])));
      }
      pieces = std::max<int64_t>(pieces, theirs.pieces);
      const int64_t begin = std::min(piece * run, recv_bytes[r]);
      Copy(to + begin, segment_->input(parity_, r) + rank_ * run, std::min(run, recv_bytes[r] - begin));
      to += recv_bytes[r];
    }
    parity_ ^= 1;
  }
  return absl::OkStatus();
}

absl::Status CheckShape(int rank, int size) {
  if (size < 1 || size > kMaxShmRanks) {
    return absl::InvalidArgumentError(
        absl::StrCat("a shared-memory group has 1 to ", kMaxShmRanks, " ranks, got ", size));
  }
  if (rank < 0 || rank >= size) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " is not within a group of ", size));
  }
  return absl::OkStatus();
}

uint64_t Fnv1a(uint64_t hash, const std::string& bytes) {
  for (const char c : bytes) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3ULL;
  }
  return hash;
}

absl::Status SystemError(const std::string& what, int error) {
  const std::string message = absl::StrCat(what, ": ", std::strerror(error));
  if (error == ENOSPC || error == ENOMEM || error == EMFILE || error == ENFILE) {
    return absl::ResourceExhaustedError(message);
  }
  return absl::UnavailableError(message);
}

// A file descriptor that closes itself until it is released.
class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  ~File() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

absl::StatusOr<std::shared_ptr<void>> Map(int fd, int64_t bytes) {
  const int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
  void* base = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, flags, fd, 0);
  if (base == MAP_FAILED) {
    return SystemError(absl::StrCat("mapping ", bytes, " bytes of shared memory"), errno);
  }
  return std::shared_ptr<void>(base, [bytes](void* p) { munmap(p, static_cast<size_t>(bytes)); });
}

// Opens the segment's file, at its full size, with this rank's byte locked.
absl::StatusOr<int> OpenSegment(const std::string& name, int rank, int64_t bytes) {
  File file(shm_open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  if (file.get() < 0) {
    return SystemError(absl::StrCat("opening shared memory ", name), errno);
  }
  struct stat info {};
  if (fstat(file.get(), &info) != 0 || info.st_uid != geteuid()) {
    return absl::UnavailableError(absl::StrCat("shared memory ", name, " belongs to another user"));
  }
  // Takes the pages now (a full /dev/shm is an error here, not a fault later) and never makes the file shorter.
  if (const int error = posix_fallocate(file.get(), 0, bytes); error != 0) {
    shm_unlink(name.c_str());
    return SystemError(absl::StrCat("taking ", bytes, " bytes of shared memory"), error);
  }
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  if (fcntl(file.get(), F_OFD_SETLK, &lock) != 0) {
    return absl::AlreadyExistsError(absl::StrCat("rank ", rank, " has joined already"));
  }
  return file.Release();
}

}  // namespace

absl::Status ShmOptions::Validate() const {
  if (region_bytes < 4096 || region_bytes > int64_t{1} << 30 || region_bytes % 64 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("region_bytes is ", region_bytes, ", must be a multiple of 64 from 4096 to 2^30"));
  }
  for (const absl::Duration limit : {timeout, barrier_timeout, join_timeout}) {
    if (limit <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a timeout is ", absl::FormatDuration(limit), ", must be above 0"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> CreateShmGroup(int size, const ShmOptions& options) {
  RETURN_IF_ERROR(CheckShape(0, size));
  RETURN_IF_ERROR(options.Validate());
  ASSIGN_OR_RETURN(const std::shared_ptr<void> memory, Map(-1, ShmSegment::Bytes(size, options)));
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < size; ++r) {
    auto segment = std::make_unique<ShmSegment>(memory, memory.get(), -1, r, size, options);
    ranks.push_back(std::make_unique<ShmCommunicator>(std::move(segment), r, size, options));
  }
  return ranks;
}

absl::StatusOr<std::unique_ptr<Communicator>> JoinShm(const std::string& secret, int rank, int size,
                                                      const ShmOptions& options) {
  RETURN_IF_ERROR(CheckShape(rank, size));
  RETURN_IF_ERROR(options.Validate());
  if (secret.empty()) {
    return absl::InvalidArgumentError("the secret of a shared-memory group is empty");
  }
  // Any user may list the names of segments, so the name tells only half of what must match.
  const std::string name = absl::StrFormat("/alphecca-%016x", Fnv1a(0xCBF29CE484222325ULL, secret));
  const uint64_t identity =
      Fnv1a(0x9E3779B97F4A7C15ULL, absl::StrCat(secret, "/", size, "/", options.region_bytes)) | 1;
  const int64_t bytes = ShmSegment::Bytes(size, options);
  ASSIGN_OR_RETURN(const int fd, OpenSegment(name, rank, bytes));
  File file(fd);
  ASSIGN_OR_RETURN(std::shared_ptr<void> memory, Map(fd, bytes));
  auto segment = std::make_unique<ShmSegment>(memory, memory.get(), file.Release(), rank, size, options);

  uint64_t expected = 0;
  ShmHeader& header = segment->header();
  if (!header.identity.compare_exchange_strong(expected, identity) && expected != identity) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " joins a group of ", size, " with regions of ",
                                                   options.region_bytes, " bytes, another rank a different one"));
  }
  header.joined.fetch_or(uint64_t{1} << rank, std::memory_order_acq_rel);
  const absl::Status all_here = segment->Meet("joining the group", options.join_timeout, options.give_up);
  shm_unlink(name.c_str());
  RETURN_IF_ERROR(all_here);
  return std::make_unique<ShmCommunicator>(std::move(segment), rank, size, options);
}

}  // namespace alphecca::comm

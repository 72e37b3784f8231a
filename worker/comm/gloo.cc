#include "worker/comm/gloo.h"

#include <gloo/context.h>
#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>
#include <netdb.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "common/status_macros.h"
#include "worker/comm/rank_sum.h"

namespace alphecca::comm {
namespace {

// With three ranks or more, sums up to this size are gathered whole and added by each rank: one exchange, not two.
constexpr int64_t kSumAloneBytes = 64 * 1024;

// A receive that stays open on every connection: a rank that ends sends its last words there, and a connection that
// breaks fails it even while the rank waits for another one.
constexpr uint64_t kWatchSlot = uint64_t{1} << 62;
constexpr size_t kLastWordsBytes = 256;
// How long an exchange under way may still take after a rank has gone: it may have sent all it had to.
constexpr absl::Duration kGrace = absl::Milliseconds(500);
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

std::chrono::milliseconds Milliseconds(absl::Duration d) {
  return std::chrono::milliseconds(std::max<int64_t>(1, absl::ToInt64Milliseconds(d)));
}

// The first address of `host` that this machine can listen on, in numbers. Gloo's own look-up ends in a fault where
// there is none.
absl::StatusOr<std::string> FindListenAddress(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found); error != 0) {
    return absl::UnavailableError(absl::StrCat("host ", host, ": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, freeaddrinfo);
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    const int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    const bool bound = fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0;
    if (fd >= 0) {
      close(fd);
    }
    char numbers[NI_MAXHOST];
    if (bound && getnameinfo(a->ai_addr, a->ai_addrlen, numbers, sizeof(numbers), nullptr, 0, NI_NUMERICHOST) == 0) {
      return std::string(numbers);
    }
  }
  return absl::UnavailableError(
      absl::StrCat("host ", host, " is no address of this machine: ranks on other hosts could not reach it"));
}

// Gloo's context with connections made through an exchange of addresses.
class MeshContext : public gloo::Context {
 public:
  MeshContext(int own_rank, int ranks) : gloo::Context(own_rank, ranks) {}

  // Throws what Gloo throws.
  absl::Status Connect(const GlooOptions& options, const ExchangeFn& exchange) {
    gloo::transport::tcp::attr attr;
    ASSIGN_OR_RETURN(attr.hostname, FindListenAddress(options.host));
    device_ = gloo::transport::tcp::CreateDevice(attr);
    transportContext_ = device_->createContext(rank, size);
    transportContext_->setTimeout(Milliseconds(options.timeout));
    setTimeout(Milliseconds(options.timeout));
    // One listening socket for each peer, all addresses of one size.
    std::string mine;
    size_t address_bytes = 0;
    for (int r = 0; r < size; ++r) {
      if (r != rank) {
        const std::vector<char> address = transportContext_->createPair(r)->address().bytes();
        address_bytes = address.size();
        mine.append(address.data(), address.size());
      }
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> all, exchange("gloo/addresses", mine));
    if (static_cast<int>(all.size()) != size) {
      return absl::InternalError(absl::StrCat("exchange gave ", all.size(), " values for ", size, " ranks"));
    }
    for (int r = 0; r < size; ++r) {
      if (r == rank) {
        continue;
      }
      if (all[r].size() != mine.size()) {
        return absl::InvalidArgumentError(absl::StrCat("rank ", r, " gave ", all[r].size(),
                                                       " bytes of addresses, rank ", rank, " ", mine.size(),
                                                       ": not the same build or group"));
      }
      // Peers leave themselves out of their list.
      const size_t index = static_cast<size_t>(rank < r ? rank : rank - 1);
      const char* address = all[r].data() + index * address_bytes;
      transportContext_->getPair(r)->connect(std::vector<char>(address, address + address_bytes));
    }
    return absl::OkStatus();
  }

  void Close() {
    for (int r = 0; r < size; ++r) {
      if (r != rank && transportContext_ != nullptr && transportContext_->getPair(r) != nullptr) {
        transportContext_->getPair(r)->close();
      }
    }
  }
};

// What goes to and comes from one peer in one exchange.
struct Piece {
  const void* send = nullptr;
  int64_t send_bytes = 0;
  void* recv = nullptr;
  int64_t recv_bytes = 0;
};

class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(std::unique_ptr<MeshContext> context, const GlooOptions& options)
      : context_(std::move(context)), options_(options) {}

  ~GlooCommunicator() override {
    Abort(absl::StrCat("rank ", rank(), " left the group"));
    if (watcher_.joinable()) {
      watcher_.join();
    }
  }

  // Starts to look out for ranks that end. Throws what Gloo throws.
  void Watch();

  int rank() const override { return context_->rank; }
  int size() const override { return context_->size; }
  std::string Kind() const override { return "gloo"; }

  absl::Status AllReduce(kernels::Stream& stream, const kernels::Tensor& data) override;
  absl::Status AllGather(kernels::Stream&, const void* send, int64_t bytes, void* recv) override {
    std::vector<Piece> pieces(static_cast<size_t>(size()));
    std::byte* to = static_cast<std::byte*>(recv);
    for (int r = 0; r < size(); ++r) {
      pieces[r] = {send, bytes, to + r * bytes, bytes};
    }
    return Exchange("AllGather", pieces, options_.timeout);
  }

  absl::Status AllToAll(kernels::Stream&, const void* send, std::span<const int64_t> send_bytes, void* recv,
                        std::span<const int64_t> recv_bytes) override {
    if (send_bytes.size() != static_cast<size_t>(size()) || recv_bytes.size() != send_bytes.size()) {
      return Break(absl::InternalError(absl::StrCat("AllToAll takes a size for each of ", size(), " ranks, got ",
                                                    send_bytes.size(), " and ", recv_bytes.size())));
    }
    std::vector<Piece> pieces(send_bytes.size());
    const std::byte* from = static_cast<const std::byte*>(send);
    std::byte* to = static_cast<std::byte*>(recv);
    for (size_t r = 0; r < pieces.size(); ++r) {
      pieces[r] = {from, send_bytes[r], to, recv_bytes[r]};
      from += send_bytes[r];
      to += recv_bytes[r];
    }
    return Exchange("AllToAll", pieces, options_.timeout);
  }

  absl::Status Barrier() override {
    std::vector<Piece> pieces(static_cast<size_t>(size()));
    char token = 0;
    std::vector<char> tokens(pieces.size());
    for (size_t r = 0; r < pieces.size(); ++r) {
      pieces[r] = {&token, 1, &tokens[r], 1};
    }
    return Exchange("Barrier", pieces, options_.barrier_timeout);
  }

  void Abort(const std::string& reason) override { Break(absl::UnavailableError(reason)).IgnoreError(); }

  // Each rank shows that it knows the secret, to each other one.
  absl::Status Greet(const std::string& secret);

 private:
  using Buffers = std::vector<std::unique_ptr<gloo::transport::UnboundBuffer>>;

  // Sends and receives one piece for each rank (this rank's own is copied), all at once. what: for messages.
  absl::Status Exchange(const char* what, std::span<const Piece> pieces, absl::Duration timeout);
  absl::Status Transfer(const char* what, std::span<const Piece> pieces, absl::Duration timeout, Buffers& buffers);
  void WatchLoop();
  void SendLastWords(const std::string& reason);
  // The first status stays: it is what every later call returns. Returns that one.
  absl::Status Break(const absl::Status& status);

  std::unique_ptr<MeshContext> context_;
  const GlooOptions options_;
  uint64_t slot_ = 0;  // one an exchange, the same on every rank
  std::vector<float> scratch_;

  std::vector<char> last_words_;  // kLastWordsBytes from each rank
  std::unique_ptr<gloo::transport::UnboundBuffer> watch_;
  std::thread watcher_;

  absl::Mutex mutex_;
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
  bool exchanging_ ABSL_GUARDED_BY(mutex_) = false;
  // Of the exchange under way: what Abort must wake.
  std::vector<gloo::transport::UnboundBuffer*> waiting_ ABSL_GUARDED_BY(mutex_);
};

void GlooCommunicator::Watch() {
  last_words_.resize(kLastWordsBytes * static_cast<size_t>(size()));
  watch_ = context_->createUnboundBuffer(last_words_.data(), last_words_.size());
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) {
      watch_->recv(r, kWatchSlot, kLastWordsBytes * static_cast<size_t>(r), kLastWordsBytes);
    }
  }
  watcher_ = std::thread([this] { WatchLoop(); });
}

void GlooCommunicator::WatchLoop() {
  std::string reason;
  try {
    int from = -1;
    if (!watch_->waitRecv(&from, kForever)) {
      return;  // this rank ends
    }
    const char* words = last_words_.data() + kLastWordsBytes * static_cast<size_t>(from);
    reason.assign(words, strnlen(words, kLastWordsBytes));
  } catch (const std::exception& e) {
    reason = absl::StrCat("a rank died: ", e.what());
  }
  {
    absl::MutexLock lock(&mutex_);
    const auto idle = [this] {
      mutex_.AssertHeld();
      return !exchanging_ || !broken_.ok();
    };
    mutex_.AwaitWithTimeout(absl::Condition(&idle), kGrace);
  }
  Break(absl::UnavailableError(reason)).IgnoreError();
}

void GlooCommunicator::SendLastWords(const std::string& reason) {
  std::string words = reason.substr(0, kLastWordsBytes - 1);
  words.resize(kLastWordsBytes);
  const auto buffer = context_->createUnboundBuffer(words.data(), words.size());
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) {
      buffer->send(r, kWatchSlot);
    }
  }
  for (int r = 1; r < size(); ++r) {
    buffer->waitSend(std::chrono::milliseconds(100));
  }
}

absl::Status GlooCommunicator::Break(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    if (!broken_.ok()) {
      return broken_;
    }
    broken_ = status;
    for (gloo::transport::UnboundBuffer* buffer : waiting_) {
      buffer->abortWaitRecv();
      buffer->abortWaitSend();
    }
  }
  if (watch_ != nullptr) {
    watch_->abortWaitRecv();
    try {
      SendLastWords(std::string(status.message()));
    } catch (const std::exception&) {
      // A peer that is gone or stuck: it sees the connection close.
    }
  }
  try {
    context_->Close();
  } catch (const std::exception&) {
    // A connection that the other side has closed already.
  }
  return status;
}

absl::Status GlooCommunicator::Exchange(const char* what, std::span<const Piece> pieces, absl::Duration timeout) {
  const Piece& own = pieces[rank()];
  if (own.send_bytes != own.recv_bytes) {
    return Break(absl::InternalError(absl::StrCat(what, ": rank ", rank(), " sends itself ", own.send_bytes,
                                                  " bytes and expects ", own.recv_bytes)));
  }
  {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(broken_);
    exchanging_ = true;
  }
  ++slot_;
  if (own.send_bytes > 0 && own.send != own.recv) {
    std::memmove(own.recv, own.send, static_cast<size_t>(own.send_bytes));
  }
  Buffers buffers;
  absl::Status status;
  try {
    status = Transfer(what, pieces, timeout, buffers);
  } catch (const std::exception& e) {
    status = absl::UnavailableError(absl::StrCat(what, " on rank ", rank(), ": ", e.what()));
  }
  {
    absl::MutexLock lock(&mutex_);
    waiting_.clear();
    exchanging_ = false;
  }
  return status.ok() ? status : Break(status);
}

absl::Status GlooCommunicator::Transfer(const char* what, std::span<const Piece> pieces, absl::Duration timeout,
                                        Buffers& buffers) {
  const auto limit = Milliseconds(timeout);
  std::vector<std::pair<int, gloo::transport::UnboundBuffer*>> sends;
  std::vector<std::pair<int, gloo::transport::UnboundBuffer*>> recvs;
  for (int r = 0; r < size(); ++r) {
    const Piece& p = pieces[r];
    if (r != rank() && p.recv_bytes > 0) {
      buffers.push_back(context_->createUnboundBuffer(p.recv, static_cast<size_t>(p.recv_bytes)));
      recvs.emplace_back(r, buffers.back().get());
    }
    if (r != rank() && p.send_bytes > 0) {
      buffers.push_back(context_->createUnboundBuffer(const_cast<void*>(p.send), static_cast<size_t>(p.send_bytes)));
      sends.emplace_back(r, buffers.back().get());
    }
  }
  {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(broken_);
    for (const auto& buffer : buffers) {
      waiting_.push_back(buffer.get());
    }
  }
  for (const auto& [r, buffer] : recvs) {
    buffer->recv(r, slot_);
  }
  for (const auto& [r, buffer] : sends) {
    buffer->send(r, slot_);
  }
  for (const auto& [r, buffer] : sends) {
    if (!buffer->waitSend(limit)) {
      return absl::UnavailableError(absl::StrCat(what, ": sending to rank ", r, " was aborted"));
    }
  }
  for (const auto& [r, buffer] : recvs) {
    if (!buffer->waitRecv(limit)) {
      return absl::UnavailableError(absl::StrCat(what, ": receiving from rank ", r, " was aborted"));
    }
  }
  return absl::OkStatus();
}

absl::Status GlooCommunicator::AllReduce(kernels::Stream& stream, const kernels::Tensor& data) {
  if (data.type != kernels::DType::kF32 || data.stride != data.cols) {
    return Break(absl::InternalError(
        absl::StrCat("AllReduce takes dense F32 rows, got stride ", data.stride, " for ", data.cols, " columns")));
  }
  const int64_t count = data.rows * data.cols;
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  float* values = static_cast<float*>(data.data);
  std::vector<const float*> parts(static_cast<size_t>(size()));
  if (size() <= 2 || bytes <= kSumAloneBytes) {
    scratch_.resize(static_cast<size_t>(count * size()));
    RETURN_IF_ERROR(AllGather(stream, values, bytes, scratch_.data()));
    for (int r = 0; r < size(); ++r) {
      parts[r] = scratch_.data() + r * count;
    }
    SumInRankOrder(parts, count, values);
    return absl::OkStatus();
  }
  // Rank r sums the r-th part for all.
  const auto begin = [&](int r) { return count * r / size(); };
  const int64_t own = begin(rank() + 1) - begin(rank());
  scratch_.resize(static_cast<size_t>(own * size()));
  std::vector<Piece> pieces(parts.size());
  for (int r = 0; r < size(); ++r) {
    parts[r] = scratch_.data() + r * own;
    pieces[r] = {values + begin(r), (begin(r + 1) - begin(r)) * 4, scratch_.data() + r * own, own * 4};
  }
  RETURN_IF_ERROR(Exchange("AllReduce", pieces, options_.timeout));
  SumInRankOrder(parts, own, values + begin(rank()));
  for (int r = 0; r < size(); ++r) {
    pieces[r] = {values + begin(rank()), own * 4, values + begin(r), (begin(r + 1) - begin(r)) * 4};
  }
  return Exchange("AllReduce", pieces, options_.timeout);
}

absl::Status GlooCommunicator::Greet(const std::string& secret) {
  // A hash, not the secret: the wire is open. 16 hex digits by rank.
  const auto word = [&](int r) {
    uint64_t hash = 0xCBF29CE484222325ULL;
    for (const char c : absl::StrCat(secret, "/", r, "/", size())) {
      hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3ULL;
    }
    return absl::StrFormat("%016x", hash);
  };
  const std::string mine = word(rank());
  std::string all(mine.size() * static_cast<size_t>(size()), '\0');
  std::vector<Piece> pieces(static_cast<size_t>(size()));
  for (size_t r = 0; r < pieces.size(); ++r) {
    const auto bytes = static_cast<int64_t>(mine.size());
    pieces[r] = {mine.data(), bytes, all.data() + r * mine.size(), bytes};
  }
  RETURN_IF_ERROR(Exchange("the greeting", pieces, options_.timeout));
  for (int r = 0; r < size(); ++r) {
    if (all.compare(static_cast<size_t>(r) * mine.size(), mine.size(), word(r)) != 0) {
      return Break(absl::PermissionDeniedError(absl::StrCat("who answers as rank ", r, " does not know the secret")));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ConnectGloo(int rank, int size, const std::string& secret,
                                                          const ExchangeFn& exchange, const GlooOptions& options) {
  if (size < 1 || rank < 0 || rank >= size) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " is not within a group of ", size));
  }
  if (options.timeout <= absl::ZeroDuration() || options.barrier_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("the time limits of collectives must be above 0");
  }
  // Gloo writes to connections that the other side may have closed, with SIGPIPE at its default.
  struct sigaction pipe {};
  if (sigaction(SIGPIPE, nullptr, &pipe) == 0 && pipe.sa_handler == SIG_DFL) {
    signal(SIGPIPE, SIG_IGN);
  }
  auto context = std::make_unique<MeshContext>(rank, size);
  try {
    RETURN_IF_ERROR(context->Connect(options, exchange));
  } catch (const std::exception& e) {
    return absl::UnavailableError(
        absl::StrCat("rank ", rank, " cannot connect to its peers from ", options.host, ": ", e.what()));
  }
  auto comm = std::make_unique<GlooCommunicator>(std::move(context), options);
  try {
    comm->Watch();
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat("rank ", rank, " lost a peer while connecting: ", e.what()));
  }
  RETURN_IF_ERROR(comm->Greet(secret));
  return comm;
}

}  // namespace alphecca::comm

#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

absl::Status SystemError(int error, const std::string& path, std::string_view action) {
  return absl::ErrnoToStatus(error, Text(path, ": cannot ", action));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a pipe without a writer would hang; it has no effect on ordinary files.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    return SystemError(errno, path, "open the file");
  }
  std::unique_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  struct stat info = {};
  absl::Status status;
  if (::fstat(fd, &info) != 0) {
    status = SystemError(errno, path, "read the file's size");
  } else if (!S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(Text(path, ": not an ordinary file"));
  } else if (info.st_size > 0) {
    void* address = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) {
      status = SystemError(errno, path, "map the file");
    } else {
      file->bytes_ = {static_cast<const std::byte*>(address), static_cast<size_t>(info.st_size)};
      file->mapped_ = true;
    }
  }
  ::close(fd);
  if (!status.ok()) {
    return status;
  }
  return file;
}

std::unique_ptr<MappedFile> MappedFile::FromBytes(std::string name, std::string_view bytes) {
  std::unique_ptr<MappedFile> file(new MappedFile);
  file->path_ = std::move(name);
  file->owned_.resize(bytes.size());
  if (!bytes.empty()) {
    std::memcpy(file->owned_.data(), bytes.data(), bytes.size());
  }
  file->bytes_ = file->owned_;
  return file;
}

void MappedFile::Advise(std::span<const std::byte> part, Residency residency) const {
  if (!mapped_ || part.empty()) {
    return;
  }
  // Pages that `part` shares with its neighbours are dropped too: they are the file's, touching brings them back.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const size_t before = reinterpret_cast<uintptr_t>(part.data()) % page;
  const int advice = residency == Residency::kDrop     ? MADV_DONTNEED
                     : residency == Residency::kRandom ? MADV_RANDOM
                                                       : MADV_POPULATE_READ;
  (void)::madvise(const_cast<std::byte*>(part.data()) - before, part.size() + before,
                  advice);  // older systems know no MADV_POPULATE_READ
  if (residency == Residency::kResident) {
    (void)::mlock(part.data(), part.size());
  }
}

MappedFile::~MappedFile() {
  if (mapped_) {
    ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
}

}  // namespace alphecca::model

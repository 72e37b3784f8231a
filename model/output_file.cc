#include "model/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "common/status_macros.h"
#include "model/messages.h"

namespace alphecca::model {

std::string PartialPath(const std::string& path) {
  return path + ".partial";
}

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path) {
  const std::string partial = PartialPath(path);
  const int fd = open(partial.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::ErrnoToStatus(errno, Text(partial, ": cannot be made"));
  }
  return std::unique_ptr<OutputFile>(new OutputFile(path, fd));
}

OutputFile::~OutputFile() {
  close(fd_);
  if (!committed_) {
    unlink(partial_.c_str());
  }
}

absl::Status OutputFile::Failed(const char* what) const {
  const int error = errno;
  const std::string text = Text(partial_, ": ", what, ": ", std::strerror(error));
  return error == ENOSPC || error == EDQUOT ? absl::ResourceExhaustedError(text) : absl::InternalError(text);
}

absl::Status OutputFile::WriteAt(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      return Failed("cannot be written");
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Flush() {
  return fsync(fd_) == 0 ? absl::OkStatus() : Failed("cannot be written to the disk");
}

absl::Status OutputFile::Commit() {
  RETURN_IF_ERROR(Flush());
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) {
    return Failed("cannot be renamed");
  }
  committed_ = true;
  return absl::OkStatus();
}

}  // namespace alphecca::model

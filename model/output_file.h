// A file that appears under its name only when it is whole: written beside it, then renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace alphecca::model {

// What a path is written under until it is whole.
std::string PartialPath(const std::string& path);

class OutputFile {
 public:
  // Begins PartialPath(path), replacing what an interrupted run left there. NotFound, PermissionDenied, Internal.
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path);
  // Removes the file unless it was committed.
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // ResourceExhausted where the disk is full.
  absl::Status WriteAt(uint64_t offset, std::span<const std::byte> bytes);
  // All bytes to the disk; the file is still under its partial name, where it can be read back.
  absl::Status Flush();
  // Renames it, replacing a file of that name.
  absl::Status Commit();

  const std::string& partial_path() const { return partial_; }

 private:
  OutputFile(std::string path, int fd) : path_(std::move(path)), partial_(PartialPath(path_)), fd_(fd) {}
  absl::Status Failed(const char* what) const;

  std::string path_;
  std::string partial_;
  int fd_ = -1;
  bool committed_ = false;
};

}  // namespace alphecca::model

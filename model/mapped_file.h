// The bytes of one file, mapped read-only: opening costs no reading, and pages that nobody touches stay on disk.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace alphecca::model {

// What a reader means to do with a stretch of a file.
enum class Residency {
  kDrop,    // done with: its pages leave this process, and come back from the file if they are touched again
  kRandom,  // looked up here and there: reading one page brings no neighbours
  // Kept in memory: read now, and locked there as far as the limit of locked memory (RLIMIT_MEMLOCK) goes.
  kResident,
};

// Thread rule: immutable after creation. The file must not be shortened while it is mapped: touching pages past its new
// end raises SIGBUS, as with every mapping.
class MappedFile {
 public:
  // NotFound; InvalidArgument if `path` is no ordinary file; PermissionDenied, Internal from the system.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  // A copy of bytes in memory under a name for messages.
  static std::unique_ptr<MappedFile> FromBytes(std::string name, std::string_view bytes);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  const std::string& path() const { return path_; }
  bool Holds(const std::byte* data) const { return data >= bytes_.data() && data < bytes_.data() + bytes_.size(); }

  // A hint to the system for `part` of bytes(); nothing for a copy in memory.
  void Advise(std::span<const std::byte> part, Residency residency) const;

 private:
  MappedFile() = default;

  std::string path_;
  std::vector<std::byte> owned_;
  std::span<const std::byte> bytes_;
  bool mapped_ = false;
};

}  // namespace alphecca::model

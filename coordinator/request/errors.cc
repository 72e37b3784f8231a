#include "coordinator/request/errors.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace alphecca::coordinator {
namespace {

constexpr char kViolations[] = "alphecca/violations";  // field NUL description NUL ...
constexpr char kRetry[] = "alphecca/retry-ms";
// One hostile request must not make a status that is too large for trailing metadata (8 KiB).
constexpr size_t kMaxListed = 8;
constexpr size_t kMaxDescription = 256;

std::string Cleaned(std::string text) {
  text = Shortened(std::move(text), kMaxDescription);
  for (char& c : text) {
    c = c == '\0' ? ' ' : c;
  }
  return text;
}

}  // namespace

std::string Shortened(std::string text, size_t max_bytes) {
  if (text.size() <= max_bytes) {
    return text;
  }
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
    --end;  // not in the middle of a character
  }
  text.resize(end);
  return text + "...";
}

void Violations::Add(std::string field, std::string description) {
  if (list_.size() < kMaxListed) {
    list_.push_back({Cleaned(std::move(field)), Cleaned(std::move(description))});
  }
}

absl::Status Violations::ToStatus() const {
  if (list_.empty()) {
    return absl::OkStatus();
  }
  absl::Status status =
      absl::InvalidArgumentError(absl::StrJoin(list_, "; ", [](std::string* out, const FieldViolation& v) {
        absl::StrAppend(out, v.field, ": ", v.description);
      }));
  std::string payload;
  for (const FieldViolation& v : list_) {
    payload.append(v.field).push_back('\0');
    payload.append(v.description).push_back('\0');
  }
  status.SetPayload(kViolations, absl::Cord(payload));
  return status;
}

absl::Status InvalidField(std::string field, std::string description) {
  Violations violations;
  violations.Add(std::move(field), std::move(description));
  return violations.ToStatus();
}

std::vector<FieldViolation> ViolationsOf(const absl::Status& status) {
  std::vector<FieldViolation> list;
  const absl::optional<absl::Cord> payload = status.GetPayload(kViolations);
  if (!payload) {
    return list;
  }
  const std::string text(*payload);
  const std::vector<std::string> parts = absl::StrSplit(text, '\0');
  for (size_t i = 0; i + 1 < parts.size(); i += 2) {
    list.push_back({parts[i], parts[i + 1]});
  }
  return list;
}

absl::Status RetryLater(const std::string& message, absl::Duration delay) {
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kRetry, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(delay))));
  return status;
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetry);
  int64_t milliseconds = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &milliseconds)) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

}  // namespace alphecca::coordinator

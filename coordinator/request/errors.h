// Statuses that carry more than a message: which fields are wrong, when to retry. The API turns them into google.rpc
// details.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace alphecca::coordinator {

// At most max_bytes of a UTF-8 text, "..." after it if it was cut: for what a client sent and a message repeats.
std::string Shortened(std::string text, size_t max_bytes);

struct FieldViolation {
  std::string field;        // as in the proto, "options.sampling.top_p"
  std::string description;  // what it is, and what would be right
};

// Collects what is wrong with a request.
class Violations {
 public:
  void Add(std::string field, std::string description);
  bool empty() const { return list_.empty(); }
  // Ok if there are none, else InvalidArgument: the message names all, ViolationsOf gives them one by one.
  absl::Status ToStatus() const;

 private:
  std::vector<FieldViolation> list_;
};

absl::Status InvalidField(std::string field, std::string description);
std::vector<FieldViolation> ViolationsOf(const absl::Status& status);

// ResourceExhausted with a delay.
absl::Status RetryLater(const std::string& message, absl::Duration delay);
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

}  // namespace alphecca::coordinator

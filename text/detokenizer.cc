#include "text/detokenizer.h"

#include <utility>

#include "text/concat.h"
#include "text/utf8.h"

namespace alphecca::text {

absl::StatusOr<std::string> StreamingDetokenizer::Add(int32_t id) {
  if (!tokenizer_->InRange(id)) {
    return absl::InvalidArgumentError(Concat("token id ", id, " is not in [0, ", tokenizer_->size(), ")"));
  }
  pending_ += tokenizer_->Bytes(id, show_);
  const size_t ready = pending_.size() - IncompleteSuffix(pending_);
  std::string text = ReplaceIllFormed(std::string_view(pending_).substr(0, ready));
  pending_.erase(0, ready);
  return text;
}

std::string StreamingDetokenizer::Flush() {
  return ReplaceIllFormed(std::exchange(pending_, {}));
}

}  // namespace alphecca::text

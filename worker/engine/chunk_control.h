// How many rows of prompts may share a step with sequences that decode, so that the step takes about a given time,
// however long the prompts beside them are.
//
// It follows what steps took: rows shrink in proportion at once, and grow at most twofold a step. So where rows become
// dearer, the steps that are planned by then take longer than wanted.
//
// Thread rule: one thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace alphecca::engine {

class ChunkControl {
 public:
  // target: of a step, infinite: no bound; least, most: rows.
  ChunkControl(absl::Duration target, int64_t least, int64_t most)
      : target_(target),
        least_(std::min(least, most)),
        most_(most),
        rows_(target == absl::InfiniteDuration() ? most_ : least_) {}

  int64_t rows() const { return rows_; }

  // A step of sequences that decode and `prompt_rows` rows of prompts took this long.
  void Took(int64_t prompt_rows, absl::Duration took) {
    if (prompt_rows < 1 || took <= absl::ZeroDuration() || target_ == absl::InfiniteDuration()) {
      return;
    }
    const double ratio = std::min(absl::FDivDuration(target_, took), 2.0);
    if (ratio >= 1.0 && prompt_rows < rows_) {
      return;  // says nothing of a step with more
    }
    rows_ = std::clamp(static_cast<int64_t>(static_cast<double>(prompt_rows) * ratio), least_, most_);
  }

 private:
  absl::Duration target_;
  int64_t least_;
  int64_t most_;
  int64_t rows_;
};

}  // namespace alphecca::engine

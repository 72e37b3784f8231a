// Builds the input of a step row by row, for tests.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace alphecca::kernels {

struct StepMaker {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  std::vector<int32_t> slots;
  std::vector<KeyRange> full;
  std::vector<KeyRange> sliding;
  std::vector<int32_t> soft;
  std::vector<float> soft_rows;
  std::vector<int32_t> logit_rows;
  std::vector<SamplingRow> sampling;
  std::vector<BlockTableUpdate> tables[2];
  std::vector<SlotOpening> opens;
  std::vector<uint32_t> masks;
  int64_t mask_words = 0;

  // A causal row; window 0: the sliding layers see all keys too.
  void Row(int32_t token, int32_t slot, int32_t position, int32_t window = 0) {
    tokens.push_back(token);
    slots.push_back(slot);
    positions.push_back(position);
    full.push_back({0, position});
    sliding.push_back({window > 0 && position >= window ? position - window + 1 : 0, position});
  }
  void Sample(int32_t row, const SamplingRow& how) {
    logit_rows.push_back(row);
    sampling.push_back(how);
  }
  StepInput Input() const {
    return {tokens, positions, slots,     full, sliding, soft, soft_rows, logit_rows, sampling, {tables[0], tables[1]},
            opens,  masks,     mask_words};
  }
};

}  // namespace alphecca::kernels

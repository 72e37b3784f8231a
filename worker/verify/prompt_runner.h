// Runs the prompts of a case on a shard group and keeps what is judged.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "worker/verify/golden_case.h"
#include "worker/verify/judge.h"
#include "worker/verify/rank_group.h"

namespace alphecca::verify {

// What follows the prompt: the golden ids (teacher-forced), or each step's own choice, as many.
enum class Continue { kAlongGolden, kFreely };

// Tokens of the case's longest prompt with its continuation.
int64_t LongestSequence(const GoldenCase& golden);

// One run a prompt, in the case's order, on a group made for it; `options` but for slots, max_rows of one sequence.
// [owner][prompt]: in wide plans every rank owns the sequence once, and all compute at the same time.
absl::StatusOr<std::vector<std::vector<PromptRun>>> RunPrompts(const model::Checkpoint& checkpoint,
                                                               const GoldenCase& golden, const GroupOptions& options,
                                                               Continue mode = Continue::kAlongGolden);

}  // namespace alphecca::verify

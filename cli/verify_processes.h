// Golden cases through real worker processes behind a coordinator: the same code as a served model.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "worker/verify/verify.h"

namespace alphecca::cli {

// Generates both prompts' greedy continuations over the public API with the log-probabilities of the 20 likeliest
// tokens of each step, and compares ids and log-probabilities. Judged by the same tolerances; hidden rows stay inside
// the workers.
absl::StatusOr<verify::VerifyReport> VerifyInProcesses(const std::string& directory,
                                                       const verify::VerifyOptions& options);

}  // namespace alphecca::cli

// What this build is.
#pragma once

#include <string>

namespace alphecca {

// "0.1.0 (1a2b3c4d5e6f)": version and commit, "+" after it if the tree had changes. The ranks of a group must agree.
std::string BuildVersion();

}  // namespace alphecca

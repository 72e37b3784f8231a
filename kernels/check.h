// Checks of invariants that callers must keep: a broken one is a bug of ours, never bad input, so it ends the process.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <source_location>

namespace alphecca::kernels {

inline void Check(bool ok, const char* what, std::source_location where = std::source_location::current()) {
  if (!ok) {
    std::fprintf(stderr, "%s:%u: broken invariant: %s\n", where.file_name(), static_cast<unsigned>(where.line()), what);
    std::abort();
  }
}

}  // namespace alphecca::kernels

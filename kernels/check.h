// Checks of invariants that callers must keep: a broken one is a bug of ours, never bad input, so it ends the process.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace alphecca::kernels {

// The built-ins stand for std::source_location, which clang 14 lacks; as default arguments they name the caller.
inline void Check(bool ok, const char* what, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!ok) {
    std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, what);
    std::abort();
  }
}

}  // namespace alphecca::kernels

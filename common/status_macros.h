// Early returns for absl::Status and absl::StatusOr: the distribution's absl has no public macros.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define ALPHECCA_CONCAT_INNER(a, b) a##b
#define ALPHECCA_CONCAT(a, b) ALPHECCA_CONCAT_INNER(a, b)

// Returns from the enclosing function if `expr` (an absl::Status) is not ok.
#define RETURN_IF_ERROR(expr)                           \
  do {                                                  \
    if (absl::Status status_ = (expr); !status_.ok()) { \
      return status_;                                   \
    }                                                   \
  } while (false)

#define ALPHECCA_ASSIGN_OR_RETURN(result, lhs, expr) \
  auto result = (expr);                              \
  if (!result.ok()) {                                \
    return result.status();                          \
  }                                                  \
  lhs = *std::move(result)

// ASSIGN_OR_RETURN(auto x, F()): binds the value of a StatusOr, or returns its status.
#define ASSIGN_OR_RETURN(lhs, expr) ALPHECCA_ASSIGN_OR_RETURN(ALPHECCA_CONCAT(status_or_, __LINE__), lhs, expr)

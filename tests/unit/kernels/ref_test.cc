// The harness on the reference itself (two runs of one case see the same), and batch invariance of the reference.
#include "kernels/ref/ref_backend.h"

#include <gtest/gtest.h>

#include "tests/unit/kernels/op_cases.h"

namespace alphecca::kernels {
namespace {

TEST(RefTest, EveryCaseRunsTheSameTwice) {
  for (const OpCase& op_case : AllOpCases()) {
    const std::unique_ptr<Backend> backend = CreateRefBackend({});
    EXPECT_EQ(RunOpCase(op_case, *backend), "") << op_case.name;
  }
}

TEST(RefTest, RowsAreTheSameInAnyCompany) {
  for (const RowCase& row_case : AllRowCases()) {
    const std::unique_ptr<Backend> backend = CreateRefBackend({});
    EXPECT_EQ(RunRowCase(row_case, *backend), "") << row_case.name;
  }
}

}  // namespace
}  // namespace alphecca::kernels

// The cases of every op, shared by all backends: a backend is right if each case gives what the reference gives, within
// the tolerance that the case states.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/unit/kernels/op_run.h"

namespace alphecca::kernels {

struct OpCase {
  std::string op;    // as in backend.h
  std::string name;  // letters, digits and underscores, unique
  std::function<void(OpRun&)> run;
};

std::vector<OpCase> AllOpCases();
// Those of one op, for a test of that op alone.
std::vector<OpCase> OpCasesOf(const std::string& op);

// Runs the case on `backend` and, once a process, on the reference. Empty if they agree, else what differs, with the
// seed. Cases of one name must be one case.
std::string RunOpCase(const OpCase& op_case, Backend& backend, uint32_t seed = 20240229);

// Batch invariance: each case gives every row of its first output, bit for bit, whatever rows share the call. Empty if
// so. Runs on `backend` alone.
struct RowCase {
  // Computes rows [begin, end) of T, all in one call, and returns them.
  using Rows = std::function<std::vector<float>(int64_t begin, int64_t end)>;
  std::string name;
  std::function<Rows(OpRun&)> prepare;  // what it returns lives no longer than the OpRun
  int64_t rows = 0;
};
std::vector<RowCase> AllRowCases();
std::string RunRowCase(const RowCase& row_case, Backend& backend, uint32_t seed = 20240229);

// Each file adds its cases.
void AddLookupCases(std::vector<OpCase>& cases);
void AddNormCases(std::vector<OpCase>& cases);
void AddProductCases(std::vector<OpCase>& cases);
void AddAttentionCases(std::vector<OpCase>& cases);
void AddExpertCases(std::vector<OpCase>& cases);
void AddSamplingCases(std::vector<OpCase>& cases);
void AddProductRowCases(std::vector<RowCase>& cases);
void AddAttentionRowCases(std::vector<RowCase>& cases);

}  // namespace alphecca::kernels

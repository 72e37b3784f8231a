#include "tests/unit/kernels/op_cases.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <sstream>
#include <utility>

#include "kernels/ref/ref_backend.h"

namespace alphecca::kernels {
namespace {

// Empty if got is want within its tolerance.
std::string Compare(const OpOutput& got, const OpOutput& want) {
  std::ostringstream text;
  if (got.name != want.name || got.values.size() != want.values.size()) {
    text << got.name << ": " << got.values.size() << " values, the reference has " << want.values.size();
    return text.str();
  }
  // The looser bound of the two: the backend's own rounding of activations shows in its outputs only.
  const double relative = std::max(got.relative, want.relative);
  double worst = 0.0;
  double error = 0.0;
  double power = 0.0;
  size_t wrong = 0;
  std::string first;
  for (size_t begin = 0; begin < want.values.size(); begin += static_cast<size_t>(want.cols)) {
    const size_t end = std::min(want.values.size(), begin + static_cast<size_t>(want.cols));
    double largest = want.nominal;
    for (size_t i = begin; i < end; ++i) {
      if (std::isfinite(want.values[i])) {
        largest = std::max(largest, std::fabs(static_cast<double>(want.values[i])));
      }
    }
    for (size_t i = begin; i < end; ++i) {
      const double g = got.values[i];
      const double w = want.values[i];
      if (g == w) {
        power += std::isfinite(w) ? w * w : 0.0;
        continue;
      }
      const double difference = std::fabs(g - w);
      error += difference * difference;
      power += w * w;
      worst = std::max(worst, difference);
      if (!(difference <= relative * largest) && wrong++ == 0) {
        std::ostringstream at;
        at << "[" << begin / static_cast<size_t>(want.cols) << ", " << i - begin << "] is " << g << ", want " << w
           << " within " << relative * largest;
        first = at.str();
      }
    }
  }
  if (wrong > 0) {
    text << got.name << ": " << wrong << " of " << want.values.size() << " wrong, first " << first << "; largest error "
         << worst << ", NMSE " << error / std::max(power, 1e-300);
  }
  return text.str();
}

const std::vector<OpOutput>& ReferenceOutputs(const OpCase& op_case, uint32_t seed) {
  static auto& known = *new std::map<std::pair<std::string, uint32_t>, std::vector<OpOutput>>;
  const auto [it, is_new] = known.try_emplace({op_case.name, seed});
  if (is_new) {
    const std::unique_ptr<Backend> reference = CreateRefBackend({});
    OpRun run(*reference, seed);
    op_case.run(run);
    it->second = run.TakeOutputs();
  }
  return it->second;
}

}  // namespace

std::vector<OpCase> AllOpCases() {
  std::vector<OpCase> cases;
  AddLookupCases(cases);
  AddNormCases(cases);
  AddProductCases(cases);
  AddAttentionCases(cases);
  AddExpertCases(cases);
  AddSamplingCases(cases);
  return cases;
}

std::vector<OpCase> OpCasesOf(const std::string& op) {
  std::vector<OpCase> cases = AllOpCases();
  std::erase_if(cases, [&](const OpCase& c) { return c.op != op; });
  return cases;
}

std::vector<RowCase> AllRowCases() {
  std::vector<RowCase> cases;
  AddProductRowCases(cases);
  AddAttentionRowCases(cases);
  return cases;
}

std::string RunOpCase(const OpCase& op_case, Backend& backend, uint32_t seed) {
  const std::vector<OpOutput>& want = ReferenceOutputs(op_case, seed);
  OpRun got_run(backend, seed);
  op_case.run(got_run);
  const std::vector<OpOutput> got = got_run.TakeOutputs();
  std::ostringstream text;
  if (got.size() != want.size() || want.empty()) {
    text << op_case.name << ": " << got.size() << " outputs, the reference has " << want.size();
    return text.str();
  }
  for (size_t i = 0; i < want.size(); ++i) {
    if (const std::string difference = Compare(got[i], want[i]); !difference.empty()) {
      text << op_case.name << " (seed " << seed << "): " << difference << "\n";
    }
  }
  return text.str();
}

std::string RunRowCase(const RowCase& row_case, Backend& backend, uint32_t seed) {
  OpRun run(backend, seed);
  const RowCase::Rows compute = row_case.prepare(run);
  const std::vector<float> all = compute(0, row_case.rows);
  const auto cols = all.size() / static_cast<size_t>(row_case.rows);
  // Alone, and in chunks that fall on no round number.
  for (const int64_t chunk : {int64_t{1}, int64_t{3}, int64_t{7}}) {
    for (int64_t begin = 0; begin < row_case.rows; begin += chunk) {
      const int64_t end = std::min(row_case.rows, begin + chunk);
      const std::vector<float> part = compute(begin, end);
      if (part.size() != static_cast<size_t>(end - begin) * cols ||
          std::memcmp(part.data(), all.data() + static_cast<size_t>(begin) * cols, part.size() * sizeof(float)) != 0) {
        std::ostringstream text;
        text << row_case.name << " (seed " << seed << "): rows [" << begin << ", " << end
             << ") differ from the same rows among " << row_case.rows;
        return text.str();
      }
    }
  }
  return "";
}

}  // namespace alphecca::kernels

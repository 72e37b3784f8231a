#include "model/plan_layout.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "model/catalogue.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

constexpr std::array<std::string_view, 4> kFields = {"tp=", "ep=", "columns=", "vocab="};
constexpr int kMaxDegree = 1024;

// Takes `field` and the number after it off the front of `text`.
bool Take(std::string_view field, std::string_view& text, int64_t& value) {
  if (!text.starts_with(field)) {
    return false;
  }
  text.remove_prefix(field.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return error == std::errc() && value > 0;
}

}  // namespace

std::string LayoutText(const PlanLayout& layout) {
  return Text("tp=", layout.tp, ",ep=", layout.ep, ",columns=", layout.column_unit, ",vocab=", layout.vocab);
}

absl::StatusOr<PlanLayout> ParseLayout(std::string_view text) {
  std::array<int64_t, kFields.size()> values = {};
  std::string_view rest = text;
  bool good = true;
  for (size_t i = 0; good && i < kFields.size(); ++i) {
    good = Take(kFields[i], rest, values[i]);
    if (good && i + 1 < kFields.size()) {
      good = rest.starts_with(',');
      rest.remove_prefix(good ? 1 : 0);
    }
  }
  if (!good || !rest.empty() || values[0] > kMaxDegree || values[1] > kMaxDegree) {
    return absl::InvalidArgumentError(Text(kPlanKey, " is ", Quoted(text),
                                           "; tp=N,ep=N,columns=N,vocab=N is expected, with positive numbers and "
                                           "degrees of at most ",
                                           kMaxDegree));
  }
  return PlanLayout{.tp = static_cast<int>(values[0]),
                    .ep = static_cast<int>(values[1]),
                    .column_unit = values[2],
                    .vocab = values[3]};
}

std::vector<PlanPart> PartsOf(const ModelConfig& config, const ShardPlan& plan) {
  std::map<std::pair<TensorKind, int>, TensorSpec> specs;
  for (const TensorSpec& spec : Catalogue(config)) {
    specs[{spec.kind, spec.layer}] = spec;
  }
  std::vector<PlanPart> parts;
  std::vector<size_t> holders;  // by part
  std::map<std::tuple<TensorKind, int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>, size_t> seen;
  for (size_t rank = 0; rank < plan.ranks.size(); ++rank) {
    for (TensorSlice& s : ShardSlices(config, plan, static_cast<int>(rank))) {
      s.replicated = false;
      const auto [at, added] = seen.try_emplace(
          {s.kind, s.layer, s.items.begin, s.items.end, s.rows.begin, s.rows.end, s.cols.begin, s.cols.end},
          parts.size());
      if (added) {
        const bool whole = s.elements() == specs.at({s.kind, s.layer}).elements();
        parts.push_back({.slice = s, .whole = whole, .section = static_cast<int>(rank)});
        holders.push_back(0);
      }
      ++holders[at->second];
    }
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].section = holders[i] == plan.ranks.size() ? -1 : parts[i].section;
  }
  std::stable_sort(parts.begin(), parts.end(),
                   [](const PlanPart& a, const PlanPart& b) { return a.section < b.section; });
  return parts;
}

std::string PartSuffix(const PlanPart& part) {
  const TensorSlice& s = part.slice;
  return part.whole ? ""
                    : Text("[", s.items.begin, ":", s.items.end, ",", s.rows.begin, ":", s.rows.end, ",", s.cols.begin,
                           ":", s.cols.end, "]");
}

}  // namespace alphecca::model

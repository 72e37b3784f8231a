// A bound on what many parties hold together that the flood of one does not use up.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace alphecca {

// `most` in all; beyond, a party that then has no more than its equal part of `most` may still take, until there are
// twice as many. Parties: those that hold something, and the one that asks.
class FairBound {
 public:
  explicit FairBound(int64_t most) : most_(most) {}

  // Whether `party` may take `count` more, with which `all` would be held.
  bool Allows(const std::string& party, int64_t count, int64_t all) const {
    const auto own = held_.find(party);
    const int64_t held = own == held_.end() ? 0 : own->second;
    const int64_t parties = static_cast<int64_t>(held_.size()) + (own == held_.end() ? 1 : 0);
    return all <= (held + count <= most_ / parties ? 2 : 1) * most_;
  }
  void Take(const std::string& party, int64_t count) { held_[party] += count; }
  void GiveBack(const std::string& party, int64_t count) {
    if (const auto own = held_.find(party); own != held_.end() && (own->second -= count) <= 0) {
      held_.erase(own);
    }
  }

 private:
  const int64_t most_;
  std::map<std::string, int64_t> held_;  // only of parties that hold something
};

}  // namespace alphecca

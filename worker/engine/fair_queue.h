// Who waits, and whose turn it is: by priority; within one priority the tenant that got least of the engine for its
// weight; within a tenant by arrival.
//
// What a tenant got is counted in tokens run, prompt and generated alike, over its weight (a virtual token counter:
// Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). Tenants contend while a sequence of theirs has
// not taken in its prompt: it waits, or wants rows that others want too. Who comes to contend starts no lower than the
// least served of those that do, so that nobody saves up a claim by staying away, or by a few answers that take long;
// and no lower than where it was, so that nobody sheds what it got by leaving. Where nobody contends all start from
// what the most served had got: nobody pays for what it took of an idle engine. Tenants that the least served has
// caught up with are forgotten, and all that are absent where they are too many.
//
// Thread rule: one thread.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "common/ids.h"

namespace alphecca::engine {

using SequenceKey = StrongId<struct SequenceKeyTag, uint64_t>;  // unique within an engine

class FairQueue {
 public:
  struct Place {
    int32_t priority = 0;
    uint64_t number = 0;  // by arrival
    SequenceKey key;
    // Falling priority, then arrival.
    friend bool operator<(const Place& a, const Place& b) {
      return a.priority != b.priority ? a.priority > b.priority : a.number < b.number;
    }
  };

  // A sequence of the tenant is present, waiting or running, from Enter to Leave; it contends from Contend to Settle.
  void Enter(const std::string& tenant, double weight);
  void Leave(const std::string& tenant);
  void Contend(const std::string& tenant);
  void Settle(const std::string& tenant);
  // The tenant got `tokens` tokens run.
  void Charge(const std::string& tenant, int64_t tokens);

  void Push(const std::string& tenant, const Place& place);
  void Erase(const std::string& tenant, const Place& place);
  // The next in turn of those that `passes` does not pass over.
  std::optional<SequenceKey> Pick(const std::function<bool(SequenceKey)>& passes) const;
  // What a tenant that is present got for its weight.
  double Served(const std::string& tenant) const { return tenants_.at(tenant).served; }
  int size() const { return size_; }

 private:
  struct Tenant {
    double served = 0.0;  // tokens / weight
    double weight = 1.0;
    int present = 0;
    int contending = 0;
    std::set<Place> waiting;
  };

  static constexpr size_t kMostRemembered = 4096;
  // What the least served of those that contend got, or the most served of those present; it never falls.
  double Floor();

  std::map<std::string, Tenant> tenants_;
  double floor_ = 0.0;
  int size_ = 0;
};

}  // namespace alphecca::engine

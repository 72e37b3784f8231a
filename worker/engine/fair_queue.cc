#include "worker/engine/fair_queue.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace alphecca::engine {

void FairQueue::Enter(const std::string& tenant, double weight) {
  Tenant& entry = tenants_[tenant];
  entry.weight = weight;
  ++entry.present;
}

void FairQueue::Contend(const std::string& tenant) {
  const double floor = Floor();
  Tenant& entry = tenants_.at(tenant);
  entry.served = entry.contending > 0 ? entry.served : std::max(entry.served, floor);
  ++entry.contending;
}

void FairQueue::Settle(const std::string& tenant) {
  --tenants_.at(tenant).contending;
}

void FairQueue::Leave(const std::string& tenant) {
  Tenant& entry = tenants_.at(tenant);
  if (--entry.present > 0) {
    return;
  }
  const bool last = std::none_of(tenants_.begin(), tenants_.end(), [](const auto& t) { return t.second.present > 0; });
  floor_ = last ? std::max(floor_, entry.served) : floor_;
  const double floor = Floor();
  const bool crowded = tenants_.size() > kMostRemembered;
  std::erase_if(tenants_, [&](const auto& named) {
    return named.second.present == 0 && (crowded || named.second.served <= floor);
  });
}

double FairQueue::Floor() {
  double least = std::numeric_limits<double>::infinity();
  double most = floor_;
  for (const auto& [name, tenant] : tenants_) {
    least = tenant.contending > 0 ? std::min(least, tenant.served) : least;
    most = tenant.present > 0 ? std::max(most, tenant.served) : most;
  }
  floor_ = std::isinf(least) ? most : std::max(floor_, least);
  return floor_;
}

void FairQueue::Charge(const std::string& tenant, int64_t tokens) {
  Tenant& entry = tenants_.at(tenant);
  entry.served += static_cast<double>(tokens) / entry.weight;
}

void FairQueue::Push(const std::string& tenant, const Place& place) {
  size_ += tenants_.at(tenant).waiting.insert(place).second ? 1 : 0;
}

void FairQueue::Erase(const std::string& tenant, const Place& place) {
  size_ -= static_cast<int>(tenants_.at(tenant).waiting.erase(place));
}

std::optional<SequenceKey> FairQueue::Pick(const std::function<bool(SequenceKey)>& passes) const {
  const Place* best = nullptr;
  double served = 0.0;
  for (const auto& [name, tenant] : tenants_) {
    const auto next = std::find_if(tenant.waiting.begin(), tenant.waiting.end(),
                                   [&](const Place& place) { return !passes(place.key); });
    if (next == tenant.waiting.end()) {
      continue;
    }
    const bool before = best == nullptr || next->priority > best->priority ||
                        (next->priority == best->priority &&
                         (tenant.served < served || (tenant.served == served && next->number < best->number)));
    if (before) {
      best = &*next;
      served = tenant.served;
    }
  }
  return best == nullptr ? std::nullopt : std::optional(best->key);
}

}  // namespace alphecca::engine

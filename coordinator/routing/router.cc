#include "coordinator/routing/router.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace alphecca::coordinator {
namespace {

constexpr int64_t kSequenceTokens = 256;

}  // namespace

int64_t RouteCost(int64_t prompt_tokens, int64_t cached_tokens, const GroupLoad& load) {
  const int64_t sequences = std::max<int64_t>(load.open, int64_t{load.running} + load.waiting);
  return prompt_tokens - cached_tokens + load.queued_tokens + kSequenceTokens * sequences;
}

void Router::Add(const std::string& model, GroupId group, std::shared_ptr<GroupClient> client) {
  const MutexLock lock(mutex_);
  groups_[model].insert_or_assign(group, std::move(client));
}

void Router::Remove(const std::string& model, GroupId group) {
  std::shared_ptr<GroupClient> last;  // outlives the lock: its destructor is not ours to run under it
  const MutexLock lock(mutex_);
  const auto it = groups_.find(model);
  if (it == groups_.end()) {
    return;
  }
  if (const auto client = it->second.find(group); client != it->second.end()) {
    last = std::move(client->second);
    it->second.erase(client);
  }
}

Router::Clients Router::Candidates(std::string_view model) const {
  Clients ready;
  {
    const MutexLock lock(mutex_);
    if (const auto it = groups_.find(model); it != groups_.end()) {
      for (const auto& [id, client] : it->second) {
        if (client->connected()) {
          ready.push_back(client);
        }
      }
    }
  }
  return ready;
}

absl::StatusOr<Route> Router::Pick(const RouteRequest& request) const {
  const Clients candidates = Candidates(request.model);
  if (candidates.empty()) {
    return absl::UnavailableError(
        absl::StrCat("model \"", std::string(request.model), "\" has no ready group; ask GetStatus why, and retry"));
  }
  PrefixIndex::Holders holders;
  for (const auto& client : candidates) {
    holders.push_back(client->prefixes());
  }
  const std::vector<int64_t> cached = prefixes_->Cached(request.tenant, request.prompt, holders);
  size_t best = 0;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < candidates.size(); ++i) {
    const int64_t cost = RouteCost(static_cast<int64_t>(request.prompt.size()), cached[i], candidates[i]->load());
    if (cost < least) {
      best = i;
      least = cost;
    }
  }
  return Route{.group = candidates[best], .cached_tokens = cached[best]};
}

int64_t Router::Context(std::string_view model, int64_t most) const {
  for (const auto& client : Candidates(model)) {
    const int64_t held = client->context();
    most = held > 0 ? std::min(most, held) : most;
  }
  return most;
}

std::shared_ptr<GroupClient> Router::Find(const std::string& model, GroupId group) const {
  const MutexLock lock(mutex_);
  const auto it = groups_.find(model);
  if (it == groups_.end()) {
    return nullptr;
  }
  const auto client = it->second.find(group);
  return client == it->second.end() ? nullptr : client->second;
}

std::vector<std::shared_ptr<GroupClient>> Router::All() const {
  const MutexLock lock(mutex_);
  std::vector<std::shared_ptr<GroupClient>> all;
  for (const auto& [model, groups] : groups_) {
    for (const auto& [id, client] : groups) {
      all.push_back(client);
    }
  }
  return all;
}

}  // namespace alphecca::coordinator

#include "coordinator/routing/router.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace alphecca::coordinator {

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

absl::StatusOr<std::shared_ptr<GroupClient>> Router::Pick(const std::string& model) const {
  const MutexLock lock(mutex_);
  std::shared_ptr<GroupClient> best;
  int32_t best_open = 0;
  if (const auto it = groups_.find(model); it != groups_.end()) {
    for (const auto& [id, client] : it->second) {
      if (!client->connected()) {
        continue;
      }
      const int32_t open = client->load().open;
      if (best == nullptr || open < best_open) {
        best = client;
        best_open = open;
      }
    }
  }
  if (best == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("model \"", model, "\" has no ready group; ask GetStatus why, and retry"));
  }
  return best;
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

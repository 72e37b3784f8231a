#include "coordinator/rpc/group_connections.h"

#include <utility>
#include <vector>

namespace alphecca::coordinator {

void GroupConnections::GroupReady(GroupId group, Epoch epoch, const std::string& model,
                                  const std::string& leader_address, const std::string& fingerprint) {
  auto client = std::make_shared<GrpcGroupClient>(GroupEndpoint{leader_address, epoch, fingerprint}, prefixes_);
  std::shared_ptr<GrpcGroupClient> before;
  {
    const MutexLock lock(mutex_);
    before = std::exchange(clients_[group], client);
  }
  router_.Add(model, group, client);
  if (before != nullptr) {
    before->Close(absl::UnavailableError("the group formed anew"));
  }
}

void GroupConnections::GroupLost(GroupId group, Epoch epoch, const std::string& model, const absl::Status& why) {
  std::shared_ptr<GrpcGroupClient> client;
  {
    const MutexLock lock(mutex_);
    const auto it = clients_.find(group);
    if (it == clients_.end() || it->second->epoch() != epoch) {
      return;
    }
    client = std::move(it->second);
    clients_.erase(it);
  }
  router_.Remove(model, group);
  client->Close(why);
}

void GroupConnections::Tick(absl::Time now) {
  std::vector<std::shared_ptr<GrpcGroupClient>> all;
  {
    const MutexLock lock(mutex_);
    for (const auto& [group, client] : clients_) {
      all.push_back(client);
    }
  }
  for (const auto& client : all) {
    client->Tick(now);
  }
}

void GroupConnections::CloseAll(const absl::Status& why) {
  std::map<GroupId, std::shared_ptr<GrpcGroupClient>> all;
  {
    const MutexLock lock(mutex_);
    all.swap(clients_);
  }
  for (const auto& [group, client] : all) {
    client->Close(why);
  }
}

}  // namespace alphecca::coordinator

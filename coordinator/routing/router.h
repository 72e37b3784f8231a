// Which group a request goes to: of the connected ones of its model that with the least cost, in tokens,
//
//   cost = (prompt - cached) + queued + 256 * sequences
//
//   prompt     tokens of the request's prompt
//   cached     of them, those that lie in the group's prefix cache (PrefixIndex: a hint)
//   queued     prompt tokens that this coordinator has sent to the group and that have not answered yet, less what was
//              expected to be cached: they are computed before the request's are
//   sequences  the larger of what this coordinator has open there and what the leader last said runs and waits. Each
//              shares the steps with the request; it counts as 256 tokens, about what it has yet to generate.
//
// So a request follows its prefix unless that group is busier by more than the prefix saves: a cached prefix of 2,048
// tokens outweighs 8 sequences. Of equal groups the one with the lower id is taken; without prefixes, the one with the
// least load.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "coordinator/routing/group_client.h"

namespace alphecca::coordinator {

struct RouteRequest {
  std::string_view model;
  std::string_view tenant = {};
  std::span<const int32_t> prompt = {};  // empty: caches do not count
};

struct Route {
  std::shared_ptr<GroupClient> group;
  int64_t cached_tokens = 0;  // of the prompt, expected in the group's prefix cache
};

// The formula above.
int64_t RouteCost(int64_t prompt_tokens, int64_t cached_tokens, const GroupLoad& load);

// Thread-safe.
class Router {
 public:
  explicit Router(std::shared_ptr<const PrefixIndex> prefixes) : prefixes_(std::move(prefixes)) {}

  // Replaces a client that the group had before.
  void Add(const std::string& model, GroupId group, std::shared_ptr<GroupClient> client) ABSL_LOCKS_EXCLUDED(mutex_);
  void Remove(const std::string& model, GroupId group) ABSL_LOCKS_EXCLUDED(mutex_);

  // Unavailable: no connected group.
  absl::StatusOr<Route> Pick(const RouteRequest& request) const ABSL_LOCKS_EXCLUDED(mutex_);
  bool Ready(std::string_view model) const { return Pick({.model = model}).ok(); }
  // Tokens that a sequence may have on any of the model's connected groups; `most` where none holds less.
  int64_t Context(std::string_view model, int64_t most) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Null: the group has no client.
  std::shared_ptr<GroupClient> Find(const std::string& model, GroupId group) const ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<std::shared_ptr<GroupClient>> All() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Clients = std::vector<std::shared_ptr<GroupClient>>;
  // The model's connected groups, by id.
  Clients Candidates(std::string_view model) const ABSL_LOCKS_EXCLUDED(mutex_);

  const std::shared_ptr<const PrefixIndex> prefixes_;
  mutable Mutex mutex_;
  std::map<std::string, std::map<GroupId, std::shared_ptr<GroupClient>>, std::less<>> groups_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::coordinator

// Notices groups whose KV cache holds no sequence of the context that their model is served with: nothing fails, but
// requests may be no longer than the shortest group has.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/ids.h"
#include "coordinator/cluster/types.h"
#include "coordinator/routing/router.h"

namespace alphecca::coordinator {

// Thread rule: one thread.
class ContextWatch {
 public:
  // For people, what each group holds and what would help: once, and again where a group has come to hold another
  // length.
  std::vector<std::string> Look(const ClusterView& view, const Router& router);

 private:
  std::map<GroupId, int64_t> held_;  // tokens of the groups there are, as last seen
};

}  // namespace alphecca::coordinator

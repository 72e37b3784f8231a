#include "coordinator/routing/context_watch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace alphecca::coordinator {
namespace {

std::string Warning(const ModelSpec& model, GroupId group, int64_t held) {
  // Fewer sequences are not among what helps: all of the KV cache is one sequence's already.
  return absl::StrCat("group ", group.value, " of ", model.name, " holds only ", held, " of the ", model.context,
                      " tokens of context asked for, and requests may be no longer. What would help: more --memory on "
                      "its workers (without the flag KV takes little of what is free), ",
                      model.kv_type == "q8_0" ? "" : "--kv-type q8_0, ", "or more ranks");
}

}  // namespace

std::vector<std::string> ContextWatch::Look(const ClusterView& view, const Router& router) {
  std::erase_if(held_, [&](const auto& held) {
    return std::none_of(view.groups.begin(), view.groups.end(),
                        [&](const GroupView& group) { return group.id == held.first; });
  });
  std::vector<std::string> warnings;
  for (const ModelSpec& model : view.models) {
    for (const GroupView& group : view.groups) {
      const auto client = group.model == model.name ? router.Find(model.name, group.id) : nullptr;
      const int64_t held = client == nullptr ? 0 : client->context();
      if (held <= 0) {
        continue;
      }
      const int64_t before = std::exchange(held_[group.id], held);
      if (held < model.context && held != before) {
        warnings.push_back(Warning(model, group.id, held));
      }
    }
  }
  return warnings;
}

}  // namespace alphecca::coordinator

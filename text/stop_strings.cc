#include "text/stop_strings.h"

#include <algorithm>
#include <utility>

namespace alphecca::text {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  stops_.erase(std::remove(stops_.begin(), stops_.end(), std::string()), stops_.end());
}

std::string StopStrings::Add(std::string_view text) {
  if (stopped_) {
    return {};
  }
  pending_ += text;
  // Everything before `sure` can belong to no stop string; one that begins there might still be unfinished, and then a
  // later, finished one does not count yet.
  size_t sure = pending_.size();
  for (const std::string& stop : stops_) {
    if (const size_t match = pending_.find(stop); match != std::string::npos && match <= sure) {
      sure = match;
      stopped_ = true;
    }
  }
  for (const std::string& stop : stops_) {
    const size_t longest = std::min(stop.size() - 1, pending_.size());
    for (size_t length = longest; length > 0; --length) {
      const size_t begin = pending_.size() - length;
      if (begin >= sure) {
        break;
      }
      if (std::string_view(pending_).ends_with(std::string_view(stop).substr(0, length))) {
        sure = begin;
        stopped_ = false;
        break;
      }
    }
  }
  std::string out = pending_.substr(0, sure);
  pending_.erase(0, sure);
  if (stopped_) {
    pending_.clear();
  }
  return out;
}

std::string StopStrings::Flush() {
  // A match may have waited for an earlier one that never was finished.
  size_t end = pending_.size();
  for (const std::string& stop : stops_) {
    if (const size_t match = pending_.find(stop); match < end) {
      end = match;
      stopped_ = true;
    }
  }
  std::string out = pending_.substr(0, end);
  pending_.clear();
  return out;
}

}  // namespace alphecca::text

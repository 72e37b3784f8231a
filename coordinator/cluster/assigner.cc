#include "coordinator/cluster/assigner.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <tuple>

namespace alphecca::coordinator {
namespace {

bool Failed(const Candidate& candidate, const Split& split) {
  return candidate.failed_plans.contains(split.plan_hash);
}

// Hosts of one kind, each with its candidates in order of preference.
std::vector<std::vector<Candidate>> ByHost(const std::vector<Candidate>& candidates) {
  std::map<std::string, std::vector<Candidate>> hosts;
  for (const Candidate& c : candidates) {
    hosts[c.host].push_back(c);
  }
  std::vector<std::vector<Candidate>> result;
  result.reserve(hosts.size());
  for (auto& [host, members] : hosts) {
    result.push_back(std::move(members));
  }
  return result;
}

std::vector<WorkerId> Pick(size_t ranks, const std::vector<Candidate>& candidates, bool& one_host) {
  std::vector<std::vector<Candidate>> hosts = ByHost(candidates);
  const auto first = [](const std::vector<Candidate>& h) { return h.front().id; };
  const auto smallest = std::min_element(hosts.begin(), hosts.end(), [&](const auto& a, const auto& b) {
    return std::tuple(a.size() < ranks, a.size(), first(a)) < std::tuple(b.size() < ranks, b.size(), first(b));
  });
  one_host = smallest->size() >= ranks;
  if (one_host) {
    hosts = {*smallest};
  } else {
    std::sort(hosts.begin(), hosts.end(), [&](const auto& a, const auto& b) {
      return std::tuple(b.size(), first(a)) < std::tuple(a.size(), first(b));
    });
  }
  std::vector<WorkerId> chosen;
  for (const auto& host : hosts) {
    for (size_t i = 0; i < host.size() && chosen.size() < ranks; ++i) {
      chosen.push_back(host[i].id);
    }
  }
  return chosen;
}

}  // namespace

Choice ChooseWorkers(const Split& split, std::vector<Candidate> candidates) {
  Choice choice;
  choice.split = split;
  const auto wanted = static_cast<size_t>(split.ranks());
  std::sort(candidates.begin(), candidates.end(), [&split](const Candidate& a, const Candidate& b) {
    return std::tuple(Failed(a, split), a.id) < std::tuple(Failed(b, split), b.id);
  });
  std::map<std::string, std::vector<Candidate>> kinds;
  std::map<std::string, std::vector<Candidate>> healthy;
  for (const Candidate& c : candidates) {
    kinds[c.kind].push_back(c);
    if (!Failed(c, split)) {
      healthy[c.kind].push_back(c);
    }
  }
  for (const auto& [kind, members] : kinds) {
    choice.available = std::max(choice.available, static_cast<int>(members.size()));
  }
  for (const auto* pool : {&healthy, &kinds}) {
    for (const auto& [kind, members] : *pool) {
      if (members.size() >= wanted) {
        bool one_host = false;
        choice.workers = Pick(wanted, members, one_host);
        choice.communicator = wanted == 1 ? "solo" : one_host ? "shm" : "gloo";
        return choice;
      }
    }
  }
  return choice;
}

Choice ChooseSplit(const std::vector<Split>& splits, const std::vector<Candidate>& candidates) {
  Choice first;
  for (const bool failed_too : {false, true}) {
    for (const Split& split : splits) {
      std::vector<Candidate> holds;
      std::copy_if(candidates.begin(), candidates.end(), std::back_inserter(holds), [&](const Candidate& c) {
        return c.memory_bytes >= split.rank_bytes && (failed_too || !Failed(c, split));
      });
      Choice choice = ChooseWorkers(split, std::move(holds));
      if (!choice.workers.empty()) {
        return choice;
      }
      if (&split == splits.data()) {
        first = std::move(choice);
      }
    }
  }
  return first;
}

}  // namespace alphecca::coordinator

// Which workers make up a group. A pure function of who is idle.
#pragma once

#include <string>
#include <vector>

#include "common/ids.h"
#include "coordinator/cluster/types.h"

namespace alphecca::coordinator {

struct Candidate {
  WorkerId id;
  std::string host;
  std::string kind;  // device kind and build: the ranks of a group must agree on it
  int64_t memory_bytes = 0;
  // A shard of this group failed here lately: taken only where nobody else is left.
  bool failed_lately = false;
};

struct Choice {
  std::vector<WorkerId> workers;  // by rank; empty: not enough of one kind
  std::string communicator;       // "solo" (one rank), "shm" (all on one host), "gloo"
  int available = 0;              // most candidates of one kind
  Split split = {};               // by ChooseSplit
};

// Ranks of one kind; on one host if some host has enough (the one with the fewest to spare, so that large hosts
// stay whole for large groups), else from as few hosts as possible. Ranks of a host are neighbours. Deterministic: ties
// go to the lower id.
Choice ChooseWorkers(int ranks, std::vector<Candidate> candidates);

// The first split whose shards some workers hold, and these. None: `available` is of those with memory enough for the
// first split.
Choice ChooseSplit(const std::vector<Split>& splits, const std::vector<Candidate>& candidates);

}  // namespace alphecca::coordinator

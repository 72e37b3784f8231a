// Which workers make up a group. A pure function of who is idle.
#pragma once

#include <set>
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
  // Plans (by hash) of this group whose shard failed here lately.
  std::set<std::string> failed_plans = {};
};

struct Choice {
  std::vector<WorkerId> workers;  // by rank; empty: not enough of one kind
  std::string communicator;       // "solo" (one rank), "shm" (all on one host), "gloo"
  int available = 0;              // most candidates of one kind
  Split split = {};               // theirs; without workers: the first
};

// For a split. Ranks of one kind; on one host if some host has enough (the one with the fewest to spare, so that large
// hosts stay whole for large groups), else from as few hosts as possible. Ranks of a host are neighbours.
// Deterministic: ties go to the lower id. Candidates on which this plan failed are taken only where others do not
// suffice.
Choice ChooseWorkers(const Split& split, std::vector<Candidate> candidates);

// The first split whose shards some workers hold, and these; where each needs a worker on which it failed lately, one
// that failed is tried again. None: `available` is of those with memory enough for the first split.
Choice ChooseSplit(const std::vector<Split>& splits, const std::vector<Candidate>& candidates);

}  // namespace alphecca::coordinator

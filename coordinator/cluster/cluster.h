// The cluster's state machine: workers come and go, groups form, load, serve, break and form again. Pure: the clock and
// randomness are passed in, what is to be done goes to ClusterEffects.
//
//   waiting --enough idle workers--> loading --every rank ready--> ready
//      ^                                |  a rank failed              | a rank failed
//      |<-------- a worker was lost ----+-----------------------------+
//      +<-- backoff over -- failed <----+-----------------------------+
//
// Each forming of a group is an epoch, a number that only grows. Reports of an older epoch change nothing.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "coordinator/cluster/assigner.h"
#include "coordinator/cluster/membership.h"
#include "coordinator/cluster/types.h"

namespace alphecca::coordinator {

struct ClusterOptions {
  absl::Duration lease = absl::Seconds(10);
  absl::Duration first_backoff = absl::Milliseconds(500);
  absl::Duration max_backoff = absl::Minutes(1);
  // A group that was ready for so long starts its backoff anew.
  absl::Duration stable_after = absl::Seconds(30);
  // Epochs count from here: after a restart they must be higher than before, as a clock is.
  Epoch first_epoch{1};
  // 128 random bits in hex: names the shared memory of an epoch and admits its ranks.
  std::function<std::string()> make_rendezvous;
  // Of all assignments; secret.
  model::PrefixKey prefix_key = {};
};

// Not thread-safe. `effects` must outlive it and must not call back into it.
class Cluster {
 public:
  Cluster(ClusterOptions options, std::vector<ModelSpec> models, ClusterEffects& effects);

  // The errors of CheckRegistration and Membership::Join. The new worker gets its first assignment from a later call,
  // so that the caller can make its stream known first.
  absl::StatusOr<WorkerId> Join(const Registration& registration, absl::Time now);
  absl::Status Heartbeat(WorkerId worker, uint64_t sequence, absl::Time now);
  // FailedPrecondition: of an epoch that this worker does not (or no longer) hold, or a step back within one; nothing
  // changed. NotFound: unknown.
  absl::Status Report(WorkerId worker, const ShardReport& report, absl::Time now);
  // The worker's stream ended.
  void Leave(WorkerId worker, const std::string& why, absl::Time now);
  // Ends leases, ends backoffs, forms groups. Call several times a second.
  void Tick(absl::Time now);

  ClusterView View() const;

 private:
  struct Rank {
    WorkerId worker;
    ShardReport report;
  };
  struct Group {
    GroupId id;
    const ModelSpec* model = nullptr;
    std::vector<Split> splits;  // to form by
    Split split;                // of the epoch
    GroupState state = GroupState::kWaiting;
    Epoch epoch;
    std::vector<Rank> ranks;
    std::string message;
    std::string trouble;  // what ended the last epoch, until the next is ready
    std::string fingerprint;
    int failures = 0;  // in a row
    absl::Time ready_since;
    absl::Time retry_at = absl::InfinitePast();
    bool proven = false;                                  // it was ready by its split
    std::map<WorkerId, std::set<std::string>> failed_on;  // plans by hash, since it was last ready
    std::vector<WorkerId> former;                         // ranks of the epoch that ended last
  };

  void AddGroup(const ModelSpec& model);
  // A model of as many groups as the workers make always has one that waits for more of them.
  void AddSpares();
  // A group beyond the first of such a model that holds no workers.
  bool IsSpare(const Group& group) const;
  void FormGroups(absl::Time now);
  void FormIfWaiting(Group& group, absl::Time now);
  void Form(Group& group, const Choice& choice);
  // What a group that cannot form waits for.
  std::string Missing(const Group& group, const std::vector<Candidate>& idle, const Choice& choice) const;
  // All ranks let go; the group was ready: it is lost to routing. Ranks on `gone` get no message.
  void Dissolve(Group& group, WorkerId gone, const absl::Status& why);
  void RankFailed(Group& group, size_t rank, absl::Time now);
  void CheckReady(Group& group, absl::Time now);
  void Lose(WorkerId worker, const std::string& name, const std::string& why);
  // A group whose rank failed because `worker` died, which shows only now: no backoff, and nobody else is to blame.
  void Absolve(Group& group, WorkerId worker, const std::string& message);
  Group* GroupOf(WorkerId worker);

  ClusterOptions options_;
  std::vector<ModelSpec> models_;  // never changes: groups point into it
  ClusterEffects& effects_;
  Membership membership_;
  std::vector<Group> groups_;
  std::map<WorkerId, size_t> holders_;  // workers that hold a shard -> index of their group
  Epoch next_epoch_;
};

}  // namespace alphecca::coordinator

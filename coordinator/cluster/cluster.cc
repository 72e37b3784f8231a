#include "coordinator/cluster/cluster.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/cluster/assigner.h"

namespace alphecca::coordinator {

std::string_view GroupStateName(GroupState state) {
  switch (state) {
    case GroupState::kWaiting:
      return "waiting for workers";
    case GroupState::kLoading:
      return "loading";
    case GroupState::kReady:
      return "ready";
    case GroupState::kFailed:
      return "failed";
  }
  return "unknown";
}

namespace {

// One for the group: the ranks' own, each named once, in rank order.
std::string JoinFingerprints(const std::vector<std::string>& ranks) {
  std::vector<std::string> distinct;
  for (const std::string& f : ranks) {
    if (std::find(distinct.begin(), distinct.end(), f) == distinct.end()) {
      distinct.push_back(f);
    }
  }
  return absl::StrJoin(distinct, "+");
}

}  // namespace

Cluster::Cluster(ClusterOptions options, std::vector<ModelSpec> models, ClusterEffects& effects)
    : options_(std::move(options)),
      models_(std::move(models)),
      effects_(effects),
      membership_(options_.lease),
      next_epoch_(options_.first_epoch) {
  for (const ModelSpec& model : models_) {
    for (int replica = 0; replica < model.replicas; ++replica) {
      AddGroup(model);
    }
  }
  FormGroups(absl::InfinitePast());  // for the message that says what is missing
}

void Cluster::AddGroup(const ModelSpec& model) {
  Group group;
  group.id = GroupId(groups_.size() + 1);
  group.model = &model;
  group.splits = model.splits;
  group.split = model.splits.front();
  groups_.push_back(std::move(group));
}

void Cluster::AddSpares() {
  for (const ModelSpec& model : models_) {
    const bool has_spare = std::any_of(groups_.begin(), groups_.end(), [&model](const Group& g) {
      return g.model == &model && (g.state == GroupState::kWaiting || g.state == GroupState::kFailed);
    });
    if (model.replicas == 0 && !has_spare) {
      AddGroup(model);
    }
  }
}

absl::StatusOr<WorkerId> Cluster::Join(const Registration& registration, absl::Time now) {
  if (absl::Status status = CheckRegistration(registration); !status.ok()) {
    return status;
  }
  absl::StatusOr<Membership::Joined> joined = membership_.Join(registration, now);
  if (!joined.ok()) {
    return joined.status();
  }
  if (joined->replaced) {
    const std::string why = "another worker joined from the same address";
    effects_.Evict(*joined->replaced, absl::AbortedError(why));
    Lose(*joined->replaced, registration.name, why);
  }
  return joined->id;
}

absl::Status Cluster::Heartbeat(WorkerId worker, uint64_t sequence, absl::Time now) {
  return membership_.Heartbeat(worker, sequence, now);
}

Cluster::Group* Cluster::GroupOf(WorkerId worker) {
  const auto it = holders_.find(worker);
  return it == holders_.end() ? nullptr : &groups_[it->second];
}

absl::Status Cluster::Report(WorkerId worker, const ShardReport& report, absl::Time now) {
  if (membership_.Find(worker) == nullptr) {
    return absl::NotFoundError(absl::StrCat("worker ", worker.value, " is not a member; join again"));
  }
  Group* group = GroupOf(worker);
  if (group == nullptr || group->epoch != report.epoch) {
    return absl::FailedPreconditionError(
        absl::StrCat("report of epoch ", report.epoch.value, ", but the worker holds ",
                     group == nullptr ? "no shard" : absl::StrCat("epoch ", group->epoch.value)));
  }
  const auto rank =
      std::find_if(group->ranks.begin(), group->ranks.end(), [&](const Rank& r) { return r.worker == worker; });
  const ShardState before = rank->report.state;
  if (report.state != ShardState::kFailed && report.state != ShardState::kIdle && report.state < before) {
    return absl::FailedPreconditionError(absl::StrCat("rank of epoch ", report.epoch.value,
                                                      " cannot go back from state ", static_cast<int>(before), " to ",
                                                      static_cast<int>(report.state)));
  }
  rank->report = report;
  switch (report.state) {
    case ShardState::kFailed:
      RankFailed(*group, static_cast<size_t>(rank - group->ranks.begin()), now);
      break;
    case ShardState::kIdle:
      rank->report.message = "the worker dropped its shard";
      RankFailed(*group, static_cast<size_t>(rank - group->ranks.begin()), now);
      break;
    case ShardState::kReady:
      CheckReady(*group, now);
      break;
    case ShardState::kLoading:
    case ShardState::kConnecting:
      break;
  }
  return absl::OkStatus();
}

void Cluster::CheckReady(Group& group, absl::Time now) {
  std::vector<std::string> fingerprints;
  for (const Rank& rank : group.ranks) {
    if (rank.report.state != ShardState::kReady) {
      return;
    }
    fingerprints.push_back(rank.report.fingerprint);
  }
  if (group.state == GroupState::kReady) {
    return;
  }
  group.state = GroupState::kReady;
  group.message.clear();
  group.trouble.clear();
  group.fingerprint = JoinFingerprints(fingerprints);
  group.ready_since = now;
  group.failed_on.clear();
  group.proven = true;
  effects_.GroupReady(group.id, group.epoch, group.model->name,
                      membership_.Find(group.ranks.front().worker)->registration.address, group.fingerprint);
}

void Cluster::RankFailed(Group& group, size_t rank, absl::Time now) {
  const WorkerId worker = group.ranks[rank].worker;
  const Registration& who = membership_.Find(worker)->registration;
  const std::string message =
      absl::StrCat("rank ", rank, " on ", who.name, " (", who.address, "): ", group.ranks[rank].report.message);
  if (group.state == GroupState::kReady && now - group.ready_since >= options_.stable_after) {
    group.failures = 0;
  }
  absl::Duration backoff = options_.first_backoff;
  for (int i = 0; i < group.failures && backoff < options_.max_backoff; ++i) {
    backoff *= 2;
  }
  backoff = std::min(backoff, options_.max_backoff);
  ++group.failures;
  group.failed_on[worker].insert(group.split.plan_hash);
  if (!group.proven) {
    group.splits = group.model->splits;  // one that never worked binds nobody
  }
  group.retry_at = now + backoff;
  Dissolve(group, WorkerId(), absl::UnavailableError(message));
  group.state = GroupState::kFailed;
  group.trouble = message;
  group.message = absl::StrCat(message, "; next try (", group.failures + 1, ") in ", absl::FormatDuration(backoff));
}

void Cluster::Dissolve(Group& group, WorkerId gone, const absl::Status& why) {
  if (group.state == GroupState::kReady) {
    effects_.GroupLost(group.id, group.epoch, group.model->name, why);
  }
  group.former.clear();
  for (const Rank& rank : group.ranks) {
    group.former.push_back(rank.worker);
    holders_.erase(rank.worker);
    if (rank.worker != gone) {
      effects_.Release(rank.worker, group.epoch, std::string(why.message()));
    }
  }
  group.ranks.clear();
  group.fingerprint.clear();
  group.state = GroupState::kWaiting;
}

void Cluster::Lose(WorkerId worker, const std::string& name, const std::string& why) {
  for (Group& group : groups_) {
    group.failed_on.erase(worker);
    Absolve(group, worker, absl::StrCat(name, " was lost: ", why));
  }
  if (Group* group = GroupOf(worker); group != nullptr) {
    const auto rank =
        std::find_if(group->ranks.begin(), group->ranks.end(), [&](const Rank& r) { return r.worker == worker; }) -
        group->ranks.begin();
    const std::string message = absl::StrCat("rank ", rank, " on ", name, " was lost: ", why);
    Dissolve(*group, worker, absl::UnavailableError(message));
    group->trouble = message;
  }
}

void Cluster::Absolve(Group& group, WorkerId worker, const std::string& message) {
  if (group.state != GroupState::kFailed ||
      std::find(group.former.begin(), group.former.end(), worker) == group.former.end()) {
    return;
  }
  group.state = GroupState::kWaiting;
  group.trouble = message;
  group.failures = std::max(0, group.failures - 1);
  for (const WorkerId peer : group.former) {
    group.failed_on.erase(peer);
  }
}

void Cluster::Leave(WorkerId worker, const std::string& why, absl::Time now) {
  const Membership::Member* member = membership_.Find(worker);
  if (member == nullptr) {
    return;  // its lease ended first, or another one took its place
  }
  const std::string name = member->registration.name;
  membership_.Leave(worker);
  Lose(worker, name, why);
  FormGroups(now);
}

void Cluster::Tick(absl::Time now) {
  for (const WorkerId worker : membership_.Expired(now)) {
    const std::string why = absl::StrCat("no heartbeat for ", absl::FormatDuration(options_.lease));
    effects_.Evict(worker, absl::DeadlineExceededError(why));
    Leave(worker, why, now);
  }
  FormGroups(now);
}

bool Cluster::IsSpare(const Group& group) const {
  const auto holds = [](const Group& g) { return g.state == GroupState::kLoading || g.state == GroupState::kReady; };
  return group.model->replicas == 0 && !holds(group) &&
         std::any_of(groups_.begin(), groups_.end(),
                     [&](const Group& g) { return g.model == group.model && holds(g); });
}

void Cluster::FormGroups(absl::Time now) {
  AddSpares();
  bool all_served = true;
  for (Group& group : groups_) {
    if (!IsSpare(group)) {
      FormIfWaiting(group, now);
      all_served = all_served && group.state != GroupState::kWaiting && group.state != GroupState::kFailed;
    }
  }
  AddSpares();
  // Only then may a model take workers for one more replica: it would starve groups that need several.
  for (size_t i = 0; i < groups_.size(); ++i) {  // grows as spares form
    if (!IsSpare(groups_[i])) {
      continue;
    }
    if (all_served) {
      FormIfWaiting(groups_[i], now);
      AddSpares();
    } else {
      groups_[i].message = "one more replica once every model has its groups";
    }
  }
}

void Cluster::FormIfWaiting(Group& group, absl::Time now) {
  if (group.state == GroupState::kFailed && now >= group.retry_at) {
    group.state = GroupState::kWaiting;
  }
  if (group.state != GroupState::kWaiting) {
    return;
  }
  std::vector<Candidate> idle;
  for (const auto& [id, member] : membership_.members()) {
    if (!holders_.contains(id)) {
      const auto failed = group.failed_on.find(id);
      idle.push_back({.id = id,
                      .host = member.registration.host,
                      .kind = absl::StrCat(member.registration.device.kind, "\n", member.registration.build),
                      .memory_bytes = member.registration.device.memory_bytes,
                      .failed_plans = failed != group.failed_on.end() ? failed->second : std::set<std::string>()});
    }
  }
  const Choice choice = ChooseSplit(group.splits, idle);
  if (choice.workers.empty()) {
    group.message = Missing(group, idle, choice);
  } else {
    Form(group, choice);
  }
}

std::string Cluster::Missing(const Group& group, const std::vector<Candidate>& idle, const Choice& choice) const {
  const Split& split = group.splits.front();
  std::string message = absl::StrCat("needs ", split.ranks(), " idle workers of one device kind and build, ",
                                     choice.available, " there: start ", split.ranks() - choice.available, " more");
  const bool alike = std::all_of(idle.begin(), idle.end(),
                                 [&idle](const Candidate& candidate) { return candidate.kind == idle.front().kind; });
  for (const Candidate& candidate : idle) {
    const Registration& worker = membership_.Find(candidate.id)->registration;
    if (!alike) {
      absl::StrAppend(&message, "; ", worker.name, " is a ", worker.device.kind, " of build ", worker.build);
    }
    if (candidate.memory_bytes < split.rank_bytes) {
      absl::StrAppendFormat(&message, "; %s has %.1f MiB and its shard takes %.1f: more memory or a larger tp",
                            worker.name, static_cast<double>(candidate.memory_bytes) / (1 << 20),
                            static_cast<double>(split.rank_bytes) / (1 << 20));
    }
  }
  if (!group.trouble.empty()) {
    absl::StrAppend(&message, "; before that: ", group.trouble);
  }
  return message;
}

void Cluster::Form(Group& group, const Choice& choice) {
  const std::vector<WorkerId>& workers = choice.workers;
  group.epoch = next_epoch_;
  next_epoch_ = Epoch(next_epoch_.value + 1);
  group.split = choice.split;
  if (group.model->on_loss == OnLoss::kWait) {
    group.splits = {choice.split};
  }
  group.state = GroupState::kLoading;
  group.message = absl::StrCat("loading on ", workers.size(), workers.size() == 1 ? " worker" : " workers",
                               group.trouble.empty() ? "" : "; before that: ", group.trouble);
  group.ranks.clear();
  Assignment assignment;
  assignment.group = group.id;
  assignment.epoch = group.epoch;
  assignment.model = *group.model;
  assignment.split = choice.split;
  assignment.communicator = choice.communicator;
  assignment.rendezvous = options_.make_rendezvous();
  assignment.prefix_key = options_.prefix_key;
  for (const WorkerId worker : workers) {
    assignment.peers.push_back(membership_.Find(worker)->registration.address);
    holders_[worker] = static_cast<size_t>(&group - groups_.data());
    Rank rank;
    rank.worker = worker;
    rank.report.epoch = group.epoch;
    rank.report.state = ShardState::kLoading;
    group.ranks.push_back(std::move(rank));
  }
  for (size_t rank = 0; rank < workers.size(); ++rank) {
    assignment.rank = static_cast<int>(rank);
    effects_.Assign(workers[rank], assignment);
  }
}

ClusterView Cluster::View() const {
  ClusterView view;
  view.models = models_;
  std::map<WorkerId, const Rank*> shards;
  for (const Group& group : groups_) {
    GroupView g;
    g.id = group.id;
    g.epoch = group.epoch;
    g.model = group.model->name;
    g.split = group.split;
    g.state = group.state;
    g.fingerprint = group.fingerprint;
    g.message = group.message;
    for (const Rank& rank : group.ranks) {
      g.ranks.push_back({rank.worker, rank.report});
      shards[rank.worker] = &rank;
    }
    view.groups.push_back(std::move(g));
  }
  for (const auto& [id, member] : membership_.members()) {
    WorkerView w;
    w.id = id;
    w.registration = member.registration;
    if (const auto it = shards.find(id); it != shards.end()) {
      w.state = it->second->report.state;
      w.epoch = it->second->report.epoch;
    }
    view.workers.push_back(std::move(w));
  }
  return view;
}

}  // namespace alphecca::coordinator

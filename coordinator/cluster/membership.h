// Who is there: workers, their leases, and what they said of themselves. Pure: the clock is passed in.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "coordinator/cluster/types.h"

namespace alphecca::coordinator {

// InvalidArgument names the field; FailedPrecondition: another protocol version.
absl::Status CheckRegistration(const Registration& registration);

// Not thread-safe.
class Membership {
 public:
  struct Member {
    Registration registration;
    absl::Time lease_end;
    uint64_t last_heartbeat = 0;
  };
  struct Joined {
    WorkerId id;
    // A live entry with the same address, which the new one replaces: its process must be gone.
    std::optional<WorkerId> replaced;
  };

  explicit Membership(absl::Duration lease) : lease_(lease) {}

  // AlreadyExists: a live worker elsewhere has this name. An empty name becomes "worker-<id>".
  absl::StatusOr<Joined> Join(Registration registration, absl::Time now);
  // Prolongs the lease. NotFound: no such worker (left, or its lease ended). FailedPrecondition: a number that does not
  // rise, which is a repeated or late message and prolongs nothing.
  absl::Status Heartbeat(WorkerId id, uint64_t sequence, absl::Time now);
  // False if it was not there.
  bool Leave(WorkerId id);
  // Workers whose lease has ended. They stay members until Leave.
  std::vector<WorkerId> Expired(absl::Time now) const;

  const Member* Find(WorkerId id) const;
  const std::map<WorkerId, Member>& members() const { return members_; }

 private:
  absl::Duration lease_;
  uint64_t next_id_ = 1;
  std::map<WorkerId, Member> members_;
};

}  // namespace alphecca::coordinator

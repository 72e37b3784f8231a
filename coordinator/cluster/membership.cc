#include "coordinator/cluster/membership.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace alphecca::coordinator {
namespace {

constexpr size_t kMaxText = 256;

bool Printable(const std::string& text) {
  for (const char c : text) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) {
      return false;
    }
  }
  return true;
}

absl::Status CheckText(const char* field, const std::string& text, bool required) {
  if (required && text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(field, " is empty"));
  }
  if (text.size() > kMaxText || !Printable(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": ", text.size(), " bytes; want at most ", kMaxText, " printable ASCII characters"));
  }
  return absl::OkStatus();
}

absl::Status CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 1 ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("address \"", address, "\"; want host:port with a port in [1, 65535], as peers reach the worker"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRegistration(const Registration& r) {
  if (r.protocol_version != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the worker speaks protocol version ", r.protocol_version,
                                                      ", this coordinator ", kProtocolVersion));
  }
  for (const auto& [field, text, required] :
       {std::tuple{"address", &r.address, true}, std::tuple{"build", &r.build, true},
        std::tuple{"name", &r.name, false}, std::tuple{"host", &r.host, true},
        std::tuple{"device.kind", &r.device.kind, true}, std::tuple{"device.name", &r.device.name, false},
        std::tuple{"device.isa", &r.device.isa, false}}) {
    if (absl::Status status = CheckText(field, *text, required); !status.ok()) {
      return status;
    }
  }
  if (r.device.memory_bytes < 0 || r.device.threads < 0) {
    return absl::InvalidArgumentError(absl::StrCat("device: memory_bytes ", r.device.memory_bytes, ", threads ",
                                                   r.device.threads, "; want neither below 0"));
  }
  return CheckAddress(r.address);
}

absl::StatusOr<Membership::Joined> Membership::Join(Registration registration, absl::Time now) {
  Joined joined;
  for (const auto& [id, member] : members_) {
    if (member.registration.address == registration.address) {
      joined.replaced = id;
    } else if (!registration.name.empty() && member.registration.name == registration.name) {
      return absl::AlreadyExistsError(
          absl::StrCat("a worker named \"", registration.name, "\" is live at ", member.registration.address,
                       "; give this one another name, or wait for that one's lease to end"));
    }
  }
  if (joined.replaced) {
    members_.erase(*joined.replaced);
  }
  joined.id = WorkerId(next_id_++);
  if (registration.name.empty()) {
    registration.name = absl::StrCat("worker-", joined.id.value);
  }
  members_.emplace(joined.id, Member{std::move(registration), now + lease_, 0});
  return joined;
}

absl::Status Membership::Heartbeat(WorkerId id, uint64_t sequence, absl::Time now) {
  const auto it = members_.find(id);
  if (it == members_.end()) {
    return absl::NotFoundError(absl::StrCat("worker ", id.value, " is not a member; join again"));
  }
  if (sequence <= it->second.last_heartbeat) {
    return absl::FailedPreconditionError(
        absl::StrCat("heartbeat ", sequence, " after ", it->second.last_heartbeat, "; numbers must rise"));
  }
  it->second.last_heartbeat = sequence;
  it->second.lease_end = now + lease_;
  return absl::OkStatus();
}

bool Membership::Leave(WorkerId id) {
  return members_.erase(id) > 0;
}

std::vector<WorkerId> Membership::Expired(absl::Time now) const {
  std::vector<WorkerId> expired;
  for (const auto& [id, member] : members_) {
    if (member.lease_end <= now) {
      expired.push_back(id);
    }
  }
  return expired;
}

const Membership::Member* Membership::Find(WorkerId id) const {
  const auto it = members_.find(id);
  return it == members_.end() ? nullptr : &it->second;
}

}  // namespace alphecca::coordinator

#include "coordinator/cluster/membership.h"

#include <gtest/gtest.h>

#include "recording_effects.h"

namespace alphecca::coordinator {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);

TEST(CheckRegistration, RefusesOtherProtocolVersions) {
  Registration r = TestWorker("w", "h", 1);
  EXPECT_TRUE(CheckRegistration(r).ok());
  r.protocol_version = 2;
  EXPECT_EQ(CheckRegistration(r).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(CheckRegistration, NamesTheBadField) {
  const auto error = [](const std::function<void(Registration&)>& spoil) {
    Registration r = TestWorker("w", "h", 1);
    spoil(r);
    const absl::Status status = CheckRegistration(r);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_NE(error([](Registration& r) { r.address = "nowhere"; }).find("address"), std::string::npos);
  EXPECT_NE(error([](Registration& r) { r.address = "h:0"; }).find("address"), std::string::npos);
  EXPECT_NE(error([](Registration& r) { r.address = "h:99999"; }).find("address"), std::string::npos);
  EXPECT_NE(error([](Registration& r) { r.address = ""; }).find("address"), std::string::npos);
  EXPECT_NE(error([](Registration& r) { r.name = "a\nb"; }).find("name"), std::string::npos);
  EXPECT_NE(error([](Registration& r) { r.build = ""; }).find("build"), std::string::npos);
  EXPECT_NE(error([](Registration& r) { r.host = ""; }).find("host"), std::string::npos);
  EXPECT_NE(error([](Registration& r) { r.device.kind = ""; }).find("device.kind"), std::string::npos);
  EXPECT_NE(error([](Registration& r) { r.device.memory_bytes = -1; }).find("memory_bytes"), std::string::npos);
  EXPECT_NE(error([](Registration& r) { r.name = std::string(1000, 'x'); }).find("1000 bytes"), std::string::npos);
}

TEST(Membership, LeaseEndsWithoutHeartbeats) {
  Membership m(absl::Seconds(10));
  const WorkerId a = m.Join(TestWorker("a", "h", 1), kStart)->id;
  const WorkerId b = m.Join(TestWorker("b", "h", 2), kStart)->id;
  ASSERT_TRUE(m.Heartbeat(a, 1, kStart + absl::Seconds(9)).ok());
  EXPECT_EQ(m.Expired(kStart + absl::Seconds(10)), std::vector<WorkerId>{b});
  EXPECT_TRUE(m.Leave(b));
  EXPECT_EQ(m.Heartbeat(b, 1, kStart + absl::Seconds(10)).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(m.Expired(kStart + absl::Seconds(19)), std::vector<WorkerId>{a});
}

TEST(Membership, RepeatedHeartbeatProlongsNothing) {
  Membership m(absl::Seconds(10));
  const WorkerId a = m.Join(TestWorker("a", "h", 1), kStart)->id;
  ASSERT_TRUE(m.Heartbeat(a, 5, kStart).ok());
  EXPECT_EQ(m.Heartbeat(a, 5, kStart + absl::Seconds(9)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(m.Heartbeat(a, 4, kStart + absl::Seconds(9)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(m.Expired(kStart + absl::Seconds(10)).size(), 1U);
}

TEST(Membership, NamesAreUniqueAndMadeUpIfEmpty) {
  Membership m(absl::Seconds(10));
  ASSERT_TRUE(m.Join(TestWorker("a", "h", 1), kStart).ok());
  EXPECT_EQ(m.Join(TestWorker("a", "h", 2), kStart).status().code(), absl::StatusCode::kAlreadyExists);
  const auto unnamed = m.Join(TestWorker("", "h", 3), kStart);
  ASSERT_TRUE(unnamed.ok());
  EXPECT_EQ(m.Find(unnamed->id)->registration.name, "worker-2");
}

TEST(Membership, SameAddressReplaces) {
  Membership m(absl::Seconds(10));
  const auto first = m.Join(TestWorker("a", "h", 1), kStart);
  const auto second = m.Join(TestWorker("a", "h", 1), kStart);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->replaced, first->id);
  EXPECT_NE(second->id, first->id);
  EXPECT_EQ(m.members().size(), 1U);
}

}  // namespace
}  // namespace alphecca::coordinator

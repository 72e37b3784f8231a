#include "coordinator/routing/admission.h"

#include <gtest/gtest.h>

#include "coordinator/request/errors.h"

namespace alphecca::coordinator {
namespace {

AdmissionOptions Small() {
  AdmissionOptions o;
  o.max_sequences = 4;
  o.max_request_bytes = 100;
  return o;
}

TEST(Admission, GivesBackWhatATicketHeld) {
  Admission admission(Small());
  {
    auto ticket = admission.Admit("a", 3, 10);
    ASSERT_TRUE(ticket.ok());
    EXPECT_EQ(admission.open_sequences(), 3);
    Admission::Ticket moved = *std::move(ticket);
    EXPECT_EQ(admission.open_sequences(), 3);
  }
  EXPECT_EQ(admission.open_sequences(), 0);
  EXPECT_TRUE(admission.Admit("a", 3, 100).ok());
}

TEST(Admission, RefusesBeyondEachLimitWithADelay) {
  Admission admission(Small());
  const auto held = admission.Admit("a", 2, 60);
  ASSERT_TRUE(held.ok());
  for (const auto& refused : {admission.Admit("b", 3, 1).status(), admission.Admit("a", 3, 1).status(),
                              admission.Admit("b", 1, 41).status()}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(RetryDelayOf(refused), absl::Seconds(1)) << refused;
  }
  EXPECT_TRUE(admission.Admit("b", 2, 40).ok());
}

TEST(Admission, NoTenantShutsOthersOut) {
  Admission admission(Small());
  const auto flood = admission.Admit("a", 4, 1);
  ASSERT_TRUE(flood.ok());
  EXPECT_FALSE(admission.Admit("a", 1, 1).ok());
  EXPECT_FALSE(admission.Admit("b", 3, 1).ok());  // more than half of four
  {
    const auto other = admission.Admit("b", 2, 1);
    EXPECT_TRUE(other.ok());
    EXPECT_FALSE(admission.Admit("b", 1, 1).ok());
  }
  EXPECT_TRUE(admission.Admit("b", 2, 1).ok());
}

TEST(Admission, DrainingAdmitsNothing) {
  Admission admission(Small());
  const auto held = admission.Admit("a", 1, 1);
  admission.Drain();
  EXPECT_EQ(admission.Admit("a", 1, 1).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(admission.open_sequences(), 1);
}

}  // namespace
}  // namespace alphecca::coordinator

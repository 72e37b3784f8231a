#include "coordinator/routing/router.h"

#include <gtest/gtest.h>

#include "fake_group_client.h"

namespace alphecca::coordinator {
namespace {

TEST(Router, PicksTheLeastLoadedConnectedGroup) {
  Router router;
  EXPECT_EQ(router.Pick("m").status().code(), absl::StatusCode::kUnavailable);
  const auto a = std::make_shared<FakeGroupClient>();
  const auto b = std::make_shared<FakeGroupClient>();
  a->open = 3;
  b->open = 1;
  router.Add("m", GroupId(1), a);
  router.Add("m", GroupId(2), b);
  EXPECT_EQ(*router.Pick("m"), b);
  b->is_connected = false;
  EXPECT_EQ(*router.Pick("m"), a);
  router.Remove("m", GroupId(1));
  EXPECT_FALSE(router.Ready("m"));
  EXPECT_FALSE(router.Ready("other"));
}

TEST(Router, ANewEpochsClientReplacesTheOld) {
  Router router;
  router.Add("m", GroupId(1), std::make_shared<FakeGroupClient>());
  const auto fresh = std::make_shared<FakeGroupClient>();
  router.Add("m", GroupId(1), fresh);
  EXPECT_EQ(*router.Pick("m"), fresh);
  EXPECT_EQ(router.All().size(), 1U);
}

}  // namespace
}  // namespace alphecca::coordinator

#include "coordinator/routing/router.h"

#include <gtest/gtest.h>

#include <numeric>

#include "fake_group_client.h"

namespace alphecca::coordinator {
namespace {

constexpr model::PrefixKey kKey = {1, 2};
constexpr int kBlockTokens = 16;

class RouterTest : public testing::Test {
 protected:
  // The next group of model "m", which has the first `cached` tokens of `prompt_` in its cache.
  std::shared_ptr<FakeGroupClient> AddGroup(GroupLoad load = {}, int64_t cached = 0) {
    auto client = std::make_shared<FakeGroupClient>();
    client->open = load.open;
    client->running = load.running;
    client->waiting = load.waiting;
    client->queued_tokens = load.queued_tokens;
    if (cached > 0) {
      const auto holder = index_->Add("r", kBlockTokens);
      holder->Apply({}, model::PrefixHasher(kKey, "r", kBlockTokens)
                            .Blocks("t", std::span(prompt_).first(static_cast<size_t>(cached))));
      client->holder = holder;
    }
    groups_.push_back(client);
    router_.Add("m", GroupId(groups_.size()), client);
    return client;
  }
  absl::StatusOr<Route> Pick() const { return router_.Pick({.model = "m", .tenant = "t", .prompt = prompt_}); }
  // The number of the group that is picked, from 1.
  size_t Picked() const {
    const auto route = Pick();
    const auto at = route.ok() ? std::find(groups_.begin(), groups_.end(), route->group) : groups_.end();
    return at == groups_.end() ? 0 : static_cast<size_t>(at - groups_.begin()) + 1;
  }

  std::vector<int32_t> prompt_ = std::vector<int32_t>(2000, 7);
  std::shared_ptr<PrefixIndex> index_ = std::make_shared<PrefixIndex>(kKey);
  Router router_{index_};
  std::vector<std::shared_ptr<GroupClient>> groups_;
};

TEST_F(RouterTest, PicksTheLeastLoadedConnectedGroup) {
  EXPECT_EQ(Pick().status().code(), absl::StatusCode::kUnavailable);
  AddGroup({.open = 3});
  const auto second = AddGroup({.open = 1});
  EXPECT_EQ(Picked(), 2U);
  second->is_connected = false;
  EXPECT_EQ(Picked(), 1U);
  router_.Remove("m", GroupId(1));
  EXPECT_FALSE(router_.Ready("m"));
  EXPECT_FALSE(router_.Ready("other"));
}

TEST_F(RouterTest, AModelsContextIsTheLeastOfItsConnectedGroups) {
  EXPECT_EQ(router_.Context("m", 8192), 8192);
  AddGroup()->context_tokens = 4096;
  const auto small = AddGroup();
  small->context_tokens = 1024;
  AddGroup();  // does not tell
  EXPECT_EQ(router_.Context("m", 8192), 1024);
  EXPECT_EQ(router_.Context("m", 512), 512);
  EXPECT_EQ(router_.Context("other", 8192), 8192);
  small->is_connected = false;
  EXPECT_EQ(router_.Context("m", 8192), 4096);
}

TEST_F(RouterTest, ANewEpochsClientReplacesTheOld) {
  AddGroup();
  const auto fresh = std::make_shared<FakeGroupClient>();
  router_.Add("m", GroupId(1), fresh);
  EXPECT_EQ(Pick()->group, fresh);
  EXPECT_EQ(router_.All().size(), 1U);
}

struct Group {
  GroupLoad load = {};
  int64_t cached = 0;
};
struct Decision {
  const char* name;
  std::vector<Group> groups;
  size_t picked;       // from 1
  int64_t cached = 0;  // expected there
};

class Decisions : public RouterTest, public testing::WithParamInterface<Decision> {};

TEST_P(Decisions, FollowTheFormula) {
  for (const Group& group : GetParam().groups) {
    AddGroup(group.load, group.cached);
  }
  EXPECT_EQ(Picked(), GetParam().picked);
  EXPECT_EQ(Pick()->cached_tokens, GetParam().cached);
}

INSTANTIATE_TEST_SUITE_P(
    All, Decisions,
    testing::Values(
        Decision{"NothingKnown", {{}, {}}, 1}, Decision{"ThePrefixDecides", {{}, {.cached = 160}, {}}, 2, 160},
        Decision{"TheLongerPrefixDecides", {{.cached = 160}, {.cached = 320}, {.cached = 240}}, 2, 320},
        Decision{"OneBlockIsEnoughAmongEquals", {{}, {.cached = 16}}, 2, 16},
        Decision{"EqualPrefixesGoByLoad",
                 {{.load = {.open = 2}, .cached = 320}, {.load = {.open = 1}, .cached = 320}},
                 2,
                 320},
        // 1,024 tokens outweigh 3 sequences, are outweighed by 5, and against 4 the lower id decides.
        Decision{"APrefixOutweighsLoad", {{}, {.load = {.open = 3}, .cached = 1024}}, 2, 1024},
        Decision{"LoadOutweighsAPrefix", {{}, {.load = {.open = 5}, .cached = 1024}}, 1},
        Decision{"ATieGoesToTheLowerId", {{}, {.load = {.open = 4}, .cached = 1024}}, 1},
        Decision{"WhatTheLeaderSaysCounts", {{.load = {.running = 2, .waiting = 1}}, {.load = {.open = 2}}}, 2},
        Decision{"OpenAndRunningAreTheSameSequences", {{.load = {.open = 2, .running = 2}}, {.load = {.open = 3}}}, 1},
        Decision{"PromptsOnTheirWayCount", {{.load = {.open = 1, .queued_tokens = 600}}, {.load = {.open = 3}}}, 2},
        Decision{
            "QueuedTokensAgainstAPrefix",
            {{}, {.load = {.queued_tokens = 1000}, .cached = 1600}, {.load = {.queued_tokens = 500}, .cached = 800}},
            2,
            1600}),
    [](const auto& param) { return param.param.name; });

TEST_F(RouterTest, AnotherTenantsPrefixDoesNotCount) {
  AddGroup();
  AddGroup({}, 160);
  EXPECT_EQ(Picked(), 2U);
  const auto route = router_.Pick({.model = "m", .tenant = "u", .prompt = prompt_});
  EXPECT_EQ(route->group, groups_[0]);
  EXPECT_EQ(route->cached_tokens, 0);
}

}  // namespace
}  // namespace alphecca::coordinator

#include "coordinator/routing/context_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fake_group_client.h"

namespace alphecca::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class ContextWatchTest : public ::testing::Test {
 protected:
  ContextWatchTest() {
    for (const char* name : {"m", "n"}) {
      ModelSpec model;
      model.name = name;
      model.context = 8192;
      view_.models.push_back(model);
    }
  }
  std::shared_ptr<FakeGroupClient> AddGroup(const std::string& model, int64_t context) {
    GroupView group;
    group.id = GroupId(view_.groups.size() + 1);
    group.model = model;
    view_.groups.push_back(group);
    auto client = std::make_shared<FakeGroupClient>();
    client->context_tokens = context;
    router_.Add(model, group.id, client);
    return client;
  }
  std::vector<std::string> Look() { return watch_.Look(view_, router_); }

  ClusterView view_;
  Router router_{std::make_shared<PrefixIndex>(model::PrefixKey{1, 2})};
  ContextWatch watch_;
};

TEST_F(ContextWatchTest, SaysOnceWhatAGroupHoldsAndWhatWouldHelp) {
  AddGroup("m", 8192);
  AddGroup("m", 3072);
  AddGroup("n", 9000);
  EXPECT_THAT(Look(), ElementsAre(AllOf(HasSubstr("group 2 of m holds only 3072 of the 8192 tokens"),
                                        HasSubstr("--memory"), HasSubstr("--kv-type q8_0"))));
  EXPECT_THAT(Look(), IsEmpty());
}

TEST_F(ContextWatchTest, WaitsForWhatTheLeaderTells) {
  const auto client = AddGroup("n", 0);
  view_.groups.push_back(view_.groups.back());
  view_.groups.back().id = GroupId(2);  // still loads: nothing routes to it
  EXPECT_THAT(Look(), IsEmpty());
  client->context_tokens = 512;
  EXPECT_THAT(Look(), ElementsAre(HasSubstr("group 1 of n")));
}

TEST_F(ContextWatchTest, SaysAgainOnlyWhereTheLengthChanged) {
  const auto client = AddGroup("m", 512);
  EXPECT_THAT(Look(), ElementsAre(HasSubstr("only 512")));
  client->context_tokens = 0;  // it forms anew
  EXPECT_THAT(Look(), IsEmpty());
  client->context_tokens = 512;
  EXPECT_THAT(Look(), IsEmpty());
  client->context_tokens = 256;
  EXPECT_THAT(Look(), ElementsAre(HasSubstr("only 256")));
}

TEST_F(ContextWatchTest, AdvisesNothingThatIsDone) {
  view_.models[0].kv_type = "q8_0";
  AddGroup("m", 512);
  EXPECT_THAT(Look(), ElementsAre(AllOf(HasSubstr("--memory"), Not(HasSubstr("--kv-type")))));
}

}  // namespace
}  // namespace alphecca::coordinator

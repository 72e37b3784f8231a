#include "common/fair_bound.h"

#include <gtest/gtest.h>

namespace alphecca {
namespace {

TEST(FairBound, OnePartyMayTakeAll) {
  FairBound bound(4);
  EXPECT_TRUE(bound.Allows("a", 4, 4));
  EXPECT_FALSE(bound.Allows("a", 5, 5));
}

TEST(FairBound, WhoHasLessThanItsPartMayGoBeyondButNotBeyondTwice) {
  FairBound bound(4);
  bound.Take("a", 4);
  EXPECT_FALSE(bound.Allows("a", 1, 5));
  EXPECT_TRUE(bound.Allows("b", 2, 6));
  EXPECT_FALSE(bound.Allows("b", 3, 7));  // more than half of four
  bound.Take("b", 2);
  EXPECT_TRUE(bound.Allows("c", 1, 7));
  EXPECT_FALSE(bound.Allows("c", 2, 8));  // more than a third
  bound.Take("c", 1);
  EXPECT_TRUE(bound.Allows("d", 1, 8));
  EXPECT_FALSE(bound.Allows("d", 1, 9));
}

TEST(FairBound, WhoGaveAllBackIsNoParty) {
  FairBound bound(4);
  bound.Take("a", 4);
  bound.Take("b", 1);
  bound.GiveBack("b", 1);
  EXPECT_TRUE(bound.Allows("c", 2, 6));
  bound.GiveBack("a", 4);
  bound.GiveBack("a", 1);  // of what it has not: nothing
  EXPECT_TRUE(bound.Allows("a", 4, 4));
}

}  // namespace
}  // namespace alphecca

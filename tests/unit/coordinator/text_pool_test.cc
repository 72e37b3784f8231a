#include "coordinator/request/text_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace alphecca::coordinator {
namespace {

TEST(TextPool, RunsEverythingItTookBeforeItEnds) {
  int plain = 0;  // written by one thread of the pool after another, read after the join
  std::atomic<int> ran{0};
  {
    TextPool pool(1, 1000);
    for (int i = 0; i < 500; ++i) {
      ASSERT_TRUE(pool.TryRun([&] {
        ++plain;
        ++ran;
      }));
    }
  }
  EXPECT_EQ(plain, 500);
  EXPECT_EQ(ran, 500);
}

TEST(TextPool, RefusesBeyondItsQueue) {
  std::promise<void> go;
  std::promise<void> started;
  TextPool pool(1, 2);
  ASSERT_TRUE(pool.TryRun([&] {
    started.set_value();
    go.get_future().wait();
  }));
  started.get_future().wait();
  EXPECT_TRUE(pool.TryRun([] {}));
  EXPECT_TRUE(pool.TryRun([] {}));
  EXPECT_FALSE(pool.TryRun([] {}));
  go.set_value();
}

}  // namespace
}  // namespace alphecca::coordinator

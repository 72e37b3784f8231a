#include "common/status_server.h"

#include <gtest/gtest.h>
#include <httplib.h>

#include <memory>
#include <string>

namespace alphecca {
namespace {

class StatusServerTest : public testing::Test {
 protected:
  void SetUp() override {
    registry_.AddCounter("alphecca_test_total", "A test's.").Increment(3);
    auto server = StatusServer::Start("127.0.0.1", 0, registry_, [this] { return ready_; });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  httplib::Result Get(const std::string& path) { return httplib::Client("127.0.0.1", server_->port()).Get(path); }

  MetricsRegistry registry_;
  absl::Status ready_;
  std::unique_ptr<StatusServer> server_;
};

TEST_F(StatusServerTest, MetricsAreTheRegistrys) {
  const httplib::Result result = Get("/metrics");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 200);
  EXPECT_NE(result->body.find("alphecca_test_total 3"), std::string::npos) << result->body;
}

TEST_F(StatusServerTest, ReadinessSaysWhatIsMissing) {
  EXPECT_EQ(Get("/readyz")->status, 200);
  ready_ = absl::UnavailableError("no group");
  EXPECT_EQ(Get("/readyz")->status, 503);
  EXPECT_EQ(Get("/readyz")->body, "no group\n");
  EXPECT_EQ(Get("/healthz")->status, 200);
  EXPECT_EQ(Get("/nothing")->status, 404);
}

TEST_F(StatusServerTest, ATakenPortIsAnError) {
  const auto second = StatusServer::Start("127.0.0.1", server_->port(), registry_, [] { return absl::OkStatus(); });
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(StatusServerTest, AnOpenConnectionDoesNotHoldUpTheEnd) {
  httplib::Client client("127.0.0.1", server_->port());
  client.set_keep_alive(true);
  ASSERT_TRUE(client.Get("/healthz"));
  server_.reset();
  EXPECT_FALSE(client.Get("/healthz"));
}

}  // namespace
}  // namespace alphecca

// What the worker's services are made of, without a network: conversions, exchange board, follower hub, engine gate.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <thread>

#include "tests/fakes/fake_engine.h"
#include "worker/rpc/assignment.h"
#include "worker/rpc/block_backlog.h"
#include "worker/rpc/convert.h"
#include "worker/rpc/engine_gate.h"
#include "worker/rpc/exchange_board.h"
#include "worker/rpc/follower_hub.h"
#include "worker/rpc/server.h"

namespace alphecca::worker {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// ---- Conversions ----

engine::StepPlan SomePlan() {
  engine::StepPlan plan;
  plan.epoch = Epoch(7);
  plan.step = 123456789012;
  engine::OpenSlot open{.slot = 3, .sampling = {}};
  open.sampling.seed = std::numeric_limits<uint64_t>::max();
  open.sampling.sample = 2;
  open.sampling.temperature = 0.75F;
  open.sampling.top_k = 40;
  open.sampling.top_p = 0.9F;
  open.sampling.min_p = 0.05F;
  open.sampling.top_logprobs = 5;
  open.rules.repetition_penalty = 1.25F;
  open.rules.presence_penalty = 0.5F;
  open.rules.frequency_penalty = -0.5F;
  open.rules.bias = {{7, -2.5F}, {9, 100.0F}};
  open.rules.suppressed = {{0, 3}, {20, 21}};
  open.rules.history = {{4, 0, true}, {9, 3, false}};
  plan.opens.push_back(open);
  plan.opens.push_back({.slot = 2, .sampling = {}});
  plan.tables[0] = {{3, 0, 17}, {3, 1, 4}};
  plan.tables[1] = {{3, 0, 2}};
  plan.copies[0] = {{3, 5, 4}, {2, 8, 9}};
  plan.copies[1] = {{3, 1, 2}};
  plan.rows = {{.token = 9, .position = 0, .slot = 3, .owner = -1, .wants_logits = false, .draft = false},
               {.token = -4, .position = 1, .slot = 3, .owner = 1, .wants_logits = true, .draft = true}};
  plan.logits = {{.row = 1, .wanted = 55, .keep = false, .mask = 1}};
  plan.masks = {{0xffffffffU, 1U}, {0x80000001U, 0U}};
  return plan;
}

TEST(Convert, APlanComesBackAsItWent) {
  const engine::StepPlan plan = SomePlan();
  const auto back = FromProto(ToProto(plan));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->epoch, plan.epoch);
  EXPECT_EQ(back->step, plan.step);
  ASSERT_EQ(back->opens.size(), 2U);
  const kernels::SamplingRow& sampling = back->opens[0].sampling;
  EXPECT_EQ(back->opens[0].slot, 3);
  EXPECT_EQ(sampling.seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(sampling.sample, 2);
  EXPECT_EQ(sampling.temperature, 0.75F);
  EXPECT_EQ(sampling.top_k, 40);
  EXPECT_EQ(sampling.top_p, 0.9F);
  EXPECT_EQ(sampling.min_p, 0.05F);
  EXPECT_EQ(sampling.top_logprobs, 5);
  const kernels::LogitRules& rules = back->opens[0].rules;
  EXPECT_EQ(rules.repetition_penalty, 1.25F);
  EXPECT_EQ(rules.presence_penalty, 0.5F);
  EXPECT_EQ(rules.frequency_penalty, -0.5F);
  ASSERT_EQ(rules.bias.size(), 2U);
  EXPECT_EQ(rules.bias[0].token, 7);
  EXPECT_EQ(rules.bias[0].bias, -2.5F);
  ASSERT_EQ(rules.suppressed.size(), 2U);
  EXPECT_EQ(rules.suppressed[1].begin, 20);
  EXPECT_EQ(rules.suppressed[1].end, 21);
  ASSERT_EQ(rules.history.size(), 2U);
  EXPECT_EQ(rules.history[0].token, 4);
  EXPECT_TRUE(rules.history[0].prompt);
  EXPECT_EQ(rules.history[1].answer, 3);
  EXPECT_FALSE(rules.history[1].prompt);
  EXPECT_TRUE(back->opens[1].rules.Empty());
  EXPECT_EQ(back->opens[1].rules.repetition_penalty, 1.0F);
  ASSERT_EQ(back->tables[0].size(), 2U);
  EXPECT_EQ(back->tables[0][1].slot, 3);
  EXPECT_EQ(back->tables[0][1].index, 1);
  EXPECT_EQ(back->tables[0][1].block, 4);
  ASSERT_EQ(back->tables[1].size(), 1U);
  for (const int pool : {0, 1}) {
    ASSERT_EQ(back->copies[pool].size(), plan.copies[pool].size());
    for (size_t i = 0; i < plan.copies[pool].size(); ++i) {
      EXPECT_EQ(back->copies[pool][i].slot, plan.copies[pool][i].slot);
      EXPECT_EQ(back->copies[pool][i].from, plan.copies[pool][i].from);
      EXPECT_EQ(back->copies[pool][i].to, plan.copies[pool][i].to);
    }
  }
  ASSERT_EQ(back->rows.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(back->rows[i].token, plan.rows[i].token);
    EXPECT_EQ(back->rows[i].position, plan.rows[i].position);
    EXPECT_EQ(back->rows[i].slot, plan.rows[i].slot);
    EXPECT_EQ(back->rows[i].owner, plan.rows[i].owner);
    EXPECT_EQ(back->rows[i].wants_logits, plan.rows[i].wants_logits);
    EXPECT_EQ(back->rows[i].draft, plan.rows[i].draft);
  }
  ASSERT_EQ(back->logits.size(), 1U);
  EXPECT_EQ(back->logits[0].row, 1);
  EXPECT_EQ(back->logits[0].wanted, 55);
  EXPECT_FALSE(back->logits[0].keep);
  EXPECT_EQ(back->logits[0].mask, 1);
  EXPECT_EQ(back->masks, plan.masks);
}

TEST(Convert, APlanWhoseArraysDifferInLengthIsRefused) {
  const v1::StepPlanMessage good = ToProto(SomePlan());
  const auto refused = [&](const std::function<void(v1::StepPlanMessage&)>& spoil) {
    v1::StepPlanMessage message = good;
    spoil(message);
    return FromProto(message).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_FALSE(refused([](v1::StepPlanMessage&) {}));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.add_positions(1); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.clear_slots(); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.add_owners(0); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.add_drafts(true); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.add_wanted(1); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.clear_keep(); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.add_mask_of(0); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.mutable_opens(0)->mutable_rules()->add_biases(1); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.mutable_opens(0)->mutable_rules()->add_history_ids(1); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.mutable_opens(0)->mutable_rules()->clear_history_prompt(); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.mutable_opens(0)->mutable_rules()->clear_history_answer(); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.add_full_tables(1); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.add_sliding_tables(1); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.add_full_copies(1); }));
  EXPECT_TRUE(refused([](v1::StepPlanMessage& m) { m.add_sliding_copies(1); }));
}

// Its logit row is judged by the plan check, not here; it must only do no harm.
TEST(Convert, ALogitRowBeyondTheRowsIsCarried) {
  v1::StepPlanMessage message = ToProto(SomePlan());
  message.set_logit_rows(0, 1 << 30);
  EXPECT_EQ(FromProto(message)->logits[0].row, 1 << 30);
  message.set_logit_rows(0, -1);
  EXPECT_EQ(FromProto(message)->logits[0].row, -1);
}

TEST(Convert, OpenSequence) {
  v1::OpenSequence open;
  open.set_sequence_id(9);
  open.add_prompt(4);
  open.add_prompt(5);
  open.mutable_sampling()->set_seed(11);
  open.set_sample(1);
  open.set_max_tokens(20);
  open.add_stop_ids(1);
  open.set_logprobs(-1);
  open.set_prompt_logprobs(3);
  open.set_deadline_ms(1500);
  const absl::Time now = absl::FromUnixSeconds(1000);
  const engine::SequenceRequest request = *FromProto(open, now);
  EXPECT_EQ(request.id, SequenceId(9));
  EXPECT_THAT(request.prompt, ElementsAre(4, 5));
  EXPECT_EQ(request.sampling.seed, 11U);
  EXPECT_EQ(request.sampling.sample, 1);
  EXPECT_EQ(request.sampling.temperature, 0.0F);
  EXPECT_EQ(request.sampling.top_p, 1.0F);  // unset: no filter, not one that keeps nothing
  EXPECT_EQ(request.max_tokens, 20);
  EXPECT_THAT(request.stop_ids, ElementsAre(1));
  EXPECT_EQ(request.logprobs, -1);
  EXPECT_EQ(request.prompt_logprobs, 3);
  EXPECT_EQ(request.window, 4096);
  EXPECT_EQ(request.deadline, now + absl::Milliseconds(1500));
  open.set_deadline_ms(0);
  EXPECT_EQ(FromProto(open, now)->deadline, absl::InfiniteFuture());
  EXPECT_TRUE(request.rules.Empty());  // unset: nothing is penalised
}

TEST(Convert, ATenantsWeightIsAboveZeroOrUnset) {
  v1::OpenSequence open;
  open.set_tenant("t");
  EXPECT_EQ(FromProto(open, absl::Now())->tenant, "t");
  EXPECT_EQ(FromProto(open, absl::Now())->tenant_weight, 1.0);
  open.set_tenant_weight(0.25);
  EXPECT_EQ(FromProto(open, absl::Now())->tenant_weight, 0.25);
  for (const double bad : {-1.0, -1e-300, std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    open.set_tenant_weight(bad);
    EXPECT_EQ(FromProto(open, absl::Now()).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(Convert, OpenSequenceWithRules) {
  v1::OpenSequence open;
  v1::Sampling& sampling = *open.mutable_sampling();
  sampling.set_repetition_penalty(1.5F);
  sampling.set_presence_penalty(0.25F);
  sampling.set_frequency_penalty(-1.0F);
  for (const int32_t id : {900, 3, 77, 12, 500}) {
    (*sampling.mutable_logit_bias())[id] = static_cast<float>(id) / 10.0F;
  }
  v1::TokenRange& range = *open.add_suppressed();
  range.set_begin(4);
  range.set_end(9);
  open.set_answer_tokens(6);
  const engine::SequenceRequest request = *FromProto(open, absl::UnixEpoch());
  EXPECT_EQ(request.rules.repetition_penalty, 1.5F);
  EXPECT_EQ(request.rules.presence_penalty, 0.25F);
  EXPECT_EQ(request.rules.frequency_penalty, -1.0F);
  ASSERT_EQ(request.rules.bias.size(), 5U);
  EXPECT_TRUE(std::is_sorted(request.rules.bias.begin(), request.rules.bias.end(),
                             [](const auto& a, const auto& b) { return a.token < b.token; }));
  EXPECT_EQ(request.rules.bias[4].token, 900);
  EXPECT_EQ(request.rules.bias[4].bias, 90.0F);
  ASSERT_EQ(request.rules.suppressed.size(), 1U);
  EXPECT_EQ(request.rules.suppressed[0].begin, 4);
  EXPECT_EQ(request.rules.suppressed[0].end, 9);
  EXPECT_EQ(request.answer_tokens, 6);
}

TEST(Convert, UpdatesOfASequenceJoin) {
  v1::SequenceEvent event;
  engine::SequenceUpdate update;
  update.id = SequenceId(5);
  update.ids = {1, 2};
  update.logprobs = {{.token = 1, .logprob = -0.5F, .wanted_logprob = 0, .top = {{7, -0.25F}}}};
  update.cached_tokens = 12;
  Append(update, event);
  engine::SequenceUpdate last;
  last.id = SequenceId(5);
  last.ids = {3};
  last.finish = engine::Finish::kStop;
  Append(last, event);
  EXPECT_EQ(event.sequence_id(), 5U);
  EXPECT_THAT(event.ids(), ElementsAre(1, 2, 3));
  ASSERT_EQ(event.logprobs_size(), 1);
  EXPECT_THAT(event.logprobs(0).top_ids(), ElementsAre(7));
  EXPECT_EQ(event.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(event.error_code(), 0);
  EXPECT_EQ(event.cached_tokens(), 12);
  engine::SequenceUpdate broken;
  broken.error = absl::ResourceExhaustedError("full");
  v1::SequenceEvent error;
  Append(broken, error);
  EXPECT_EQ(error.error_code(), 8);
  EXPECT_EQ(error.error_message(), "full");
}

v1::Assignment SomeAssignment() {
  v1::Assignment a;
  a.set_epoch(4);
  a.set_checkpoint("model");
  a.set_tp(2);
  a.set_ep(1);
  a.set_rank(1);
  a.add_peers("a:1");
  a.add_peers("b:2");
  a.set_communicator("shm");
  a.set_rendezvous("secret");
  return a;
}

TEST(Assignment, IsChecked) {
  const auto good = FromProto(SomeAssignment());
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->size(), 2);
  EXPECT_FALSE(good->leads());
  EXPECT_FALSE(good->resident_tables);
  v1::Assignment resident = SomeAssignment();
  resident.set_resident_tables(true);
  EXPECT_TRUE(FromProto(resident)->resident_tables);
  EXPECT_FALSE(good->prefix_key.has_value());
  v1::Assignment keyed = SomeAssignment();
  keyed.set_prefix_key(std::string("\1\0\0\0\0\0\0\0\0\2\0\0\0\0\0\0", 16));
  EXPECT_EQ(FromProto(keyed)->prefix_key, (model::PrefixKey{1, 512}));
  const auto message = [](const std::function<void(v1::Assignment&)>& spoil) {
    v1::Assignment a = SomeAssignment();
    spoil(a);
    return std::string(FromProto(a).status().message());
  };
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_epoch(0); }), HasSubstr("epoch"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_tp(0); }), HasSubstr("tp 0"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_ep(1 << 30); }), HasSubstr("ep"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_rank(2); }), HasSubstr("rank 2"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_rank(-1); }), HasSubstr("rank -1"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.add_peers("c:3"); }), HasSubstr("3 peers"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_communicator("mpi"); }), HasSubstr("mpi"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_communicator("solo"); }), HasSubstr("solo"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.clear_rendezvous(); }), HasSubstr("rendezvous"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_prefix_key("0123456789"); }),
              AllOf(HasSubstr("prefix_key of 10 bytes"), Not(HasSubstr("0123456789"))));
  EXPECT_THAT(message([](v1::Assignment& a) { a.clear_checkpoint(); }), HasSubstr("checkpoint"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_context(-1); }), HasSubstr("context"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_weights("f16"); }), HasSubstr("f16"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_kv_type("int4"); }), HasSubstr("int4"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_activations("bf16"); }), HasSubstr("bf16"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.set_expert_mode("narrow"); }), HasSubstr("narrow"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.mutable_expert_replicas()->add_experts(1); }),
              HasSubstr("1 expert replicas"));
  EXPECT_THAT(message([](v1::Assignment& a) { a.mutable_expert_replicas()->set_per_rank(-1); }), HasSubstr("-1"));
}

TEST(Assignment, CarriesCopiesOfExperts) {
  v1::Assignment a = SomeAssignment();
  a.set_tp(1);
  a.set_ep(2);
  a.set_expert_mode("wide");
  a.mutable_expert_replicas()->set_per_rank(2);
  for (const int expert : {4, 5, 0, 1, 6, 7, 2, 3}) {  // two layers of two ranks
    a.mutable_expert_replicas()->add_experts(expert);
  }
  const auto good = FromProto(a);
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->sharding.mode, model::ExpertMode::kWide);
  EXPECT_EQ(good->sharding.replicas, (model::ExpertReplicas{{{4, 5}, {0, 1}}, {{6, 7}, {2, 3}}}));
  a.mutable_expert_replicas()->add_experts(8);
  EXPECT_THAT(std::string(FromProto(a).status().message()), HasSubstr("9 expert replicas"));
}

TEST(HostPort, IsParsed) {
  EXPECT_EQ(ParseHostPort("--x", "a.b:12")->host, "a.b");
  EXPECT_EQ(ParseHostPort("--x", "a.b:12")->port, 12);
  EXPECT_EQ(ParseHostPort("--x", "[::1]:0")->host, "::1");
  EXPECT_EQ(JoinHostPort("::1", 5), "[::1]:5");
  EXPECT_EQ(JoinHostPort("h", 5), "h:5");
  for (const char* bad : {"", ":", ":5", "h", "h:", "h:x", "h:70000", "h:-1"}) {
    EXPECT_THAT(std::string(ParseHostPort("--x", bad).status().message()), HasSubstr("--x")) << bad;
  }
}

// ---- Exchange board ----

TEST(ExchangeBoard, AnswersWhenAllRanksHavePut) {
  ExchangeBoard board(2);
  std::optional<absl::StatusOr<ExchangeBoard::Values>> first;
  board.Put("k", 1, "one", [&](const auto& values) { first = values; });
  EXPECT_FALSE(first.has_value());
  const auto second = board.PutAndWait("k", 0, "zero", absl::Seconds(10));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_THAT(*second, ElementsAre("zero", "one"));
  ASSERT_TRUE(first.has_value() && first->ok());
  EXPECT_THAT(**first, ElementsAre("zero", "one"));
  // A retry after a lost answer is answered at once.
  EXPECT_THAT(*board.PutAndWait("k", 1, "one", absl::Seconds(10)), ElementsAre("zero", "one"));
}

TEST(ExchangeBoard, NamesWhoIsMissing) {
  ExchangeBoard board(3);
  const auto values = board.PutAndWait("k", 1, "x", absl::Milliseconds(1));
  EXPECT_EQ(values.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(values.status().message()), HasSubstr("rank 0, 2"));
  EXPECT_EQ(board.PutAndWait("k", 3, "x", absl::Seconds(1)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ExchangeBoard, CloseEndsWaits) {
  ExchangeBoard board(2);
  absl::Status waited;
  board.Put("k", 0, "x", [&](const auto& values) { waited = values.status(); });
  board.Close(absl::UnavailableError("over"));
  EXPECT_EQ(waited, absl::UnavailableError("over"));
  EXPECT_EQ(board.PutAndWait("k", 1, "x", absl::Seconds(1)).status(), absl::UnavailableError("over"));
}

TEST(ExchangeBoard, KeysAreBounded) {
  ExchangeBoard board(2);
  absl::Status last;
  for (int i = 0; i < 1000; ++i) {
    board.Put(std::to_string(i), 0, "x", [&](const auto& values) { last = values.status(); });
  }
  EXPECT_EQ(last.code(), absl::StatusCode::kResourceExhausted);
}

// ---- Follower hub ----

class RecordingLink : public FollowerLink {
 public:
  absl::Status Send(std::shared_ptr<const v1::StepPlanMessage> plan) override {
    steps.push_back(plan->step());
    return answer;
  }
  void Close(const absl::Status& why) override { closed = why; }
  std::vector<uint64_t> steps;
  absl::Status answer;
  absl::Status closed;
};

TEST(FollowerHub, SendsToAllInOrder) {
  FollowerHub hub(3, [](const absl::Status&) { ADD_FAILURE(); });
  const auto one = std::make_shared<RecordingLink>();
  const auto two = std::make_shared<RecordingLink>();
  EXPECT_EQ(hub.WaitForAll("fp", absl::Milliseconds(1)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(hub.Attach(1, "fp", one).ok());
  EXPECT_EQ(hub.Attach(1, "fp", two).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(hub.Attach(0, "fp", two).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(hub.Attach(3, "fp", two).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(hub.Attach(2, "fp", two).ok());
  EXPECT_TRUE(hub.WaitForAll("fp", absl::Seconds(10)).ok());
  engine::StepPlan plan;
  for (uint64_t step : {1, 2, 3}) {
    plan.step = step;
    EXPECT_TRUE(hub.Send(plan).ok());
  }
  EXPECT_THAT(one->steps, ElementsAre(1, 2, 3));
  EXPECT_THAT(two->steps, ElementsAre(1, 2, 3));
  two->answer = absl::UnavailableError("slow");
  EXPECT_EQ(hub.Send(plan), absl::UnavailableError("slow"));
  hub.Close(absl::UnavailableError("over"));
  EXPECT_EQ(one->closed, absl::UnavailableError("over"));
  EXPECT_EQ(hub.Send(plan), absl::UnavailableError("over"));
}

TEST(FollowerHub, RanksMustComputeAlike) {
  FollowerHub hub(2, [](const absl::Status&) {});
  EXPECT_TRUE(hub.Attach(1, "cpu/avx512", std::make_shared<RecordingLink>()).ok());
  EXPECT_EQ(hub.WaitForAll("cpu/avx2", absl::Seconds(10)).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(FollowerHub, ALostFollowerIsToldOnce) {
  std::vector<absl::Status> lost;
  FollowerHub hub(3, [&](const absl::Status& why) { lost.push_back(why); });
  EXPECT_TRUE(hub.Attach(1, "fp", std::make_shared<RecordingLink>()).ok());
  std::thread waits([&] { EXPECT_EQ(hub.WaitForAll("fp", absl::Minutes(1)).code(), absl::StatusCode::kUnavailable); });
  hub.Lost(1, absl::UnavailableError("its stream ended"));
  hub.Lost(2, absl::UnavailableError("its stream ended"));
  waits.join();
  EXPECT_THAT(lost, ElementsAre(absl::UnavailableError("rank 1 is gone: its stream ended")));
  hub.Close(absl::OkStatus());
  hub.AwaitQuiet();
}

// ---- Block backlog ----

std::vector<uint64_t> Halves(const std::string& bytes) {
  std::vector<uint64_t> halves(bytes.size() / 8);
  std::memcpy(halves.data(), bytes.data(), bytes.size());
  return halves;
}

TEST(BlockBacklog, WhatCameAndWentCancelsOut) {
  BlockBacklog backlog;
  EXPECT_TRUE(backlog.empty());
  backlog.Add({.stored = {{1, 10}, {2, 20}}, .removed = {{3, 30}, {4, 40}}});
  backlog.Add({.stored = {{3, 30}}, .removed = {{1, 10}}});
  backlog.Add({.stored = {{5, 50}}, .removed = {{5, 50}}});  // removed comes first: it is there
  v1::BlockEvents events;
  backlog.Take(100, events);
  EXPECT_THAT(Halves(events.removed()), ElementsAre(4, 40));
  EXPECT_THAT(Halves(events.stored()), ElementsAre(2, 20));
  EXPECT_TRUE(backlog.empty());
}

TEST(BlockBacklog, IsTakenInParts) {
  BlockBacklog backlog;
  backlog.Add({.stored = {{1, 1}, {2, 2}}, .removed = {{3, 3}, {4, 4}, {5, 5}}});
  std::vector<size_t> sizes;
  while (!backlog.empty()) {
    v1::BlockEvents events;
    backlog.Take(2, events);
    sizes.push_back(events.removed().size());
    sizes.push_back(events.stored().size());
  }
  EXPECT_THAT(sizes, ElementsAre(32, 0, 16, 16, 0, 16));
  backlog.Add({.stored = {{1, 1}}, .removed = {}});
  backlog.Clear();
  EXPECT_TRUE(backlog.empty());
}

// ---- Engine gate ----

class RecordingClient : public GateClient {
 public:
  void OnStep(std::vector<engine::SequenceUpdate> updates, int, int) override {
    for (const engine::SequenceUpdate& u : updates) {
      errors.push_back(u.error);
    }
  }
  void OnBlocks(const engine::BlockEvents& events) override { blocks += events.stored.size(); }
  void OnClosed(const absl::Status& why) override {
    EXPECT_EQ(errors.size(), 1U);  // its sequences have ended by then
    closed = why;
  }
  std::vector<absl::Status> errors;
  absl::Status closed;
  size_t blocks = 0;
};

TEST(EngineGate, PassesCallsUntilItIsClosed) {
  engine::FakeEngine engine;
  v1::Welcome welcome;
  welcome.set_epoch(3);
  EngineGate gate(engine, welcome);
  EXPECT_EQ(gate.welcome().epoch(), 3U);
  const auto client = std::make_shared<RecordingClient>();
  EXPECT_TRUE(gate.Attach(client).ok());
  EXPECT_TRUE(gate.Open(client, {}).ok());
  gate.Cancel(client, SequenceId(8));
  gate.Credit(client, SequenceId(8), 5);
  EXPECT_THAT(engine.cancelled, ElementsAre(8U));
  EXPECT_EQ(engine.credit, 5);
  EXPECT_EQ(gate.counts().running, 1);

  gate.StopAdmitting("leaving");
  EXPECT_EQ(gate.Open(client, {}), absl::UnavailableError("leaving"));
  EXPECT_EQ(gate.counts().running, 1);

  gate.Close(absl::UnavailableError("over"));
  EXPECT_THAT(client->errors, ElementsAre(absl::UnavailableError("over")));
  EXPECT_EQ(client->closed, absl::UnavailableError("over"));
  EXPECT_EQ(gate.Open(client, {}), absl::UnavailableError("over"));
  EXPECT_EQ(gate.Attach(client), absl::UnavailableError("over"));
  EXPECT_EQ(gate.counts().running, 0);
  gate.Cancel(client, SequenceId(8));
  gate.Detach(client);
  EXPECT_EQ(engine.cancelled.size(), 1U);
  EXPECT_EQ(engine.detached, 0);
}

TEST(EngineGate, ADetachedClientIsForgotten) {
  engine::FakeEngine engine;
  EngineGate gate(engine, {});
  const auto client = std::make_shared<RecordingClient>();
  EXPECT_TRUE(gate.Attach(client).ok());
  engine.Change({.stored = {{1, 2}}, .removed = {}});
  gate.Watch(client);
  EXPECT_EQ(client->blocks, 1U);
  gate.Detach(client);
  EXPECT_EQ(engine.detached, 1);
  engine.Change({.stored = {{3, 4}}, .removed = {}});
  EXPECT_EQ(client->blocks, 1U);
  gate.Close(absl::UnavailableError("over"));
  EXPECT_TRUE(client->closed.ok());
}

}  // namespace
}  // namespace alphecca::worker

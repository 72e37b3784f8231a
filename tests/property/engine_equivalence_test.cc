// The engine on the embedded models: an answer depends on its request alone, not on what else runs, how prompts are
// cut into steps, or how the model is split.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/property/engine_runs.h"

namespace alphecca::engine {
namespace {

// The next token leaves the remainder by 5 that follows the last one's.
class Remainders final : public TokenConstraint {
 public:
  explicit Remainders(int32_t first) : remainder_(first) {}

  void Allow(std::span<uint32_t> words) override {
    for (size_t token = static_cast<size_t>(remainder_); token < words.size() * 32; token += 5) {
      words[token / 32] |= 1U << (token % 32);
    }
  }
  void Take(int32_t token) override { remainder_ = (token + 1) % 5; }

 private:
  int32_t remainder_;
};

kernels::LogitRules AllRules() {
  kernels::LogitRules rules;
  rules.repetition_penalty = 1.2F;
  rules.presence_penalty = 0.5F;
  rules.frequency_penalty = 0.7F;
  rules.bias = {{267, -3.0F}, {337, 2.0F}, {4000, 1.5F}};
  rules.suppressed = {{0, 3}, {320, 330}, {1000, 1100}};
  return rules;
}

// Greedy and sampled, with and without filters, rules and constraint, with log-probabilities, longer and shorter than
// the window of 64.
std::vector<SequenceRequest> Mixture() {
  std::vector<SequenceRequest> requests;
  requests.push_back(MakeRequest(1, {2, 1210, 327, 2144}, 24));
  requests.push_back(MakeRequest(2, MakePrompt(90, 1), 12));
  SampleWith(requests.back(), 7, 1.0F, 0, 1.0F);
  requests.push_back(MakeRequest(3, MakePrompt(33, 2), 20));
  SampleWith(requests.back(), 8, 0.8F, 40, 0.9F);
  requests.push_back(MakeRequest(4, MakePrompt(17, 3), 16));
  SampleWith(requests.back(), 9, 1.2F, 0, 0.7F);
  requests.push_back(MakeRequest(5, {2, 1210, 327, 2144}, 24));
  requests.back().rules = AllRules();
  requests.push_back(MakeRequest(6, MakePrompt(40, 4), 16));
  SampleWith(requests.back(), 10, 0.9F, 0, 0.95F);
  requests.back().rules = AllRules();
  requests.back().constraint = std::make_shared<Remainders>(1);
  requests.push_back(MakeRequest(7, MakePrompt(70, 6), 12));
  SampleWith(requests.back(), 11, 1.0F, 0, 1.0F);
  requests.back().rules.frequency_penalty = 1.5F;
  requests.push_back(MakeRequest(8, MakePrompt(12, 7), 20));
  requests.back().constraint = std::make_shared<Remainders>(3);
  for (SequenceRequest& request : requests) {
    request.logprobs = 3;
  }
  requests[1].prompt_logprobs = 2;
  requests[5].prompt_logprobs = 1;
  return requests;
}

// The mixture and nine more, with answers so long that all have joined before the first ends.
std::vector<SequenceRequest> Crowd() {
  std::vector<SequenceRequest> requests = Mixture();
  while (requests.size() < 17) {
    const auto i = static_cast<int32_t>(requests.size());
    requests.push_back(MakeRequest(requests.size() + 1, MakePrompt(5 + i, i + 10), 1));
    SampleWith(requests.back(), requests.size(), 1.0F, 0, 0.95F);
    requests.back().logprobs = 3;
  }
  for (SequenceRequest& request : requests) {
    request.max_tokens = 40;
  }
  return requests;
}

class EngineEquivalence : public testing::TestWithParam<std::string> {
 protected:
  // The mixture on one rank, whole prompts: made once a model.
  static const Answers& Baseline() {
    static std::map<std::string, Answers> made;
    const auto [entry, is_new] = made.try_emplace(GetParam());
    if (is_new) {
      entry->second = RunFresh(Options(), Mixture());
    }
    return entry->second;
  }
  static RunOptions Options() {
    RunOptions options;
    options.model = GetParam();
    return options;
  }
  // 8-bit products, of one row and of many, whose groups two threads share.
  static RunOptions Quantised() {
    RunOptions options = Options();
    options.weights = model::WeightType::kQ4_0;
    options.threads = 2;
    options.max_sequences = 17;
    return options;
  }
};

TEST_P(EngineEquivalence, TheSameSeedGivesTheSameTokensOnEveryRun) {
  const Answers& first = Baseline();
  const Answers second = RunFresh(Options(), Mixture());
  ASSERT_EQ(first.size(), 8U);
  for (const auto& [id, heard] : first) {
    SCOPED_TRACE(id);
    ExpectSameBits(heard, second.at(id));
  }
}

TEST_P(EngineEquivalence, SequencesAtOnceGiveWhatEachGivesAlone) {
  const auto checkpoint = OpenModel(GetParam());
  ASSERT_NE(checkpoint, nullptr);
  const auto group = MakeGroup(*checkpoint, Options());
  ASSERT_NE(group, nullptr);
  const Answers& together = Baseline();
  uint64_t epoch = 0;
  for (const SequenceRequest& request : Mixture()) {
    SCOPED_TRACE(request.id.value);
    const Answers alone = RunAll(*group, 256, ++epoch, {request});
    ExpectSameBits(alone.at(request.id.value), together.at(request.id.value));
  }
}

TEST_P(EngineEquivalence, QuantisedASequenceAmongSixteenGivesWhatItGivesAlone) {
  const auto checkpoint = OpenModel(GetParam());
  ASSERT_NE(checkpoint, nullptr);
  const auto group = MakeGroup(*checkpoint, Quantised());
  ASSERT_NE(group, nullptr);
  uint64_t epoch = 1;
  EngineCounts counts;
  const Answers together = RunAll(*group, 256, epoch, Crowd(), false, &counts);
  EXPECT_EQ(counts.running, 17);
  for (const SequenceRequest& request : Crowd()) {
    SCOPED_TRACE(request.id.value);
    const Answers alone = RunAll(*group, 256, ++epoch, {request});
    ExpectSameBits(alone.at(request.id.value), together.at(request.id.value));
  }
}

TEST_P(EngineEquivalence, ChunkedPromptsGiveWhatWholeOnesGive) {
  const Answers& whole = Baseline();
  RunOptions chunked = Options();
  chunked.step_tokens = 7;
  chunked.block_tokens = 4;  // nor does the size of a block matter
  const Answers cut = RunFresh(chunked, Mixture());
  ASSERT_EQ(whole.size(), 8U);
  for (const auto& [id, heard] : whole) {
    SCOPED_TRACE(id);
    ExpectSameBits(heard, cut.at(id));
  }
}

TEST_P(EngineEquivalence, AnEightBitCacheGivesTheSameHoweverAPromptIsCut) {
  RunOptions options = Options();
  options.kv_type = kernels::DType::kQ8_0;
  const Answers whole = RunFresh(options, Mixture());
  options.step_tokens = 7;
  options.block_tokens = 4;
  const Answers cut = RunFresh(options, Mixture());
  ASSERT_EQ(whole.size(), 8U);
  for (const auto& [id, heard] : whole) {
    SCOPED_TRACE(id);
    ExpectSameBits(heard, cut.at(id));
  }
}

// Each request once, then each again, which finds its prompt in the cache, and one that goes on from another's answer.
std::vector<SequenceRequest> Repeated(const Answers& answers) {
  std::vector<SequenceRequest> requests = Mixture();
  for (SequenceRequest& request : requests) {
    request.prompt_logprobs = -1;  // would make it compute its prompt
  }
  for (size_t i = 0; i < 4; ++i) {
    requests.push_back(requests[i]);
    requests.back().id = SequenceId(11 + i);
  }
  SequenceRequest next = requests[2];
  next.id = SequenceId(20);
  next.prompt.insert(next.prompt.end(), answers.at(3).ids.begin(), answers.at(3).ids.end());
  next.max_tokens = 8;
  requests.push_back(next);
  return requests;
}

void ExpectCacheChangesNothing(const RunOptions& options, const Answers& fresh) {
  const auto checkpoint = OpenModel(options.model);
  const auto group = MakeGroup(*checkpoint, options);
  ASSERT_NE(group, nullptr);
  const std::vector<SequenceRequest> requests = Repeated(fresh);
  EngineCounts counts;
  const Answers cached = RunAll(*group, options.step_tokens, 1, requests, true, &counts);
  EXPECT_GT(cached.at(12).cached_tokens, 64);
  EXPECT_GT(cached.at(20).cached_tokens, 33) << "nothing of the answer was found";
  for (uint64_t id = 1; id <= 4; ++id) {
    SCOPED_TRACE(id);
    ExpectSameBits(cached.at(10 + id), cached.at(id));
    EXPECT_EQ(cached.at(id).ids, fresh.at(id).ids);
  }
  const Answers alone = RunAll(*group, options.step_tokens, 2, {requests.back()});
  EXPECT_EQ(alone.at(20).cached_tokens, 0);
  ExpectSameBits(cached.at(20), alone.at(20));
}

TEST_P(EngineEquivalence, FromThePrefixCacheTheAnswerIsTheSame) {
  ExpectCacheChangesNothing(Options(), Baseline());
}

TEST_P(EngineEquivalence, QuantisedFromThePrefixCacheTheAnswerIsTheSame) {
  ExpectCacheChangesNothing(Quantised(), RunFresh(Quantised(), Mixture()));
}

void ExpectGivingWayChangesNothing(RunOptions options) {
  options.full_blocks = 16;  // those below want more than 40 in the end
  const auto checkpoint = OpenModel(options.model);
  ASSERT_NE(checkpoint, nullptr);
  const auto tight = MakeGroup(*checkpoint, options);
  ASSERT_NE(tight, nullptr);
  const auto requests = [] {  // made anew for each run: constraints remember
    std::vector<SequenceRequest> all = Mixture();
    for (size_t i = 0; i < 4; ++i) {
      all.push_back(MakeRequest(31 + i, MakePrompt(30 + static_cast<int>(i), static_cast<int32_t>(i) + 10), 60));
      all.back().rules = AllRules();  // their history is told anew when they come back
    }
    return all;
  };
  EngineCounts counts;
  const Answers answers = RunAll(*tight, 256, 1, requests(), false, &counts);
  EXPECT_GT(counts.preemptions, 0);
  options.full_blocks = 0;
  const Answers roomy = RunFresh(options, requests());
  for (const auto& [id, heard] : roomy) {
    SCOPED_TRACE(id);
    ExpectSameBits(heard, answers.at(id));
  }
}

TEST_P(EngineEquivalence, GivingWayChangesNothing) {
  ExpectGivingWayChangesNothing(Options());
}

TEST_P(EngineEquivalence, QuantisedGivingWayChangesNothing) {
  ExpectGivingWayChangesNothing(Quantised());
}

TEST_P(EngineEquivalence, SamplesThatShareTheirPromptGiveWhatEachGivesAlone) {
  std::vector<SequenceRequest> samples;
  for (int32_t sample = 0; sample < 4; ++sample) {
    samples.push_back(MakeRequest(static_cast<uint64_t>(sample) + 1, MakePrompt(75, 4), 12));
    SampleWith(samples.back(), 42, 1.0F, 0, 1.0F);
    samples.back().sampling.sample = sample;
    samples.back().logprobs = 2;
  }
  const Answers together = RunFresh(Options(), samples);
  EXPECT_EQ(together.at(4).cached_tokens, 74);
  for (const SequenceRequest& request : samples) {
    SCOPED_TRACE(request.id.value);
    const Answers alone = RunFresh(Options(), {request});
    ExpectSameBits(together.at(request.id.value), alone.at(request.id.value));
  }
}

TEST_P(EngineEquivalence, TwoRanksGiveWhatOneGives) {
  RunOptions options = Options();
  options.kv_type = kernels::DType::kF32;
  const Answers one = RunFresh(options, Mixture());
  options.tp = 2;
  options.ep = options.model == "tiny-moe" ? 2 : 1;
  const Answers two = RunFresh(options, Mixture());
  const Answers again = RunFresh(options, Mixture());
  EXPECT_EQ(one.at(1).ids, two.at(1).ids);  // greedy
  EXPECT_EQ(one.at(5).ids, two.at(5).ids);
  for (const auto& [id, heard] : two) {
    SCOPED_TRACE(id);
    ExpectSameBits(heard, again.at(id));
    // Sums over ranks round differently; the first token's log-probabilities show that nothing else differs.
    ASSERT_FALSE(heard.logprobs.empty());
    EXPECT_NEAR(heard.logprobs[0].top[0].logit, one.at(id).logprobs[0].top[0].logit, 1e-3);
  }
  const auto& prompt_one = one.at(2).prompt_logprobs;
  const auto& prompt_two = two.at(2).prompt_logprobs;
  ASSERT_EQ(prompt_one.size(), 89U);
  ASSERT_EQ(prompt_two.size(), 89U);
  for (size_t i = 0; i < prompt_one.size(); ++i) {
    EXPECT_EQ(prompt_one[i].token, MakePrompt(90, 1)[i + 1]);
    EXPECT_NEAR(prompt_one[i].logprob, prompt_two[i].logprob, 1e-3) << i;
  }
}

// Unequal shares of the vocabulary, whose edges fall within ranges of tokens that rules name.
TEST_P(EngineEquivalence, ThreeRanksChooseWhatOneDoes) {
  RunOptions options = Options();
  options.kv_type = kernels::DType::kF32;
  const Answers one = RunFresh(options, Mixture());
  options.tp = 3;
  options.ep = options.model == "tiny-moe" ? 3 : 1;
  const Answers three = RunFresh(options, Mixture());
  for (const uint64_t greedy : {1, 5}) {
    EXPECT_EQ(one.at(greedy).ids, three.at(greedy).ids);
  }
  for (const auto& [id, heard] : three) {
    ASSERT_FALSE(heard.logprobs.empty());
    EXPECT_EQ(heard.ids[0], one.at(id).ids[0]) << id;
    EXPECT_NEAR(heard.logprobs[0].logprob, one.at(id).logprobs[0].logprob, 1e-3) << id;
  }
}

// Two copies of experts of other ranks on each rank of tiny-moe, as if later experts were hotter.
model::ExpertReplicas Copies(int ranks) {
  const auto checkpoint = OpenModel("tiny-moe");
  model::ExpertRows load(checkpoint->config().layers.size());
  for (auto& layer : load) {
    for (int e = 0; e < checkpoint->config().experts; ++e) {
      layer.push_back(static_cast<uint64_t>(e * e));
    }
  }
  return *model::PlaceReplicas(checkpoint->config(), load, ranks, 2);
}

TEST(FusedCopies, GiveWhatOneRankGives) {
  RunOptions options;
  options.kv_type = kernels::DType::kF32;
  const Answers one = RunFresh(options, Mixture());
  options.ep = 2;
  options.replicas = Copies(2);
  for (const int tp : {1, 2}) {
    options.tp = tp;
    const Answers copied = RunFresh(options, Mixture());
    EXPECT_EQ(one.at(1).ids, copied.at(1).ids);  // greedy
    for (size_t i = 0; i < 89; ++i) {
      EXPECT_NEAR(one.at(2).prompt_logprobs[i].logprob, copied.at(2).prompt_logprobs[i].logprob, 1e-3) << i;
    }
  }
}

// Wide expert parallelism: sequences are spread over the ranks, and which rank has which depends on what else runs.
class WideEquivalence : public ::testing::TestWithParam<int> {
 protected:
  static RunOptions Options(bool copies) {
    RunOptions options;
    options.expert_mode = model::ExpertMode::kWide;
    options.ep = GetParam();
    options.kv_type = kernels::DType::kF32;
    if (copies) {
      options.replicas = Copies(options.ep);
    }
    return options;
  }
};

TEST_P(WideEquivalence, GivesWhatOneRankGives) {
  RunOptions plain;
  plain.kv_type = kernels::DType::kF32;
  const Answers one = RunFresh(plain, Mixture());
  for (const bool copies : {false, true}) {
    SCOPED_TRACE(copies);
    const Answers wide = RunFresh(Options(copies), Mixture());
    EXPECT_EQ(one.at(1).ids, wide.at(1).ids);  // greedy
    EXPECT_EQ(one.at(5).ids, wide.at(5).ids);
    for (const auto& [id, heard] : wide) {
      SCOPED_TRACE(id);
      ASSERT_FALSE(heard.logprobs.empty());
      EXPECT_NEAR(heard.logprobs[0].top[0].logit, one.at(id).logprobs[0].top[0].logit, 1e-3);
    }
    ASSERT_EQ(wide.at(2).prompt_logprobs.size(), 89U);
    for (size_t i = 0; i < 89; ++i) {
      EXPECT_NEAR(one.at(2).prompt_logprobs[i].logprob, wide.at(2).prompt_logprobs[i].logprob, 1e-3) << i;
    }
  }
}

TEST_P(WideEquivalence, NeitherOwnerNorNeighboursNorChunksChangeABit) {
  for (const bool copies : {false, true}) {
    SCOPED_TRACE(copies);
    const Answers together = RunFresh(Options(copies), Mixture());
    RunOptions chunked = Options(copies);
    chunked.step_tokens = 7;
    chunked.block_tokens = 4;
    const Answers cut = RunFresh(chunked, Mixture());
    const auto checkpoint = OpenModel("tiny-moe");
    const auto group = MakeGroup(*checkpoint, Options(copies));
    ASSERT_NE(group, nullptr);
    uint64_t epoch = 0;
    for (const SequenceRequest& request : Mixture()) {
      SCOPED_TRACE(request.id.value);
      const Answers alone = RunAll(*group, 256, ++epoch, {request});  // owned by rank 0
      ExpectSameBits(alone.at(request.id.value), together.at(request.id.value));
      ExpectSameBits(cut.at(request.id.value), together.at(request.id.value));
    }
  }
}

TEST_P(WideEquivalence, FromThePrefixCacheTheAnswerIsTheSame) {
  ExpectCacheChangesNothing(Options(false), RunFresh(Options(false), Mixture()));
}

INSTANTIATE_TEST_SUITE_P(Ranks, WideEquivalence, ::testing::Values(2, 3));

TEST_P(EngineEquivalence, SamplesOfOneSeedDifferAndRepeat) {
  std::vector<SequenceRequest> samples;
  for (int32_t sample = 0; sample < 3; ++sample) {
    samples.push_back(MakeRequest(static_cast<uint64_t>(sample) + 1, {2, 1210, 327, 2144}, 12));
    SampleWith(samples.back(), 42, 1.0F, 0, 1.0F);
    samples.back().sampling.sample = sample;
  }
  const Answers first = RunFresh(Options(), samples);
  const Answers second = RunFresh(Options(), samples);
  for (uint64_t id = 1; id <= 3; ++id) {
    EXPECT_EQ(first.at(id).ids, second.at(id).ids);
  }
  EXPECT_NE(first.at(1).ids, first.at(2).ids);
  EXPECT_NE(first.at(2).ids, first.at(3).ids);
}

// Noise hangs on absolute positions, so an answer can be taken up anywhere: what a lost group's request relies on.
TEST_P(EngineEquivalence, AnswerGoesOnFromItsOwnTokens) {
  SequenceRequest whole = MakeRequest(1, MakePrompt(20, 5), 16);
  SampleWith(whole, 11, 1.0F, 50, 1.0F);
  const Answers straight = RunFresh(Options(), {whole});
  SequenceRequest rest = whole;
  rest.prompt.insert(rest.prompt.end(), straight.at(1).ids.begin(), straight.at(1).ids.begin() + 6);
  rest.max_tokens = 10;
  const Answers resumed = RunFresh(Options(), {rest});
  const std::vector<int32_t> expected(straight.at(1).ids.begin() + 6, straight.at(1).ids.end());
  EXPECT_EQ(resumed.at(1).ids, expected);
}

// Likewise with rules, whose history must be told: the answer's first tokens count as the answer's.
TEST_P(EngineEquivalence, AnswerWithRulesGoesOnFromItsOwnTokens) {
  bool told = false;
  for (const float temperature : {0.0F, 1.0F}) {
    SequenceRequest whole = MakeRequest(1, {2, 1210, 327, 2144}, 24);
    SampleWith(whole, 11, temperature, 50, 1.0F);
    whole.rules = AllRules();
    whole.rules.repetition_penalty = 1.0F;  // does not tell prompt from answer
    whole.rules.frequency_penalty = 2.0F;
    whole.rules.suppressed.clear();
    const Answers straight = RunFresh(Options(), {whole});
    SequenceRequest rest = whole;
    rest.prompt.insert(rest.prompt.end(), straight.at(1).ids.begin(), straight.at(1).ids.begin() + 12);
    rest.max_tokens = 12;
    rest.answer_tokens = 12;
    const std::vector<int32_t> expected(straight.at(1).ids.begin() + 12, straight.at(1).ids.end());
    EXPECT_EQ(RunFresh(Options(), {rest}).at(1).ids, expected);
    rest.answer_tokens = 0;
    told = told || RunFresh(Options(), {rest}).at(1).ids != expected;
  }
  EXPECT_TRUE(told) << "the history changes too little to show";
}

// By hand, from the log-probabilities that are reported, which are those before the penalties.
TEST_P(EngineEquivalence, GreedyChoicesFollowThePenalties) {
  SequenceRequest request = MakeRequest(1, {2, 1210, 327, 2144}, 40);
  request.logprobs = kernels::kMaxTopLogprobs;
  request.rules.presence_penalty = 0.75F;
  request.rules.frequency_penalty = 0.5F;
  request.rules.bias = {{267, -1.0F}, {337, -0.5F}, {741, 1.0F}};
  const RecordingSink::Heard heard = RunFresh(Options(), {request}).at(1);
  ASSERT_EQ(heard.ids.size(), 40U);
  ASSERT_EQ(heard.logprobs.size(), 40U);
  std::map<int32_t, int> counts;
  int moved = 0;
  for (size_t i = 0; i < heard.ids.size(); ++i) {
    kernels::Candidate best{.token = -1, .logit = -1e30F};
    for (const kernels::Candidate& c : heard.logprobs[i].top) {
      float logit = c.logit;
      if (const int n = counts[c.token]; n > 0) {
        logit -= 0.75F + 0.5F * static_cast<float>(n);
      }
      for (const kernels::TokenBias& b : request.rules.bias) {
        logit += b.token == c.token ? b.bias : 0.0F;
      }
      best = logit > best.logit ? kernels::Candidate{c.token, logit} : best;
      if (c.token == heard.ids[i]) {
        EXPECT_EQ(heard.logprobs[i].logprob, c.logit);
      }
    }
    EXPECT_EQ(heard.ids[i], best.token) << i;
    moved += heard.ids[i] == heard.logprobs[i].top[0].token ? 0 : 1;
    ++counts[heard.ids[i]];
  }
  EXPECT_GT(moved, 3) << "the penalties change too little to show";
}

TEST_P(EngineEquivalence, SuppressedAndExcludedTokensAreNeverSampled) {
  const Answers& answers = Baseline();
  for (const uint64_t id : {5, 6}) {
    for (const int32_t token : answers.at(id).ids) {
      for (const kernels::TokenRange& range : AllRules().suppressed) {
        EXPECT_FALSE(token >= range.begin && token < range.end) << token;
      }
    }
  }
  for (auto [id, remainder] : {std::pair(6, 1), std::pair(8, 3)}) {
    EXPECT_GT(answers.at(static_cast<uint64_t>(id)).ids.size(), 10U);
    for (const int32_t token : answers.at(static_cast<uint64_t>(id)).ids) {
      EXPECT_EQ(token % 5, remainder) << id;
      remainder = (token + 1) % 5;
    }
  }
}

// What a slot had before is gone when it opens again.
TEST_P(EngineEquivalence, AReusedSlotKeepsNothing) {
  RunOptions options = Options();
  options.max_sequences = 1;
  const Answers& together = Baseline();
  const Answers in_turn = RunFresh(options, Mixture());
  for (const auto& [id, heard] : together) {
    SCOPED_TRACE(id);
    ExpectSameBits(heard, in_turn.at(id));
  }
}

class NothingAllowed final : public TokenConstraint {
 public:
  void Allow(std::span<uint32_t> /*words*/) override {}
  void Take(int32_t /*token*/) override { FAIL() << "nothing was allowed"; }
};

TEST_P(EngineEquivalence, ASequenceThatMayChooseNothingEndsAlone) {
  const auto checkpoint = OpenModel(GetParam());
  ASSERT_NE(checkpoint, nullptr);
  const auto group = MakeGroup(*checkpoint, Options());
  ASSERT_NE(group, nullptr);
  auto engine = Engine::Create({.epoch = Epoch(1)}, group->runner(0), group->followers());
  ASSERT_TRUE(engine.ok()) << engine.status();
  auto sink = std::make_shared<RecordingSink>();
  SequenceRequest stuck = MakeRequest(9, {2, 5}, 4);
  stuck.constraint = std::make_shared<NothingAllowed>();
  ASSERT_TRUE((*engine)->Open(sink, stuck).ok());
  const SequenceRequest other = Mixture()[0];
  ASSERT_TRUE((*engine)->Open(sink, other).ok());
  const RecordingSink::Heard heard = sink->AwaitEnd(9);
  EXPECT_EQ(heard.error.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(heard.ids.empty());
  EXPECT_EQ(sink->AwaitEnd(1).ids, Baseline().at(1).ids);
}

TEST_P(EngineEquivalence, GreedyIdsAreTheReferencesOwn) {
  std::ifstream file(std::string(ALPHECCA_MODELS) + "/" + GetParam() + "/golden.json");
  const auto golden = nlohmann::json::parse(file, nullptr, false);
  ASSERT_FALSE(golden.is_discarded());
  std::vector<SequenceRequest> requests;
  std::vector<std::vector<int32_t>> expected;
  for (const auto& entry : golden["greedy"]) {
    expected.push_back(entry["greedy_ids"].get<std::vector<int32_t>>());
    expected.back().resize(std::min<size_t>(expected.back().size(), 24));
    requests.push_back(MakeRequest(expected.size(), entry["input_ids"].get<std::vector<int32_t>>(),
                                   static_cast<int32_t>(expected.back().size())));
  }
  ASSERT_FALSE(requests.empty());
  RunOptions options = Options();
  options.kv_type = kernels::DType::kF32;
  const Answers answers = RunFresh(options, requests);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(answers.at(i + 1).ids, expected[i]) << golden["greedy"][i]["prompt"];
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineEquivalence, testing::Values("tiny-moe", "tiny-dense"),
                         [](const auto& model) { return model.param == "tiny-moe" ? "Moe" : "Dense"; });

}  // namespace
}  // namespace alphecca::engine

// The engine on the embedded models: an answer depends on its request alone, not on what else runs, how prompts are
// cut into steps, or how the model is split.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/property/engine_runs.h"

namespace alphecca::engine {
namespace {

// Greedy and sampled, with and without filters, with log-probabilities, longer and shorter than the window of 64.
std::vector<SequenceRequest> Mixture() {
  std::vector<SequenceRequest> requests;
  requests.push_back(MakeRequest(1, {2, 1210, 327, 2144}, 24));
  requests.push_back(MakeRequest(2, MakePrompt(90, 1), 12));
  SampleWith(requests.back(), 7, 1.0F, 0, 1.0F);
  requests.push_back(MakeRequest(3, MakePrompt(33, 2), 20));
  SampleWith(requests.back(), 8, 0.8F, 40, 0.9F);
  requests.push_back(MakeRequest(4, MakePrompt(17, 3), 16));
  SampleWith(requests.back(), 9, 1.2F, 0, 0.7F);
  for (SequenceRequest& request : requests) {
    request.logprobs = 3;
  }
  requests[1].prompt_logprobs = 2;
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
};

TEST_P(EngineEquivalence, TheSameSeedGivesTheSameTokensOnEveryRun) {
  const Answers& first = Baseline();
  const Answers second = RunFresh(Options(), Mixture());
  ASSERT_EQ(first.size(), 4U);
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

TEST_P(EngineEquivalence, ChunkedPromptsGiveWhatWholeOnesGive) {
  const Answers& whole = Baseline();
  RunOptions chunked = Options();
  chunked.step_tokens = 7;
  chunked.block_tokens = 4;  // nor does the size of a block matter
  const Answers cut = RunFresh(chunked, Mixture());
  ASSERT_EQ(whole.size(), 4U);
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

TEST_P(EngineEquivalence, GivingWayChangesNothing) {
  RunOptions options = Options();
  options.full_blocks = 16;  // the eight below want 40 in the end
  const auto checkpoint = OpenModel(GetParam());
  const auto tight = MakeGroup(*checkpoint, options);
  ASSERT_NE(tight, nullptr);
  std::vector<SequenceRequest> requests = Mixture();
  for (size_t i = 0; i < 4; ++i) {
    requests.push_back(MakeRequest(5 + i, MakePrompt(30 + static_cast<int>(i), static_cast<int32_t>(i) + 10), 60));
  }
  EngineCounts counts;
  const Answers answers = RunAll(*tight, 256, 1, requests, false, &counts);
  EXPECT_GT(counts.preemptions, 0);
  options.full_blocks = 0;
  const Answers roomy = RunFresh(options, requests);
  for (const auto& [id, heard] : roomy) {
    SCOPED_TRACE(id);
    ExpectSameBits(heard, answers.at(id));
  }
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

#include "model/planner/planner.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/kv_layout.h"
#include "model/planner/drafter.h"
#include "model/published.h"
#include "model/shard_slices.h"

namespace alphecca::model {
namespace {

using kernels::DType;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kGib = 1024.0 * 1024 * 1024;

ModelConfig Config(Published model) {
  return *PublishedConfig(model);
}

PlanRequest Request(Published model, DType weights, std::string_view devices) {
  return {.name = std::string(PublishedName(model)),
          .config = Config(model),
          .weights = weights,
          .devices = *ParseDevices(devices)};
}

Plan MustPlan(const PlanRequest& request) {
  const absl::StatusOr<Plan> plan = MakePlan(request);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

// Norms, scales and scalars: spec gemma4-models, section 2.
int64_t Vectors(Published model) {
  switch (model) {
    case Published::kE2B:
      return 285'987;
    case Published::kE4B:
      return 560'170;
    case Published::k26B:
      return 700'446;
    case Published::k31B:
      return 1'331'516;
    case Published::k12B:
      break;
  }
  return 0;
}

// Spec gemma4-models, section 2: its BF16 and SFP8 rows hold vectors in BF16, its Q4_0 row in F32, as we do.
TEST(PlannerTest, TotalBytesAreThoseOfTheSpecification) {
  struct Row {
    Published model;
    int64_t bf16, sfp8, q4_0;
  };
  for (const Row& row : {Row{Published::kE2B, 9'257'138'758, 4'628'855'366, 2'604'553'356},
                         Row{Published::kE4B, 14'926'026'836, 7'463'573'588, 4'199'870'632},
                         Row{Published::k26B, 50'466'283'580, 25'233'842'236, 14'196'050'040},
                         Row{Published::k31B, 61'394'690'680, 30'698'676'856, 17'271'833'840}}) {
    SCOPED_TRACE(PublishedName(row.model));
    const auto total = [&row](DType type) { return MustPlan(Request(row.model, type, "1xb200")).total_weight_bytes; };
    EXPECT_EQ(total(DType::kBF16), row.bf16 + 2 * Vectors(row.model));
    EXPECT_EQ(total(DType::kQ4_0), row.q4_0);
    // And a scale a row: at most 4 bytes for the 704 of the narrowest.
    const int64_t scales = total(DType::kSFP8) - row.sfp8 - 2 * Vectors(row.model);
    EXPECT_GT(scales, 0);
    EXPECT_LT(scales, row.sfp8 * 4 / 704);
    EXPECT_EQ(scales % 4, 0);
  }
}

// Weights alone, as the family promises.
TEST(PlannerTest, WeightsAreAtMostWhatTheFamilyPromises) {
  struct Row {
    Published model;
    double bf16, sfp8, q4_0;
  };
  for (const Row& row : {Row{Published::kE2B, 9.6, 4.6, 3.2}, Row{Published::kE4B, 15, 7.5, 5},
                         Row{Published::k31B, 58.3, 30.4, 17.4}}) {
    const auto gib = [&row](DType type) {
      return static_cast<double>(MustPlan(Request(row.model, type, "1xb200")).total_weight_bytes) / kGib;
    };
    EXPECT_LE(gib(DType::kBF16), row.bf16);
    EXPECT_LE(gib(DType::kSFP8), row.sfp8);
    EXPECT_LE(gib(DType::kQ4_0), row.q4_0);
  }
}

// What the ranks own is each parameter once, for every model and degree.
TEST(PlannerTest, RanksOwnEachParameterOnce) {
  for (const Published model : kAllPublished) {
    const ModelConfig config = Config(model);
    int64_t parameters = 0;
    for (const TensorSpec& spec : Catalogue(config)) {
      parameters += spec.elements();
    }
    for (const int tp : {1, 2, 3, 4, 8}) {
      for (const int ep : {1, 2, 3, 4, 8}) {
        const auto plan = MakeShardPlan(config, {tp, ep}, 32);
        if (!plan.ok()) {
          continue;
        }
        int64_t owned = 0;
        for (size_t rank = 0; rank < plan->ranks.size(); ++rank) {
          for (const TensorSlice& slice : ShardSlices(config, *plan, static_cast<int>(rank))) {
            owned += slice.replicated ? 0 : slice.elements();
          }
        }
        EXPECT_EQ(owned, parameters) << PublishedName(model) << " tp " << tp << " ep " << ep;
      }
    }
  }
}

// Spec gemma4-models, section 3, shared out by KV heads: E2B has one, which every rank keeps; 31B has 16 and 4.
TEST(PlannerTest, KvReplicatesOnRanksBeyondTheHeads) {
  const auto bytes = [](Published model, int tp, kernels::PoolKind pool, DType type = DType::kBF16) {
    const ModelConfig config = Config(model);
    return KvTokenBytes(config, MakeShardPlan(config, {tp, 1}, 32)->ranks.back(), pool, type);
  };
  EXPECT_EQ(bytes(Published::kE2B, 1, kernels::kFullPool), 6'144);
  EXPECT_EQ(bytes(Published::kE2B, 4, kernels::kFullPool), 6'144);
  EXPECT_EQ(bytes(Published::kE2B, 4, kernels::kSlidingPool), 12 * 1'024);
  EXPECT_EQ(bytes(Published::kE4B, 4, kernels::kFullPool), 16'384 / 2);
  EXPECT_EQ(bytes(Published::k26B, 4, kernels::kFullPool), 20'480 / 2);
  EXPECT_EQ(bytes(Published::k26B, 4, kernels::kSlidingPool), 25 * 8'192 / 4);
  EXPECT_EQ(bytes(Published::k31B, 4, kernels::kFullPool), 81'920 / 4);
  EXPECT_EQ(bytes(Published::k31B, 8, kernels::kFullPool), 81'920 / 4);
  EXPECT_EQ(bytes(Published::k31B, 8, kernels::kSlidingPool), 50 * 16'384 / 8);
  EXPECT_EQ(bytes(Published::kE2B, 1, kernels::kFullPool, DType::kQ8_0), 6'144 / 64 * 34);  // 34 bytes for 32 numbers
  EXPECT_EQ(bytes(Published::kE2B, 1, kernels::kFullPool, DType::kF32), 2 * 6'144);
}

TEST(PlannerTest, PerLayerTableIsMappedAndTheHeadIsResident) {
  const Plan plan = MustPlan(Request(Published::kE2B, DType::kBF16, "1xl4"));
  ASSERT_EQ(plan.ranks.size(), 1U);
  EXPECT_EQ(plan.ranks[0].footprint.mapped_bytes, 2 * 2'348'810'240);
  EXPECT_EQ(plan.ranks[0].footprint.weight_bytes + plan.ranks[0].footprint.mapped_bytes, plan.total_weight_bytes);
}

// A device of the test's own size, all of it usable.
PlanRequest Sized(PlanRequest request, int64_t bytes) {
  request.devices[0].device.memory_bytes = bytes;
  request.memory_share = 1;
  return request;
}

TEST(PlannerTest, FitsToTheByteAndSaysWhatIsMissing) {
  PlanRequest request = Request(Published::k31B, DType::kQ4_0, "1xh200");
  request.context = 1600;
  request.concurrency = 2;
  const Plan roomy = MustPlan(request);
  ASSERT_TRUE(roomy.fits);
  // Windows of 1023 + 256 positions touch 81 blocks of 16; 50 layers of 16,384 bytes a token.
  EXPECT_EQ(roomy.sliding_blocks, 2 * 81);
  const int64_t need = roomy.ranks[0].footprint.weight_bytes + roomy.ranks[0].footprint.workspace_bytes +
                       int64_t{2} * 81 * 16 * 819'200 + int64_t{1600} * 81'920;
  const Plan exact = MustPlan(Sized(request, need));
  EXPECT_TRUE(exact.fits) << exact.reason;
  EXPECT_EQ(exact.kv_tokens, 1600);
  EXPECT_EQ(exact.full_blocks, 100);
  EXPECT_EQ(exact.ranks[0].kv_bytes, int64_t{2} * 81 * 16 * 819'200 + int64_t{1600} * 81'920);
  EXPECT_EQ(MustPlan(Sized(request, need + 16 * 81'920)).kv_tokens, 1616);
  const Plan less = MustPlan(Sized(request, need - 1));
  EXPECT_FALSE(less.fits);
  EXPECT_EQ(less.missing_bytes, 1);
  EXPECT_EQ(less.replicas, 0);
  EXPECT_EQ(less.kv_tokens, 0);
  EXPECT_EQ(less.bound.decode_tokens_per_s, 0);
}

TEST(PlannerTest, FewestDevicesThatHoldIt) {
  PlanRequest request = Request(Published::k31B, DType::kBF16, "4xh100-80g");
  request.context = 262144;
  const Plan long_context = MustPlan(request);  // 57.2 GiB and 20 GiB of KV: more than one has
  EXPECT_EQ(long_context.shards.tp, 2);
  EXPECT_EQ(long_context.replicas, 2);
  request.context = 8192;
  request.concurrency = 1;
  const Plan short_context = MustPlan(request);
  EXPECT_EQ(short_context.shards.tp, 1);
  EXPECT_EQ(short_context.replicas, 4);
  // What is left of three devices for a group of two is no replica.
  request = Request(Published::k31B, DType::kBF16, "3xh100-80g");
  EXPECT_EQ(MustPlan(request).replicas, 1);
}

TEST(PlannerTest, ExpertsSplitWholeWhereColumnsWouldSplitUnevenly) {
  PlanRequest request = Request(Published::k26B, DType::kBF16, "4xl4");
  request.context = 32768;
  const Plan plan = MustPlan(request);  // 704 columns are 22 units of 32: no even split over 3 or 4
  ASSERT_TRUE(plan.fits) << plan.reason;
  EXPECT_EQ(plan.shards.ep, static_cast<int>(plan.ranks.size()));
  EXPECT_EQ(plan.shards.tp, plan.shards.ep);
}

TEST(PlannerTest, GroupsAreOfOneKind) {
  const Plan fast = MustPlan(Request(Published::kE2B, DType::kBF16, "2xl4,3xh100-80g"));
  EXPECT_EQ(fast.device.name, "h100-80g");
  EXPECT_EQ(fast.replicas, 3);
  const Plan few = MustPlan(Request(Published::k31B, DType::kBF16, "8xl4,2xh200"));
  EXPECT_EQ(few.device.name, "h200");
  EXPECT_EQ(few.ranks.size(), 1U);
}

TEST(PlannerTest, RefusalSaysWhatIsMissingAndWhatWouldHelp) {
  PlanRequest request = Request(Published::k31B, DType::kBF16, "2xrtx4090");
  request.context = 32768;
  request.concurrency = 1;
  const Plan plan = MustPlan(request);
  ASSERT_FALSE(plan.fits);
  EXPECT_EQ(plan.shards.tp, 2);
  EXPECT_GT(plan.missing_bytes, static_cast<int64_t>(4.6 * kGib));  // of 24 GiB even without KV
  EXPECT_THAT(plan.reason, AllOf(HasSubstr("31B in BF16: 28.6 GiB of weights"), HasSubstr("each of 2 x rtx4090"),
                                 HasSubstr("GiB short on each"), HasSubstr("32,768 tokens"),
                                 HasSubstr("SFP8 fits with about "), HasSubstr("3 x rtx4090 would hold it")));
  EXPECT_THAT(plan.reason, Not(HasSubstr("a context of"))) << "the weights alone are too much";
  // What it proposes is so.
  request.weights = DType::kSFP8;
  const Plan smaller = MustPlan(request);
  EXPECT_TRUE(smaller.fits);
  EXPECT_THAT(plan.reason, HasSubstr(absl::StrCat("about ", smaller.kv_tokens / 1000, ",000 tokens of KV")));
  EXPECT_GT(smaller.kv_tokens, 150'000);
  EXPECT_LT(smaller.kv_tokens, 240'000);
}

TEST(PlannerTest, RefusalProposesAContextThatFits) {
  PlanRequest request = Request(Published::k31B, DType::kQ4_0, "1xrtx4090");
  request.concurrency = 1;
  const Plan plan = MustPlan(request);  // 16.1 GiB of weights, 20 GiB of KV
  ASSERT_FALSE(plan.fits);
  EXPECT_THAT(plan.reason, HasSubstr("a context of about "));
  EXPECT_THAT(plan.reason, Not(HasSubstr("fits with")));
  request.context = 32768;
  EXPECT_TRUE(MustPlan(request).fits);
}

TEST(PlannerTest, DrafterLiesOnRankZero) {
  // Spec gemma4-models, section 5; E2B's also keeps the order of 262,144 tokens in I32.
  EXPECT_EQ(*DrafterBytes(Published::k31B, DType::kQ4_0), 264'168'464);
  EXPECT_EQ(*DrafterBytes(Published::k26B, DType::kQ4_0), 236'151'824);
  EXPECT_EQ(*DrafterBytes(Published::kE2B, DType::kQ4_0), 43'743'248 + 4 * 262'144);
  EXPECT_EQ(*DrafterBytes(Published::kE4B, DType::kQ4_0), 44'185'616 + 4 * 262'144);
  EXPECT_EQ(DrafterBytes(Published::k12B, DType::kQ4_0).status().code(), absl::StatusCode::kInvalidArgument);
  PlanRequest request = Request(Published::k31B, DType::kBF16, "2xh100-80g");
  const Plan without = MustPlan(request);
  request.drafter_bytes = *DrafterBytes(Published::k31B, DType::kBF16);
  const Plan with = MustPlan(request);
  EXPECT_EQ(with.ranks[0].footprint.weight_bytes, without.ranks[0].footprint.weight_bytes + request.drafter_bytes);
  EXPECT_EQ(with.ranks[1].footprint.weight_bytes, without.ranks[1].footprint.weight_bytes);
  EXPECT_EQ(with.total_weight_bytes, without.total_weight_bytes + request.drafter_bytes);
  EXPECT_LT(with.kv_tokens, without.kv_tokens);
}

TEST(PlannerTest, ResidentTablesAreWeights) {
  PlanRequest request = Request(Published::kE2B, DType::kBF16, "1xh100-80g");
  const Footprint mapped = MustPlan(request).ranks[0].footprint;
  request.resident_tables = true;
  const Plan plan = MustPlan(request);
  const Footprint& resident = plan.ranks[0].footprint;
  EXPECT_GT(mapped.mapped_bytes, 0);
  EXPECT_EQ(resident.mapped_bytes, 0);
  EXPECT_EQ(resident.weight_bytes, mapped.weight_bytes + mapped.mapped_bytes);
}

// One sequence of one token reads the weights of spec gemma4-models, section 2 ("read per decoded token"), and little
// else.
TEST(PlannerTest, DecodeBoundIsBandwidthOverWeightsRead) {
  struct Row {
    Published model;
    double read;
  };
  for (const Row& row : {Row{Published::kE2B, 2'279'759'139}, Row{Published::kE4B, 4'644'441'130},
                         Row{Published::k26B, 3'822'530'590}, Row{Published::k31B, 30'697'345'340}}) {
    PlanRequest request = Request(row.model, DType::kBF16, "1xh200");
    request.concurrency = 1;
    request.context = 1;
    const double most = 4.8e12 / (2 * row.read);
    EXPECT_LE(MustPlan(request).bound.decode_tokens_per_s, most);
    EXPECT_GE(MustPlan(request).bound.decode_tokens_per_s, most * 0.999);
  }
}

TEST(PlannerTest, BoundsFollowTheLoad) {
  PlanRequest request = Request(Published::k26B, DType::kBF16, "1xh200");
  request.context = 4096;
  request.concurrency = 1;
  const Bound one = MustPlan(request).bound;
  request.concurrency = 16;
  const Bound sixteen = MustPlan(request).bound;
  EXPECT_GT(sixteen.decode_tokens_per_s, one.decode_tokens_per_s);
  EXPECT_LT(sixteen.decode_tokens_per_s, 16 * one.decode_tokens_per_s);  // other rows ask for other experts
  EXPECT_EQ(sixteen.prefill_tokens_per_s, one.prefill_tokens_per_s);
  request.context = 65536;
  EXPECT_LT(MustPlan(request).bound.decode_tokens_per_s, sixteen.decode_tokens_per_s);
  // Arithmetic bounds a prefill with many rows: 2 FLOPs a weight but for the head.
  request = Request(Published::k31B, DType::kQ4_0, "1xh200");
  request.context = 2048;
  request.step_rows = 2048;
  EXPECT_LE(MustPlan(request).bound.prefill_tokens_per_s, 989e12 / (2 * (30'697'345'340 - 1'409'286'144 - 1'331'516)));
  // Links cost time: half the bytes on each of two devices, less than twice the rate.
  request = Request(Published::k31B, DType::kBF16, "1xh200");
  request.concurrency = 1;
  request.context = 1024;
  const double alone = MustPlan(request).bound.decode_tokens_per_s;
  PlanRequest pair = Sized(request, int64_t{40} << 30);
  pair.devices[0].count = 2;
  const double two = MustPlan(pair).bound.decode_tokens_per_s;
  EXPECT_GT(two, alone);
  EXPECT_LT(two, 2 * alone);
}

TEST(PlannerTest, WrongRequestsSayWhatIsRight) {
  const PlanRequest good = Request(Published::k31B, DType::kBF16, "1xh200");
  const auto fails = [&good](auto change, const std::string& message) {
    PlanRequest request = good;
    change(request);
    const absl::StatusOr<Plan> plan = MakePlan(request);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr(message));
  };
  fails([](PlanRequest& r) { r.context = 262145; }, "0 to 262144");
  fails([](PlanRequest& r) { r.context = -1; }, "context is -1");
  fails([](PlanRequest& r) { r.concurrency = 0; }, "1 to 65536");
  fails([](PlanRequest& r) { r.concurrency = int64_t{1} << 62; }, "1 to 65536");
  fails([](PlanRequest& r) { r.devices.clear(); }, "at least one");
  fails([](PlanRequest& r) { r.devices[0].count = 0; }, "count of h200");
  fails([](PlanRequest& r) { r.devices[0].device.memory_bandwidth = 0; }, "not above 0");
  fails([](PlanRequest& r) { r.memory_share = 1.5; }, "at most 1");
  fails([](PlanRequest& r) { r.step_rows = 0; }, "rows of a step");
  fails([](PlanRequest& r) { r.block_tokens = 0; }, "KV block");
  fails([](PlanRequest& r) { r.weights = DType::kQ6_K; }, "BF16, SFP8 or Q4_0");
  fails([](PlanRequest& r) { r.kv_type = DType::kQ4_0; }, "BF16, F32 or Q8_0");
  fails(
      [](PlanRequest& r) {
        r.kv_type = DType::kQ8_0;
        r.config.rope_sliding.rotating = 40;
        for (LayerConfig& layer : r.config.layers) {
          layer.head_dim = layer.full_attention ? layer.head_dim : 80;
        }
      },
      "heads of width 80");
  fails([](PlanRequest& r) { r.config.heads = 0; }, "num_attention_heads");
  fails([](PlanRequest& r) { r.weights = DType::kQ4_0, r.config.hidden = 5392; }, "cut a block of 32");
}

TEST(PlannerTest, OverwhelmingDemandsDoNotOverflow) {
  PlanRequest request = Request(Published::k31B, DType::kBF16, "64xcpu:1");
  request.concurrency = 65536;
  request.step_rows = 65536;
  request.kv_type = DType::kF32;
  const Plan plan = MustPlan(request);
  EXPECT_FALSE(plan.fits);
  EXPECT_GT(plan.missing_bytes, int64_t{1} << 40);
}

}  // namespace
}  // namespace alphecca::model

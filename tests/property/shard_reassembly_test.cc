// The shards of any plan over any model put together are the checkpoint, byte for byte; no byte is owned twice; and the
// planner counts what the loader loads.
#include <algorithm>
#include <random>

#include "gtest/gtest.h"
#include "model/planner/footprint.h"
#include "tests/property/shard_checkpoint.h"
#include "worker/forward/scratch.h"
#include "worker/forward/weights.h"

namespace alphecca::model {
namespace {

using kernels::DType;

// A checkpoint being put together from shards: its bytes, and for each how many ranks own it.
class Assembly {
 public:
  explicit Assembly(const RandomCheckpoint& checkpoint) : checkpoint_(checkpoint) {
    for (const auto& [key, stored] : checkpoint.tensors()) {
      bytes_[key].resize(stored.bytes.size());
      owners_[key].resize(stored.bytes.size());
    }
  }

  // Lays `from`, the bytes of a slice in its own order, into its place.
  void Place(const TensorSlice& slice, const std::vector<std::byte>& from) {
    const auto key = std::pair(slice.kind, slice.layer);
    const auto& stored = checkpoint_.tensors().at(key);
    const auto row_bytes = kernels::RowBytes(stored.type, stored.spec.cols);
    const auto first = kernels::RowBytes(stored.type, slice.cols.begin);
    const auto size = static_cast<size_t>(kernels::RowBytes(stored.type, slice.cols.size()));
    std::vector<std::byte>& bytes = bytes_[key];
    std::vector<int>& owners = owners_[key];
    bool wrong = false;
    size_t at = 0;
    for (int64_t item = slice.items.begin; item < slice.items.end; ++item) {
      for (int64_t row = slice.rows.begin; row < slice.rows.end; ++row) {
        const auto to = static_cast<size_t>((item * stored.spec.rows + row) * row_bytes + first);
        ASSERT_LE(to + size, stored.bytes.size()) << CanonicalName(slice.kind, slice.layer);
        ASSERT_LE(at + size, from.size()) << CanonicalName(slice.kind, slice.layer);
        for (size_t i = 0; i < size; ++i) {
          if (slice.replicated) {
            wrong |= stored.bytes[to + i] != from[at + i];  // ExpectWhole sees that a rank owns it
          } else {
            bytes[to + i] = from[at + i];
            ++owners[to + i];
          }
        }
        at += size;
      }
    }
    EXPECT_EQ(at, from.size());
    EXPECT_FALSE(wrong) << CanonicalName(slice.kind, slice.layer) << ": a copy of other bytes";
  }

  void ExpectWhole() const {
    for (const auto& [key, stored] : checkpoint_.tensors()) {
      const std::string name = CanonicalName(key.first, key.second);
      EXPECT_TRUE(bytes_.at(key) == stored.bytes) << name << " differs";
      const std::vector<int>& owners = owners_.at(key);
      EXPECT_EQ(std::count(owners.begin(), owners.end(), 1), static_cast<int64_t>(owners.size())) << name;
    }
  }

 private:
  const RandomCheckpoint& checkpoint_;
  std::map<std::pair<TensorKind, int>, std::vector<std::byte>> bytes_;
  std::map<std::pair<TensorKind, int>, std::vector<int>> owners_;
};

struct Case {
  ModelConfig config;
  DType type = DType::kBF16;
  bool split_experts = false;
  Sharding sharding = {};
};

ExpertReplicas RandomReplicas(const ModelConfig& config, int ranks, std::mt19937& random) {
  ExpertRows rows(config.layers.size());
  for (auto& layer : rows) {
    for (int e = 0; e < config.experts; ++e) {
      layer.push_back(random() % 1000);
    }
  }
  return PlaceReplicas(config, rows, ranks, 1).value_or(ExpertReplicas());
}

Case RandomCase(std::mt19937& random) {
  const auto pick = [&random](size_t count) { return std::uniform_int_distribution<size_t>(0, count - 1)(random); };
  Case c;
  c.config = RandomConfig(random);
  c.type = std::array{DType::kBF16, DType::kSFP8, DType::kQ4_0}[pick(3)];
  c.split_experts = pick(2) == 1;
  constexpr std::array kDegrees = {1, 2, 3, 4, 8};
  do {
    c.sharding.tp = kDegrees[pick(kDegrees.size())];
    c.sharding.ep = c.config.experts > 0 ? kDegrees[pick(kDegrees.size())] : 1;
    c.sharding.mode = c.config.experts > 0 && pick(3) == 0 ? ExpertMode::kWide : ExpertMode::kFused;
    c.sharding.tp = c.sharding.mode == ExpertMode::kWide ? 1 : c.sharding.tp;
    c.sharding.replicas = pick(2) == 0 ? RandomReplicas(c.config, c.sharding.ep, random) : ExpertReplicas();
  } while (!MakeShardPlan(c.config, c.sharding, 32).ok());
  return c;
}

// Which slice a packed source is: the tensor by its address, in the form that the catalogue has.
TensorSlice SliceOf(const RandomCheckpoint& checkpoint, const kernels::PackSource& source) {
  for (const auto& [key, stored] : checkpoint.tensors()) {
    if (stored.bytes.data() == source.tensor.data) {
      return {key.first, key.second, source.items, source.rows, source.cols};
    }
  }
  ADD_FAILURE() << "packed from no tensor of the checkpoint";
  return {};
}

// Loads every rank and puts together what each packed, uploaded or mapped.
void CheckCase(const Case& c, std::mt19937& random) {
  const RandomCheckpoint checkpoint(c.config, c.type, c.split_experts, random);
  const absl::StatusOr<ShardPlan> plan = MakeShardPlan(checkpoint, c.sharding);
  ASSERT_TRUE(plan.ok()) << plan.status();
  Assembly assembly(checkpoint);
  for (size_t r = 0; r < plan->ranks.size(); ++r) {
    const int rank = static_cast<int>(r);
    RecordingBackend backend;
    const auto weights = forward::LoadWeights(checkpoint, *plan, rank, backend, model::WeightType::kAsFile, nullptr);
    ASSERT_TRUE(weights.ok()) << weights.status();
    std::vector<TensorSlice> wanted = ShardSlices(c.config, *plan, rank);
    int64_t scalars = 0;
    for (TensorSlice& slice : wanted) {
      if (c.split_experts && slice.kind == TensorKind::kExpertGateUp) {
        slice = InSplitForm(c.config, slice);
      }
      if (HoldingOf(slice.kind) != Holding::kMatrix) {  // held whole
        const auto& stored = checkpoint.tensors().at({slice.kind, slice.layer});
        EXPECT_EQ(slice.elements(), stored.spec.elements()) << CanonicalName(slice.kind, slice.layer);
        assembly.Place(slice, stored.bytes);
        scalars += slice.kind == TensorKind::kLayerScalar ? 4 : 0;
      }
    }
    for (const RecordingBackend::Packed& packed : backend.packed) {
      TensorSlice slice = SliceOf(checkpoint, packed.source);
      const auto found = std::find_if(wanted.begin(), wanted.end(), [&slice](TensorSlice want) {
        want.replicated = false;
        return want == slice;
      });
      ASSERT_NE(found, wanted.end()) << "rank " << rank << " loads a slice that is not its own of "
                                     << CanonicalName(slice.kind, slice.layer);
      assembly.Place(*found, packed.bytes);
      wanted.erase(found);
    }
    EXPECT_FALSE(std::any_of(wanted.begin(), wanted.end(),
                             [](const TensorSlice& slice) { return HoldingOf(slice.kind) == Holding::kMatrix; }))
        << "rank " << rank << " does not load all of its slices";
    // Layer scalars are host values, RoPE frequencies no parameters: all else of what is resident is counted.
    const Footprint footprint =
        RankFootprint(c.config, *plan, rank, c.type, DType::kBF16, {.rows = 8, .logit_rows = 4});
    int64_t rope = 0;
    for (const auto* buffer : {weights->rope_full.get(), weights->rope_sliding.get()}) {
      rope += buffer == nullptr ? 0 : buffer->bytes;
    }
    EXPECT_EQ(footprint.weight_bytes, weights->bytes - rope + scalars) << "rank " << rank;
  }
  assembly.ExpectWhole();
}

TEST(ShardReassemblyTest, ShardsOfAnyPlanAreTheCheckpoint) {
  std::mt19937 random(31415);
  int moe = 0;
  int edge = 0;
  int replicated = 0;
  int wide = 0;
  int copied = 0;
  for (int round = 0; round < 200 && !::testing::Test::HasFailure(); ++round) {
    const Case c = RandomCase(random);
    SCOPED_TRACE(::testing::Message() << "round " << round << " tp " << c.sharding.tp << " ep " << c.sharding.ep
                                      << " type " << kernels::TypeName(c.type) << " heads " << c.config.heads
                                      << " experts " << c.config.experts);
    CheckCase(c, random);
    moe += c.config.experts > 0 && c.sharding.ep > 1 && c.sharding.ep != c.sharding.tp ? 1 : 0;
    edge += c.config.per_layer_width > 0 && c.sharding.tp > 1 ? 1 : 0;
    wide += c.sharding.mode == ExpertMode::kWide ? 1 : 0;
    copied += c.sharding.replicas.empty() ? 0 : 1;
    replicated += c.sharding.tp > c.config.layers[0].kv_heads ? 1 : 0;
  }
  EXPECT_GT(moe, 10);
  EXPECT_GT(edge, 10);
  EXPECT_GT(replicated, 10);
  EXPECT_GT(wide, 10);
  EXPECT_GT(copied, 10);
}

TEST(ShardReassemblyTest, WorkspaceIsWhatTheForwardPassAllocates) {
  std::mt19937 random(2718);
  for (int round = 0; round < 100; ++round) {
    const Case c = RandomCase(random);
    const absl::StatusOr<ShardPlan> plan = MakeShardPlan(c.config, c.sharding, 32);
    ASSERT_TRUE(plan.ok());
    for (const RankShard& shard : plan->ranks) {
      RecordingBackend backend;
      const int64_t vocab = DutiesOf(*plan, shard.rank).vocabulary ? shard.vocab.size() : 0;
      const auto scratch = forward::AllocateScratch(backend, c.config, shard,
                                                    {.rows = 24,
                                                     .logit_rows = 7,
                                                     .vocab = vocab,
                                                     .ranks = static_cast<int>(plan->ranks.size()),
                                                     .wide = plan->wide()});
      ASSERT_TRUE(scratch.ok());
      // An activation has room for a value even where it is empty: at most 8 are.
      const int64_t more =
          backend.allocated - WorkspaceBytes(c.config, *plan, shard.rank, {.rows = 24, .logit_rows = 7});
      EXPECT_GE(more, 0);
      EXPECT_LE(more, 8 * 4);
    }
  }
}

}  // namespace
}  // namespace alphecca::model

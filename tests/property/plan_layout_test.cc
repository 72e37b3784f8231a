// A file laid out for a plan gives each rank the weights that the source gives it, and hardly a page more than those.
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "model/convert.h"
#include "model/plan_layout.h"
#include "tests/property/shard_checkpoint.h"
#include "worker/forward/weights.h"
#include "worker/verify/golden_case.h"
#include "worker/verify/prompt_runner.h"

namespace alphecca::model {
namespace {

namespace fs = std::filesystem;
using kernels::DType;

struct Case {
  const char* checkpoint;
  int tp;
  int ep;
  WeightType weights;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.checkpoint << " tp " << c.tp << " ep " << c.ep << " " << WeightTypeName(c.weights);
}

// A path of its own, removed at the end.
class Output {
 public:
  Output() { fs::remove_all(path_); }
  ~Output() { fs::remove_all(path_); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_ = testing::TempDir() +
                      absl::StrReplaceAll(testing::UnitTest::GetInstance()->current_test_info()->name(), {{"/", "-"}}) +
                      ".laid-out";
};

absl::Status LayOut(const Checkpoint& source, WeightType weights, int tp, int ep, const std::string& out) {
  const ConvertOptions options = {.weights = weights, .tp = tp, .ep = ep, .out = out, .threads = 2};
  return weights == WeightType::kSFP8 ? ConvertToSafetensors(source, options) : ConvertToGguf(source, {}, options);
}

class PlanLayoutTest : public testing::TestWithParam<Case> {};

TEST_P(PlanLayoutTest, RunsAsItsSourceDoesUnderThePlan) {
  const Case c = GetParam();
  const auto golden = verify::ReadGoldenCase(std::string(ALPHECCA_TEST_DATA "/goldens/") + c.checkpoint);
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto source = Checkpoint::Open(golden->checkpoint);
  ASSERT_TRUE(source.ok()) << source.status();
  const Output out;
  const absl::Status status = LayOut(**source, c.weights, c.tp, c.ep, out.path());
  ASSERT_TRUE(status.ok()) << status;
  const auto written = Checkpoint::Open(out.path());
  ASSERT_TRUE(written.ok()) << written.status();

  verify::GroupOptions options = {.sharding = {.tp = c.tp, .ep = c.ep}};
  options.context = verify::LongestSequence(*golden);
  const auto got = verify::RunPrompts(**written, *golden, options, verify::Continue::kFreely);
  ASSERT_TRUE(got.ok()) << got.status();
  options.weights = c.weights;
  const auto want = verify::RunPrompts(**source, *golden, options, verify::Continue::kFreely);
  ASSERT_TRUE(want.ok()) << want.status();
  const std::vector<verify::PromptRun>& runs = got->front();
  ASSERT_EQ(runs.size(), want->front().size());
  for (size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ(runs[i].ids, want->front()[i].ids);
    EXPECT_EQ(runs[i].step_logits, want->front()[i].step_logits) << "prompt " << i;
  }
}

// Tables are written in the type too, so that with q4_0 the runs of models with per-layer embeddings would differ.
INSTANTIATE_TEST_SUITE_P(
    Cases, PlanLayoutTest,
    testing::Values(Case{"dense-31b-shape", 2, 1, WeightType::kBF16}, Case{"dense-31b-shape", 4, 1, WeightType::kQ4_0},
                    Case{"dense-31b-shape", 2, 1, WeightType::kSFP8}, Case{"moe-26b-shape", 2, 2, WeightType::kBF16},
                    Case{"moe-26b-shape", 4, 2, WeightType::kSFP8}, Case{"moe-26b-shape", 2, 4, WeightType::kQ4_0},
                    Case{"moe-26b-shape", 1, 4, WeightType::kBF16}, Case{"edge-e2b-shape", 2, 1, WeightType::kBF16},
                    Case{"edge-e4b-shape", 2, 1, WeightType::kBF16}, Case{"gemma3-270m-shape", 2, 1, WeightType::kBF16},
                    Case{"all-features", 2, 2, WeightType::kBF16}));

constexpr int64_t kPage = 4096;

class Pages {
 public:
  void Add(const std::byte* data, int64_t bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    for (uintptr_t page = begin / kPage; bytes > 0 && page <= (begin + static_cast<uintptr_t>(bytes) - 1) / kPage;
         ++page) {
      pages_.insert(page);
    }
  }
  int64_t bytes() const { return static_cast<int64_t>(pages_.size()) * kPage; }

 private:
  std::set<uintptr_t> pages_;
};

// Adds the pages that hold a source, strip by strip; returns its bytes.
int64_t AddSource(const kernels::PackSource& source, Pages& pages) {
  const kernels::HostTensor& t = source.tensor;
  const int64_t strip = kernels::RowBytes(t.type, source.cols.size());
  int64_t bytes = 0;
  for (int64_t item = source.items.begin; item < source.items.end; ++item) {
    for (int64_t row = source.rows.begin; row < source.rows.end; ++row, bytes += strip) {
      const int64_t at = item * t.rows + row;
      pages.Add(t.data + at * kernels::RowBytes(t.type, t.cols) + kernels::RowBytes(t.type, source.cols.begin), strip);
      if (t.scales != nullptr) {
        pages.Add(reinterpret_cast<const std::byte*>(t.scales + at), sizeof(float));
        bytes += static_cast<int64_t>(sizeof(float));
      }
    }
  }
  return bytes;
}

// The most that a rank reads in pages, over what it loads.
double PagesOverBytes(const Checkpoint& checkpoint, int tp, int ep, WeightType weights) {
  const auto plan = MakeShardPlan(checkpoint, {tp, ep}, weights);
  EXPECT_TRUE(plan.ok()) << plan.status();
  double worst = 0.0;
  for (const RankShard& shard : plan->ranks) {
    RecordingBackend backend;
    const auto loaded = forward::LoadWeights(checkpoint, *plan, shard.rank, backend, weights, nullptr);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    Pages pages;
    int64_t bytes = 0;
    for (const RecordingBackend::Packed& packed : backend.packed) {
      bytes += AddSource(packed.source, pages);
    }
    for (const TensorSlice& slice : ShardSlices(checkpoint.config(), *plan, shard.rank)) {
      if (HoldingOf(slice.kind) == Holding::kVector) {  // read, not packed
        bytes += AddSource(*checkpoint.Cut(slice), pages);
      }
    }
    EXPECT_GT(bytes, 200 * kPage) << "too little for pages to tell";
    worst = std::max(worst, static_cast<double>(pages.bytes()) / static_cast<double>(bytes));
  }
  return worst;
}

ModelConfig Shape(bool moe) {
  ModelConfig config;
  config.hidden = 512;
  config.heads = 8;
  config.vocab = 4096;
  config.sliding_window = 8;
  config.context = 256;
  config.rope_sliding.rotating = config.rope_full.rotating = 32;
  if (moe) {
    config.experts = 8;
    config.experts_per_token = 2;
    config.expert_width = 256;
  } else {
    config.per_layer_width = 32;
    config.per_layer_vocab = 4096;
  }
  for (int i = 0; i < 2; ++i) {
    config.layers.push_back(
        {.full_attention = i == 1, .kv_heads = i == 1 ? 1 : 4, .head_dim = 64, .mlp_width = 2048, .kv_source = i});
  }
  return config;
}

TEST(PlanLayoutPagesTest, ARankReadsItsOwnPages) {
  std::mt19937 random(5);
  for (const bool moe : {false, true}) {
    const Output whole;
    const RandomCheckpoint random_checkpoint(Shape(moe), DType::kBF16, false, random);
    ConvertOptions options = {.weights = WeightType::kBF16, .out = whole.path()};
    const absl::Status status = ConvertToGguf(random_checkpoint, {}, options);
    ASSERT_TRUE(status.ok()) << status;
    const auto source = Checkpoint::Open(whole.path());
    ASSERT_TRUE(source.ok()) << source.status();
    const std::vector<std::pair<int, int>> plans =
        moe ? std::vector<std::pair<int, int>>{{4, 4}, {4, 2}, {2, 4}, {4, 1}}
            : std::vector<std::pair<int, int>>{{2, 1}, {4, 1}};
    for (const auto& [tp, ep] : plans) {
      for (const WeightType weights : {WeightType::kBF16, WeightType::kQ4_0}) {
        options = {.weights = weights, .tp = tp, .ep = ep, .out = whole.path() + "-parts"};
        options.force = true;
        ASSERT_TRUE(ConvertToGguf(**source, {}, options).ok());
        const auto laid_out = Checkpoint::Open(options.out);
        ASSERT_TRUE(laid_out.ok()) << laid_out.status();
        const double before = PagesOverBytes(**source, tp, ep, weights);
        const double after = PagesOverBytes(**laid_out, tp, ep, WeightType::kAsFile);
        EXPECT_LE(after, 1.05) << "tp " << tp << " ep " << ep;
        EXPECT_GT(before, 1.2) << "tp " << tp << " ep " << ep << ": nothing to gain here";
        fs::remove(options.out);
      }
    }
  }
}

}  // namespace
}  // namespace alphecca::model

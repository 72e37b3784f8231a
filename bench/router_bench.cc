// A routing decision with a million KV blocks known of 16 groups, for a prompt of 8,193 tokens (512 blocks of 16): how
// long it takes by how much of the prompt is cached where. 2,000 prompts take turns, so that the blocks of one have
// left the caches by its next turn. Beside it the hashing of such a prompt alone, and the taking in of a leader's
// events.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bench/registry.h"
#include "coordinator/routing/router.h"

namespace {

using alphecca::GroupId;
using alphecca::SequenceId;
using alphecca::coordinator::GroupClient;
using alphecca::coordinator::GroupLoad;
using alphecca::coordinator::PrefixIndex;
using alphecca::coordinator::Router;
using alphecca::coordinator::SequenceSink;
using alphecca::coordinator::SequenceSpec;
using alphecca::model::BlockHash;
using alphecca::model::PrefixHasher;

constexpr alphecca::model::PrefixKey kKey = {1, 2};
constexpr int kBlockTokens = 16;
constexpr int kGroups = 16;
constexpr int32_t kPrompts = 2000;
constexpr size_t kTokens = 512 * kBlockTokens + 1;

class IdleGroup : public GroupClient {
 public:
  explicit IdleGroup(std::shared_ptr<const PrefixIndex::Holder> holder) : holder_(std::move(holder)) {}
  absl::Status Open(SequenceSpec, std::shared_ptr<SequenceSink>) override { return absl::OkStatus(); }
  void Cancel(SequenceId) override {}
  void Credit(SequenceId, int32_t) override {}
  GroupLoad load() const override { return {}; }
  bool connected() const override { return true; }
  std::shared_ptr<const PrefixIndex::Holder> prefixes() const override { return holder_; }
  const std::string& fingerprint() const override { return fingerprint_; }

 private:
  const std::shared_ptr<const PrefixIndex::Holder> holder_;
  const std::string fingerprint_ = "bench";
};

// Prompts differ in their first token, and so in all their blocks.
std::vector<int32_t> Prompt(int32_t number) {
  std::vector<int32_t> prompt(kTokens);
  for (size_t i = 0; i < kTokens; ++i) {
    prompt[i] = static_cast<int32_t>(i * 7919 % 262144);
  }
  prompt[0] = number;
  return prompt;
}

struct Cluster {
  std::shared_ptr<PrefixIndex> index = std::make_shared<PrefixIndex>(kKey);
  std::vector<std::shared_ptr<const PrefixIndex::Holder>> holders;
  Router router{index};
};

// Each prompt's blocks on `copies` of the groups.
std::unique_ptr<Cluster> MakeCluster(int copies) {
  auto cluster = std::make_unique<Cluster>();
  for (int group = 0; group < kGroups; ++group) {
    cluster->holders.push_back(cluster->index->Add("bench", kBlockTokens));
    cluster->router.Add("m", GroupId(static_cast<uint64_t>(group) + 1),
                        std::make_shared<IdleGroup>(cluster->holders.back()));
  }
  const PrefixHasher hasher(kKey, "bench", kBlockTokens);
  for (int32_t number = 0; number < kPrompts; ++number) {
    const std::vector<BlockHash> blocks = hasher.Blocks("t", Prompt(number));
    for (int copy = 0; copy < copies; ++copy) {
      cluster->holders[static_cast<size_t>((number + copy) % kGroups)]->Apply({}, blocks);
    }
  }
  return cluster;
}

// Of each prompt the first `known` blocks are those of a cached one.
void Decide(benchmark::State& state, int copies, size_t known) {
  static std::unique_ptr<Cluster> cluster;  // of one kind at a time: each takes a second to make
  static int cluster_copies = 0;
  if (cluster_copies != copies) {
    cluster = MakeCluster(copies);
    cluster_copies = copies;
  }
  std::vector<int32_t> prompt = Prompt(0);
  if (known * kBlockTokens < kTokens - 1) {
    prompt[known * kBlockTokens + 1] = -1;
  }
  int32_t next = 0;
  for ([[maybe_unused]] auto _ : state) {
    prompt[0] = next++ % kPrompts;
    const auto route = cluster->router.Pick({.model = "m", .tenant = "t", .prompt = prompt});
    if (!route.ok() || route->cached_tokens != static_cast<int64_t>(known) * kBlockTokens) {
      state.SkipWithError("the prefix was not found");
      return;
    }
  }
  const PrefixIndex::Size size = cluster->index->size();
  state.counters["blocks"] = static_cast<double>(size.blocks);
  state.counters["bytes_per_block"] = static_cast<double>(size.bytes) / static_cast<double>(size.blocks);
}

void Hash(benchmark::State& state) {
  const PrefixHasher hasher(kKey, "bench", kBlockTokens);
  const std::vector<int32_t> prompt = Prompt(1);
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(hasher.Blocks("t", prompt));
  }
}

// What a step of a busy group may bring: 64 blocks lost, 64 gained.
void TakeEvents(benchmark::State& state) {
  const std::unique_ptr<Cluster> cluster = MakeCluster(1);
  const PrefixHasher hasher(kKey, "bench", kBlockTokens);
  const std::vector<BlockHash> blocks = hasher.Blocks("t", Prompt(kPrompts));
  const std::span<const BlockHash> all(blocks);
  cluster->holders[0]->Apply({}, all.first(64));
  size_t at = 0;
  for ([[maybe_unused]] auto _ : state) {
    const size_t next = (at + 64) % 512;
    cluster->holders[0]->Apply(all.subspan(at, 64), all.subspan(next, 64));
    at = next;
  }
}

}  // namespace

int main(int argc, char** argv) {
  using alphecca::bench::Register;
  Register("hash/512_blocks", Hash);
  Register("decide/none_cached", [](benchmark::State& state) { Decide(state, 1, 0); });
  Register("decide/half_cached_on_one", [](benchmark::State& state) { Decide(state, 1, 256); });
  Register("decide/all_cached_on_one", [](benchmark::State& state) { Decide(state, 1, 512); });
  Register("decide/all_cached_on_16", [](benchmark::State& state) { Decide(state, kGroups, 512); });
  Register("events/64_removed_64_stored", TakeEvents);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

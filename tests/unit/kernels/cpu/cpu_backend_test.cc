// Every op case against the reference, on each instruction set of this machine and in both ways to treat activations.
#include "kernels/cpu/cpu_backend.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "common/cpus.h"
#include "kernels/check.h"
#include "tests/unit/kernels/cpu/cpu_paths.h"
#include "tests/unit/kernels/op_cases.h"
#include "tests/unit/kernels/step_maker.h"

namespace alphecca::kernels::cpu {
namespace {

class CpuBackendTest : public testing::TestWithParam<CpuPath> {};

TEST_P(CpuBackendTest, EveryOpCaseAgreesWithTheReference) {
  for (const OpCase& op_case : AllOpCases()) {
    const std::unique_ptr<CpuBackend> backend = GetParam().Create();
    EXPECT_EQ(RunOpCase(op_case, *backend), "") << op_case.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, CpuBackendTest, testing::ValuesIn(AllPaths({1, 3})),
                         [](const auto& path) { return path.param.Name(); });

// Attention over many chunks of keys, where few rows make threads share a row's keys; products past a tile of rows.
TEST(CpuBackendOnLongInputs, AttentionAgreesWithTheReference) {
  const OpCase long_case = {
      "Attend", "Attend_long", [](OpRun& run) {
        constexpr int kKeys = 700;
        const KvPoolSpec spec = {.layers = {{1, 64}},
                                 .block_tokens = 24,
                                 .num_blocks = 30,
                                 .num_slots = 1,
                                 .max_blocks_per_slot = 30,
                                 .type = DType::kF32};
        KvPool* pool = run.Pool(spec);
        std::vector<BlockTableUpdate> table;
        for (int32_t i = 0; i < 30; ++i) {
          table.push_back({0, i, 29 - i});
        }
        StepMaker maker;
        maker.tables[kFullPool] = table;
        maker.Row(1, 0, kKeys - 1);
        maker.full.back() = {37, kKeys - 1};
        const Step& step = run.Upload(maker.Input(), pool, nullptr);
        const std::vector<float> key = run.Normal(int64_t{kKeys} * 64);
        const std::vector<float> value = run.Normal(int64_t{kKeys} * 64);
        ASSERT_TRUE(run.backend().KvImport(run.stream(), *pool, 0, 0, {0, kKeys}, key, value).ok());
        const Tensor out = run.Empty(1, 5 * 64);
        run.backend().Attend(
            run.stream(), step,
            {.q = run.Random(1, 5 * 64, 0, 0.25), .heads = 5, .head_dim = 64, .group = 5, .pool = pool, .out = out});
        run.Collect("out", out, SumTolerance(64 + kKeys));
      }};
  for (const CpuPath& path : AllPaths({1, 2, 4}, {Activations::kDefault})) {
    const std::unique_ptr<CpuBackend> backend = path.Create();
    EXPECT_EQ(RunOpCase(long_case, *backend), "") << path.Name();
  }
}

// More rows than a tile of queries, over parts that some of them do not see.
TEST(CpuBackendOnLongInputs, AttentionOfAChunkAgreesWithTheReference) {
  constexpr int kKeys = 300;
  constexpr int kRows = 40;
  constexpr int kWidth = 96;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kQ8_0}) {
    const OpCase chunk_case = {
        "Attend", "Attend_chunk_" + TypeName(type), [type](OpRun& run) {
          const KvPoolSpec spec = {.layers = {{2, kWidth}},
                                   .block_tokens = 32,
                                   .num_blocks = 10,
                                   .num_slots = 1,
                                   .max_blocks_per_slot = 10,
                                   .type = type};
          KvPool* pool = run.Pool(spec);
          StepMaker maker;
          for (int32_t i = 0; i < 10; ++i) {
            maker.tables[kFullPool].push_back({0, i, 9 - i});
          }
          for (int32_t t = 0; t < kRows; ++t) {
            const int32_t position = kKeys - kRows + t;
            maker.Row(1, 0, position);
            maker.full.back() = {t % 2 == 0 ? 0 : position - 50, position};
          }
          const Step& step = run.Upload(maker.Input(), pool, nullptr);
          const std::vector<float> key = run.Normal(int64_t{2} * kKeys * kWidth);
          const std::vector<float> value = run.Normal(int64_t{2} * kKeys * kWidth);
          ASSERT_TRUE(run.backend().KvImport(run.stream(), *pool, 0, 0, {0, kKeys}, key, value).ok());
          const Tensor out = run.Empty(kRows, 6 * kWidth);
          run.backend().Attend(run.stream(), step,
                               {.q = run.Random(kRows, 6 * kWidth, 0, 0.2),
                                .heads = 6,
                                .head_dim = kWidth,
                                .group = 3,
                                .pool = pool,
                                .out = out});
          run.Collect("out", out, SumTolerance(kWidth + kKeys));
        }};
    for (const CpuPath& path : AllPaths({1, 2}, {Activations::kDefault})) {
      const std::unique_ptr<CpuBackend> backend = path.Create();
      EXPECT_EQ(RunOpCase(chunk_case, *backend), "") << path.Name();
    }
  }
}

TEST(CpuBackendOnLongInputs, ProductsAgreeWithTheReference) {
  const OpCase long_case = {"MatMul", "MatMul_many_rows", [](OpRun& run) {
                              for (const DType type : {DType::kBF16, DType::kQ4_0}) {
                                const Tensor in = run.Random(301, 256);
                                const Tensor out = run.Empty(301, 50);
                                run.backend().MatMul(run.stream(),
                                                     {.in = in, .matrix = &run.Weights(1, 50, 256, type), .out = out});
                                run.Collect("out", out, ProductTolerance(run.backend(), type, 256));
                              }
                            }};
  for (const CpuPath& path : AllPaths({2})) {
    const std::unique_ptr<CpuBackend> backend = path.Create();
    EXPECT_EQ(RunOpCase(long_case, *backend), "") << path.Name();
  }
}

// A vocabulary of several pieces, unfiltered noise over all of it; each row plain and adjusted.
TEST(CpuBackendOnLongInputs, CandidatesAgreeWithTheReference) {
  const OpCase long_case = {
      "Candidates", "Candidates_long", [](OpRun& run) {
        constexpr int32_t kVocab = 40003;
        std::vector<SamplingRow> rows = {{.seed = 5},
                                         {.seed = 6, .position = 4, .temperature = 1.0F, .wanted = 39999},
                                         {.seed = 7, .position = 5, .sample = 1, .temperature = 0.2F},
                                         {.seed = 8, .position = 6, .temperature = 5.0F},
                                         {.seed = 9, .position = 7, .temperature = 1.0F, .top_p = 0.9F}};
        LogitRules rules;
        rules.repetition_penalty = 1.5F;
        for (int32_t token = 0; token < kVocab; token += 11) {
          rules.history.push_back({token, 1, false});
        }
        rules.suppressed = {{10000, 30000}};
        StepMaker maker;
        maker.mask_words = MaskWords(kVocab);
        for (int64_t i = 0; i < maker.mask_words; ++i) {
          maker.masks.push_back(i % 3 == 0 ? 0U : static_cast<uint32_t>(run.random()()));
        }
        const auto plain = static_cast<int32_t>(rows.size());
        for (int32_t r = 0; r < 2 * plain; ++r) {
          SamplingRow row = rows[static_cast<size_t>(r % plain)];
          row.slot = r;
          if (r >= plain) {
            row.top_logprobs = 3;
            row.rules = r % 2;
            row.mask = r % 3 == 0 || row.rules == 0 ? 0 : -1;
            maker.opens.push_back({.slot = r, .rules = &rules});
            rows.push_back(row);
          }
          maker.Row(0, r, 0);
          maker.Sample(r, row);
        }
        Check(run.backend().ReserveSlots(2 * plain).ok(), "ReserveSlots of a test");
        const Step& step = run.Upload(maker.Input(), nullptr, nullptr);
        const int count = CandidateCount(rows);
        const int64_t floats = CandidateRecordBytes(count) / 4;
        const Tensor out = run.Empty(2 * plain, floats);
        run.backend().Candidates(
            run.stream(), step,
            {.logits = run.Random(2 * plain, 40000, 0, 4.0), .first_token = 3, .count = count, .out = out.data});
        std::vector<float> records = run.Get(out);
        OpOutput sums = {"sums", {}, 1, 1e-5, 0.0};
        for (int64_t r = 0; r < 2 * plain; ++r) {
          const auto at = static_cast<size_t>(r * floats);
          sums.values.push_back(records[at + 1]);
          records[at + 1] = 0.0F;
          if (r % plain > 0) {  // not greedy
            sums.values.push_back(records[at + 3]);
          }
          records[at + 3] = 0.0F;
        }
        // Token ids are small enough to be denormal floats, which compare as well as any.
        run.CollectValues({"all but sums", records, 1, 0.0, 0.0});
        run.CollectValues(sums);
      }};
  for (const CpuPath& path : AllPaths({1, 2})) {
    const std::unique_ptr<CpuBackend> backend = path.Create();
    EXPECT_EQ(RunOpCase(long_case, *backend), "") << path.Name();
  }
}

TEST(CpuBackendCreation, ForcedInstructionSetIsUsed) {
  ASSERT_EQ(setenv("ALPHECCA_CPU_ISA", "scalar", 1), 0);
  EXPECT_EQ(CreateCpuBackend({})->IsaPath(), "scalar");
  ASSERT_EQ(setenv("ALPHECCA_CPU_ISA", "no such set", 1), 0);
  EXPECT_EQ(CreateCpuBackend({})->IsaPath(), SupportedKernels().back()->name);
  ASSERT_EQ(unsetenv("ALPHECCA_CPU_ISA"), 0);
  EXPECT_EQ(CreateCpuBackend({})->IsaPath(), SupportedKernels().back()->name);
}

TEST(CpuBackendCreation, NamesItselfAndItsOptions) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.activations = Activations::kF32, .threads = 2});
  EXPECT_EQ(backend->Name(), "cpu");
  EXPECT_EQ(backend->activations(), Activations::kF32);
}

// Of `rows` rows the last has a bad number, which must not turn into one on the way through int8, nor into the others'.
void ExpectBadRowAlone(const CpuPath& path, DType type, int64_t rows, float bad) {
  constexpr int64_t kCols = 256;
  const std::unique_ptr<CpuBackend> backend = path.Create();
  OpRun run(*backend, 1);
  std::vector<float> values = run.Normal(rows * kCols);
  values[static_cast<size_t>((rows - 1) * kCols + 40)] = bad;
  const Tensor out = run.Empty(rows, 3);
  backend->MatMul(run.stream(),
                  {.in = run.Put(values, rows, kCols), .matrix = &run.Weights(1, 3, kCols, type), .out = out});
  const std::vector<float> got = run.Get(out);
  for (size_t i = 0; i < got.size(); ++i) {
    const bool last = static_cast<int64_t>(i) / 3 == rows - 1;
    EXPECT_EQ(std::isfinite(got[i]), !last)
        << path.Name() << ", " << TypeName(type) << ", row " << i / 3 << " of " << rows << ", of " << bad;
  }
}

TEST(CpuBackendOnBadNumbers, NanActivationGivesNan) {
  for (const CpuPath& path : AllPaths({1})) {
    for (const DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
      for (const int64_t rows : {1, 6, 16}) {
        for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
          ExpectBadRowAlone(path, type, rows, bad);
        }
      }
    }
  }
}

// Threads of this process that may run on one CPU only.
int PinnedThreads() {
  int pinned = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    cpu_set_t set;
    CPU_ZERO(&set);
    EXPECT_EQ(sched_getaffinity(std::stoi(task.path().filename()), sizeof set, &set), 0);
    pinned += CPU_COUNT(&set) == 1 ? 1 : 0;
  }
  return pinned;
}

TEST(CpuBackendThreads, ArePinnedOnlyIfAskedAndAsManyAsCpus) {
  const int cpus = static_cast<int>(AllowedCpus().size());
  if (cpus < 2) {
    GTEST_SKIP() << "one CPU: all threads share it";
  }
  for (const int threads : {cpus - 1, cpus, cpus + 1}) {
    for (const bool pin : {false, true}) {
      const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = threads, .pin_threads = pin});
      EXPECT_EQ(PinnedThreads(), pin && threads == cpus ? cpus - 1 : 0) << threads << " threads of " << cpus << " CPUs";
    }
  }
}

}  // namespace
}  // namespace alphecca::kernels::cpu

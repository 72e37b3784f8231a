// Sampling of the CPU backend over Gemma's vocabulary: Candidates and Choose of one rank, one row a step. Greedy and
// unfiltered rows, Gemma's own defaults, and the same with what changes logits: suppressed tokens (as every served
// request has), penalties on a history of 4,096 tokens with 1,024 biases, a mask.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/registry.h"
#include "kernels/cpu/cpu_backend.h"

namespace {

using alphecca::kernels::Buffer;
using alphecca::kernels::CandidateRecordBytes;
using alphecca::kernels::ChoiceBytes;
using alphecca::kernels::DType;
using alphecca::kernels::KeyRange;
using alphecca::kernels::LogitRules;
using alphecca::kernels::MaskWords;
using alphecca::kernels::SamplingRow;
using alphecca::kernels::SlotOpening;
using alphecca::kernels::StepInput;

constexpr int64_t kVocab = 262144;

enum class Changes { kNone, kSuppressed, kPenalties, kMask };

LogitRules RulesFor(Changes changes) {
  LogitRules rules;
  if (changes == Changes::kSuppressed || changes == Changes::kPenalties) {
    rules.suppressed = {{0, 4}, {258000, 260000}, {261000, static_cast<int32_t>(kVocab)}};
  }
  if (changes == Changes::kPenalties) {
    rules.repetition_penalty = 1.1F;
    rules.frequency_penalty = 0.5F;
    for (int32_t i = 0; i < 4096; ++i) {
      rules.history.push_back({i * 60 + 5, i % 3, i % 3 == 0});
    }
    for (int32_t i = 0; i < 1024; ++i) {
      rules.bias.push_back({i * 250 + 7, 1.0F});
    }
  }
  return rules;
}

std::unique_ptr<Buffer> Room(alphecca::kernels::Backend& backend, int64_t bytes) {
  auto buffer = backend.Allocate(bytes);
  if (!buffer.ok()) {
    std::abort();
  }
  return *std::move(buffer);
}

void Sample(benchmark::State& state, SamplingRow row, Changes changes, int threads) {
  const auto backend = alphecca::kernels::CreateCpuBackend({.threads = threads});
  const auto stream = backend->CreateStream();
  if (!backend->ReserveSlots(1).ok()) {
    std::abort();
  }
  const LogitRules rules = RulesFor(changes);
  row.rules = rules.Empty() ? 0 : 1;
  row.mask = changes == Changes::kMask ? 0 : -1;
  std::mt19937 random(1);
  std::vector<float> values(kVocab);
  for (float& v : values) {
    v = -3.0F * std::log(static_cast<float>(random() | 1U) * 0x1p-32F) - 10.0F;  // a few tokens far above the rest
  }
  const auto logits = Room(*backend, kVocab * 4);
  backend->Write(*stream, *logits, 0, std::as_bytes(std::span(values)));
  const std::vector<int32_t> zero = {0};
  const std::vector<KeyRange> keys(1);
  const std::vector<SlotOpening> opens = {{.slot = 0, .rules = &rules}};
  std::vector<uint32_t> mask(static_cast<size_t>(MaskWords(kVocab)));
  for (uint32_t& word : mask) {
    word = random() % 4 == 0 ? static_cast<uint32_t>(random()) : 0U;
  }
  StepInput input;
  input.tokens = input.positions = input.slots = input.logit_rows = zero;
  input.full = input.sliding = keys;
  input.sampling = std::span(&row, 1);
  input.opens = opens;
  if (changes == Changes::kMask) {
    input.masks = mask;
    input.mask_words = MaskWords(kVocab);
  }
  const auto step = backend->Upload(*stream, input, nullptr, nullptr);
  const int count = alphecca::kernels::CandidateCount(std::span<const SamplingRow>(&row, 1));
  const auto record = Room(*backend, CandidateRecordBytes(count));
  const auto choice = Room(*backend, ChoiceBytes(count));
  for ([[maybe_unused]] auto _ : state) {
    backend->Candidates(*stream, *step,
                        {.logits = {logits->data, DType::kF32, 1, kVocab, kVocab},
                         .first_token = 0,
                         .count = count,
                         .out = record->data});
    backend->Choose(*stream, *step, {.records = record->data, .ranks = 1, .count = count, .out = choice->data});
  }
  state.SetBytesProcessed(state.iterations() * kVocab * 4);
}

}  // namespace

int main(int argc, char** argv) {
  struct Named {
    const char* name;
    SamplingRow row;
  };
  const Named rows[] = {{"greedy", {}},
                        {"unfiltered", {.seed = 1, .temperature = 1.0F}},
                        {"defaults", {.seed = 1, .temperature = 1.0F, .top_k = 64, .top_p = 0.95F}},
                        {"top_p", {.seed = 1, .temperature = 1.0F, .top_p = 0.95F}}};
  const std::pair<const char*, Changes> changes[] = {{"plain", Changes::kNone},
                                                     {"suppressed", Changes::kSuppressed},
                                                     {"penalties", Changes::kPenalties},
                                                     {"mask", Changes::kMask}};
  for (const int threads : {1, 2}) {
    for (const Named& row : rows) {
      for (const auto& [name, change] : changes) {
        alphecca::bench::Register(std::string(row.name) + "/" + name + "/threads" + std::to_string(threads),
                                  [way = row.row, change = change, threads](benchmark::State& state) {
                                    Sample(state, way, change, threads);
                                  });
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

// Candidates and Choose, and the memory of what slots sampled.
#include <cstring>
#include <span>

#include "kernels/check.h"
#include "tests/unit/kernels/op_cases.h"
#include "tests/unit/kernels/step_maker.h"

namespace alphecca::kernels {
namespace {

struct SampleCase {
  std::string name;
  SamplingRow row;
};

std::vector<SampleCase> Rows() {
  return {
      {"greedy", {.seed = 1}},
      {"greedy_listing", {.seed = 1, .top_logprobs = 5, .wanted = 7}},
      {"plain", {.seed = 42, .position = 9, .temperature = 1.0F}},
      {"plain_cool", {.seed = 43, .position = 9, .sample = 2, .temperature = 0.3F, .wanted = 70}},
      {"plain_hot", {.seed = 44, .position = 1000, .temperature = 3.0F}},
      {"top_k", {.seed = 45, .position = 3, .temperature = 1.0F, .top_k = 10}},
      {"top_p", {.seed = 46, .position = 3, .temperature = 1.5F, .top_p = 0.8F, .top_logprobs = 20}},
      {"min_p", {.seed = 47, .position = 3, .temperature = 0.9F, .min_p = 0.1F}},
      {"all", {.seed = 48, .position = 3, .temperature = 1.2F, .top_k = 40, .top_p = 0.95F, .min_p = 0.02F}},
  };
}

void CollectRecords(OpRun& run, const void* records, int64_t rows, int count) {
  std::vector<std::byte> bytes(static_cast<size_t>(rows * CandidateRecordBytes(count)));
  Check(run.backend().Read(run.stream(), records, bytes).ok(), "reading candidates");
  OpOutput exact{"best and candidates", {}, 1, 0.0, 0.0};
  OpOutput sums{"sums", {}, 1, SumTolerance(64), 0.0};
  for (int64_t r = 0; r < rows; ++r) {
    const std::byte* record = bytes.data() + r * CandidateRecordBytes(count);
    CandidateHead head;
    std::memcpy(&head, record, sizeof head);
    for (const float v : {head.max, head.max_scaled, head.best_score, static_cast<float>(head.best_token),
                          head.best_logit, head.wanted_logit}) {
      exact.values.push_back(v);
    }
    sums.values.push_back(head.sum);
    for (int i = 0; i < count; ++i) {
      Candidate c;
      std::memcpy(&c, record + sizeof head + static_cast<size_t>(i) * sizeof c, sizeof c);
      exact.values.push_back(static_cast<float>(c.token));
      exact.values.push_back(c.token >= 0 ? c.logit : 0.0F);
    }
  }
  run.CollectValues(std::move(exact));
  run.CollectValues(std::move(sums));
}

void CollectChoices(OpRun& run, const void* choices, int64_t rows, int count) {
  std::vector<std::byte> bytes(static_cast<size_t>(rows * ChoiceBytes(count)));
  Check(run.backend().Read(run.stream(), choices, bytes).ok(), "reading choices");
  OpOutput tokens{"tokens", {}, 1, 0.0, 0.0};
  OpOutput logprobs{"log-probabilities", {}, 1, SumTolerance(64), 1.0};
  for (int64_t r = 0; r < rows; ++r) {
    const std::byte* record = bytes.data() + r * ChoiceBytes(count);
    Choice choice;
    std::memcpy(&choice, record, sizeof choice);
    tokens.values.push_back(static_cast<float>(choice.token));
    tokens.values.push_back(static_cast<float>(choice.listed));
    logprobs.values.push_back(choice.logprob);
    logprobs.values.push_back(choice.wanted_logprob);
    for (int i = 0; i < choice.listed; ++i) {
      Candidate c;
      std::memcpy(&c, record + sizeof choice + static_cast<size_t>(i) * sizeof c, sizeof c);
      tokens.values.push_back(static_cast<float>(c.token));
      logprobs.values.push_back(c.logit);
    }
  }
  run.CollectValues(std::move(tokens));
  run.CollectValues(std::move(logprobs));
}

// Rules of four kinds, by slot, over a vocabulary of at least 40; the last has none.
LogitRules RulesOf(int64_t slot, int64_t vocab) {
  LogitRules rules;
  if (slot % 4 == 0) {
    rules.repetition_penalty = 1.4F;
    rules.presence_penalty = 0.5F;
    rules.frequency_penalty = 0.3F;
    for (int32_t token = 0; token < vocab; token += 3) {
      rules.history.push_back({token, token % 4, token % 4 == 0});
    }
  }
  if (slot % 4 <= 1) {
    for (int32_t token = 1; token < vocab && rules.bias.size() < kMaxBiases; token += 2) {
      rules.bias.push_back({token, static_cast<float>(token % 7) - 3.0F});
    }
  }
  if (slot % 4 <= 2) {
    rules.suppressed = {{5, 30}, {static_cast<int32_t>(vocab) - 2, static_cast<int32_t>(vocab)}};
  }
  Check(CheckLogitRules(rules, vocab).ok(), "rules of a test");
  return rules;
}

// `steps` steps of rows that follow rules, masks or both, so that what is sampled counts in those that follow; slots
// open in the first and, with other rules, in the last.
void RunRules(OpRun& run, std::vector<SamplingRow> rows, int64_t vocab, int ranks, int steps) {
  const auto n = static_cast<int64_t>(rows.size());
  Check(run.backend().ReserveSlots(static_cast<int>(n)).ok(), "ReserveSlots of a test");
  std::vector<LogitRules> rules;
  for (int64_t slot = 0; slot < 2 * n; ++slot) {
    rules.push_back(RulesOf(slot < n ? slot : slot + 1, vocab));
  }
  for (int step = 0; step < steps; ++step) {
    StepMaker maker;
    maker.mask_words = MaskWords(vocab);
    for (int64_t i = 0; i < 2 * maker.mask_words; ++i) {
      maker.masks.push_back(i % 3 == 0 ? 0U : static_cast<uint32_t>(run.random()()) | 1U);
    }
    for (int64_t r = 0; r < n; ++r) {
      const auto slot = static_cast<int32_t>(r);
      SamplingRow row = rows[static_cast<size_t>(r)];
      const bool reopens = step == steps - 1;
      const LogitRules& of_slot = rules[static_cast<size_t>(reopens ? n + r : r)];
      row.slot = slot;
      row.position += step;
      row.rules = of_slot.Empty() ? 0 : 1;
      row.mask = r % 3 == 0 ? -1 : static_cast<int32_t>(r % 2);
      maker.Row(0, slot, step);
      maker.Sample(slot, row);
      if (step == 0 || reopens) {
        maker.opens.push_back({.slot = slot, .rules = &of_slot});
      }
    }
    const Step& uploaded = run.Upload(maker.Input(), nullptr, nullptr);
    const int count = CandidateCount(maker.sampling);
    const Tensor records = run.Empty(ranks, n * CandidateRecordBytes(count) / 4);
    const Tensor choices = run.Empty(n, ChoiceBytes(count) / 4);
    for (int rank = 0; rank < ranks; ++rank) {
      const int64_t begin = vocab * rank / ranks;
      const int64_t end = vocab * (rank + 1) / ranks;
      void* out = static_cast<float*>(records.data) + rank * records.stride;
      const Tensor logits = run.Random(n, end - begin, 1, 3.0);
      const std::vector<float> before = run.Get(logits);
      run.backend().Candidates(run.stream(), uploaded,
                               {.logits = logits, .first_token = begin, .count = count, .out = out});
      CollectRecords(run, out, n, count);
      Check(run.Get(logits) == before, "logits stay as they are");
    }
    run.backend().Choose(run.stream(), uploaded,
                         {.records = records.data, .ranks = ranks, .count = count, .out = choices.data});
    CollectChoices(run, choices.data, n, count);
  }
}

// One step of `rows`, the vocabulary in `ranks` slices; then an Embed that reads the sampled tokens back.
void RunSample(OpRun& run, std::vector<SamplingRow> rows, int64_t vocab, int ranks, double sigma) {
  const auto n = static_cast<int64_t>(rows.size());
  Check(run.backend().ReserveSlots(static_cast<int>(n)).ok(), "ReserveSlots of a test");
  StepMaker maker;
  for (int32_t r = 0; r < n; ++r) {
    rows[static_cast<size_t>(r)].slot = r;
    maker.Row(0, r, 0);
    maker.Sample(r, rows[static_cast<size_t>(r)]);
  }
  const Step& step = run.Upload(maker.Input(), nullptr, nullptr);
  const int count = CandidateCount(rows);
  const int64_t record_floats = CandidateRecordBytes(count) / 4;
  const Tensor records = run.Empty(ranks, n * record_floats);
  const Tensor choices = run.Empty(n, ChoiceBytes(count) / 4);
  for (int rank = 0; rank < ranks; ++rank) {
    const int64_t begin = vocab * rank / ranks;
    const int64_t end = vocab * (rank + 1) / ranks;
    const Tensor logits = run.Random(n, end - begin, 1, sigma);
    void* out = static_cast<float*>(records.data) + rank * records.stride;
    run.backend().Candidates(run.stream(), step, {.logits = logits, .first_token = begin, .count = count, .out = out});
    CollectRecords(run, out, n, count);
  }
  run.backend().Choose(run.stream(), step,
                       {.records = records.data, .ranks = ranks, .count = count, .out = choices.data});
  CollectChoices(run, choices.data, n, count);

  StepMaker next;
  for (int32_t r = 0; r < n; ++r) {
    next.Row(-1 - r, r, 1);
  }
  const Step& next_step = run.Upload(next.Input(), nullptr, nullptr);
  const Tensor embedded = run.Empty(n, 4);
  run.backend().Embed(run.stream(), next_step, {.matrix = &run.Weights(1, vocab, 4, DType::kF32), .out = embedded});
  run.Collect("rows of the sampled tokens", embedded, 0.0);
}

}  // namespace

void AddSamplingCases(std::vector<OpCase>& cases) {
  std::vector<SamplingRow> all;
  for (const SampleCase& c : Rows()) {
    all.push_back(c.row);
    for (const int ranks : {1, 3}) {
      cases.push_back({"Candidates", "Sample_" + c.name + "_ranks" + std::to_string(ranks),
                       [c, ranks](OpRun& run) { RunSample(run, {c.row}, 1200, ranks, 3.0); }});
    }
  }
  cases.push_back({"Candidates", "Sample_together", [all](OpRun& run) { RunSample(run, all, 1501, 2, 3.0); }});
  cases.push_back({"Candidates", "Sample_small_vocabulary", [all](OpRun& run) { RunSample(run, all, 40, 4, 1.0); }});
  cases.push_back({"Candidates", "Sample_ties", [all](OpRun& run) { RunSample(run, all, 70, 2, 0.0); }});
  cases.push_back({"Candidates", "Sample_empty_slices", [all](OpRun& run) { RunSample(run, all, 3, 5, 1.0); }});
  std::vector<SamplingRow> many = all;  // each way of sampling meets each kind of rules
  for (int i = 0; i < 3; ++i) {
    many.insert(many.end(), all.begin(), all.end());
  }
  for (const int ranks : {1, 3}) {
    const std::string name = "Sample_rules_ranks" + std::to_string(ranks);
    cases.push_back({"Candidates", name, [many, ranks](OpRun& run) { RunRules(run, many, 1501, ranks, 4); }});
  }
  cases.push_back({"Candidates", "Sample_rules_small", [all](OpRun& run) { RunRules(run, all, 45, 2, 12); }});
  std::vector<SamplingRow> report_only = all;
  for (SamplingRow& row : report_only) {
    row.keep = 0;
  }
  cases.push_back(
      {"Candidates", "Sample_report_only", [report_only](OpRun& run) { RunSample(run, report_only, 100, 1, 1.0); }});
}

}  // namespace alphecca::kernels

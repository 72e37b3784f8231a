// One step of a shard group: a flat list of rows that every rank runs in the same order. Made by the leader's engine
// (host only, no device values), sent to the followers before the step runs.
#pragma once

#include <cstdint>
#include <vector>

#include "common/ids.h"
#include "kernels/backend.h"
#include "kernels/sampling.h"

namespace alphecca::engine {

struct PlanRow {
  int32_t token = 0;     // id, or -1 - slot: what this slot sampled in the last step it was in
  int32_t position = 0;  // absolute, 0-based
  int32_t slot = 0;
  int32_t owner = 0;  // wide: rank that computes the row outside its experts, the same for all rows of a slot; else 0
  bool wants_logits = false;
  bool draft = false;  // a proposed token under verification
};

// A slot is opened once with what does not change while a sequence runs.
struct OpenSlot {
  int32_t slot = 0;
  kernels::SamplingRow sampling;  // slot, position, wanted, keep, rules, mask are set by row
  // Their history holds every token of the sequence before its first sampled one: also those that are no rows of any
  // step since their KV was cached, and those that were sampled before the sequence lost its slot.
  kernels::LogitRules rules = {};
};

// Before the rows run, block `from` is copied to `to`, in the order listed: the slot is about to write into a block
// that others still read.
struct BlockCopy {
  int32_t slot = 0;
  int32_t from = 0;
  int32_t to = 0;
};

struct LogitRequest {
  int32_t row = 0;      // index into rows, rising
  int32_t wanted = -1;  // token whose log-probability is asked (prompt_logprobs)
  bool keep = true;     // the sampled token becomes the slot's last
  int32_t mask = -1;    // index into masks: the tokens that may be sampled; -1: all
};

struct StepPlan {
  Epoch epoch{};
  uint64_t step = 0;                                 // 1, 2, ... without gaps within an epoch
  std::vector<OpenSlot> opens;                       // before the rows
  std::vector<kernels::BlockTableUpdate> tables[2];  // by kernels::PoolKind, before the rows
  std::vector<BlockCopy> copies[2];                  // by kernels::PoolKind, before the rows
  std::vector<PlanRow> rows;
  std::vector<LogitRequest> logits;
  std::vector<std::vector<uint32_t>> masks;  // kernels::MaskWords of the vocabulary each
};

// What was sampled for one LogitRequest.
struct StepChoice {
  int32_t token = -1;
  float logprob = 0.0F;
  float wanted_logprob = 0.0F;
  std::vector<kernels::Candidate> top;  // by falling log-probability (in `logit`), at most top_logprobs
};

struct StepResult {
  Epoch epoch{};
  uint64_t step = 0;
  std::vector<StepChoice> choices;  // one a LogitRequest
};

}  // namespace alphecca::engine

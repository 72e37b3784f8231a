#include "kernels/host/host_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/check.h"

namespace alphecca::kernels {
namespace {

template <typename T>
std::vector<T> Copy(std::span<const T> from) {
  return {from.begin(), from.end()};
}

void CheckRows(const HostStep& step, PoolKind kind, const HostKvPool& pool) {
  const int64_t tokens = pool.spec.max_blocks_per_slot * pool.spec.block_tokens;
  for (size_t t = 0; t < step.tokens.size(); ++t) {
    Check(step.slots[t] >= 0 && step.slots[t] < pool.spec.num_slots, "slot of a row");
    Check(step.positions[t] >= 0 && step.positions[t] < tokens, "position of a row");
    const KeyRange keys = step.visible[kind][t];
    Check(keys.last < keys.first || (keys.first >= 0 && keys.last < tokens), "visible keys of a row");
  }
}

absl::Status CheckExport(const KvPool& pool, int layer, int32_t slot, Range positions, size_t keys, size_t values) {
  const KvPoolSpec& spec = pool.spec;
  if (layer < 0 || layer >= static_cast<int>(spec.layers.size())) {
    return absl::InvalidArgumentError(absl::StrCat("KV layer ", layer, " of ", spec.layers.size()));
  }
  if (slot < 0 || slot >= spec.num_slots) {
    return absl::InvalidArgumentError(absl::StrCat("KV slot ", slot, " of ", spec.num_slots));
  }
  if (positions.begin < 0 || positions.end < positions.begin ||
      positions.end > spec.max_blocks_per_slot * spec.block_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("KV positions [", positions.begin, ", ", positions.end, ") of ",
                                                   spec.max_blocks_per_slot * spec.block_tokens));
  }
  const KvLayerShape shape = spec.layers[static_cast<size_t>(layer)];
  const auto want = static_cast<size_t>(int64_t{shape.kv_heads} * positions.size() * shape.head_dim);
  if (keys != want || values != want) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV of ", keys, " keys and ", values, " values: want ", want, " of each"));
  }
  const std::span<const int32_t> table = static_cast<const HostKvPool&>(pool).Table(slot);
  for (int64_t p = positions.begin; p < positions.end; ++p) {
    if (table[static_cast<size_t>(p / spec.block_tokens)] < 0) {
      return absl::InvalidArgumentError(absl::StrCat("KV slot ", slot, " has no block at position ", p));
    }
  }
  return absl::OkStatus();
}

}  // namespace

const float* HostStep::SoftRow(int64_t row, int64_t d) const {
  const int64_t index = soft[static_cast<size_t>(row)];
  Check((index + 1) * d <= static_cast<int64_t>(soft_rows.size()), "soft row of a step");
  return soft_rows.data() + index * d;
}

const float* Floats(const Buffer* buffer, int64_t count) {
  if (buffer == nullptr) {
    return nullptr;
  }
  Check(buffer->bytes >= count * static_cast<int64_t>(sizeof(float)), "length of a buffer of floats");
  return static_cast<const float*>(buffer->data);
}

absl::StatusOr<std::unique_ptr<Buffer>> HostBackend::Allocate(int64_t bytes) {
  auto buffer = std::make_unique<HostBuffer>();
  ASSIGN_OR_RETURN(buffer->memory, HostMemory::Create(bytes));
  buffer->data = buffer->memory.data();
  buffer->bytes = bytes;
  return buffer;
}

absl::StatusOr<std::unique_ptr<Matrix>> HostBackend::Pack(std::span<const PackSource> sources, DType type) {
  return PackHost(sources, type);
}

absl::StatusOr<std::unique_ptr<KvPool>> HostBackend::CreateKvPool(const KvPoolSpec& spec) {
  return HostKvPool::Create(spec);
}

std::unique_ptr<Stream> HostBackend::CreateStream() {
  return std::make_unique<HostStream>();
}

void HostBackend::Write(Stream&, Buffer& to, int64_t offset, std::span<const std::byte> from) {
  const auto size = static_cast<int64_t>(from.size());
  Check(offset >= 0 && offset <= to.bytes && size <= to.bytes - offset, "a write inside its buffer");
  if (size > 0) {
    std::memcpy(static_cast<std::byte*>(to.data) + offset, from.data(), from.size());
  }
}

absl::Status HostBackend::Read(Stream&, const void* device, std::span<std::byte> to) {
  if (!to.empty()) {
    std::memcpy(to.data(), device, to.size());
  }
  return absl::OkStatus();
}

absl::Status HostBackend::Synchronize(Stream&) {
  return absl::OkStatus();
}

std::unique_ptr<Step> HostBackend::Upload(Stream&, const StepInput& input, KvPool* full, KvPool* sliding) {
  const size_t rows = input.tokens.size();
  Check(input.positions.size() == rows && input.slots.size() == rows && input.full.size() == rows &&
            input.sliding.size() == rows && (input.soft.empty() || input.soft.size() == rows),
        "a value of each kind for every row of a step");
  Check(input.sampling.size() == input.logit_rows.size(), "a sampling row for every logit row");
  auto step = std::make_unique<HostStep>();
  step->rows = static_cast<int64_t>(rows);
  step->logit_rows = static_cast<int64_t>(input.logit_rows.size());
  step->tokens = Copy(input.tokens);
  step->positions = Copy(input.positions);
  step->slots = Copy(input.slots);
  step->visible[kFullPool] = Copy(input.full);
  step->visible[kSlidingPool] = Copy(input.sliding);
  step->soft = Copy(input.soft);
  step->soft_rows = Copy(input.soft_rows);
  step->logit_list = Copy(input.logit_rows);
  step->sampling = Copy(input.sampling);
  step->masks = Copy(input.masks);
  step->mask_words = input.mask_words;
  for (const int32_t row : step->logit_list) {
    Check(row >= 0 && row < step->rows, "logit row of a step");
  }
  for (const SlotOpening& opening : input.opens) {
    Open(opening);
  }
  KvPool* const pools[2] = {full, sliding};
  for (const PoolKind kind : {kFullPool, kSlidingPool}) {
    if (pools[kind] == nullptr) {
      continue;
    }
    for (const BlockTableUpdate& update : input.tables[kind]) {
      Host(*pools[kind]).Update(update);
    }
    CheckRows(*step, kind, Host(*pools[kind]));
  }
  return step;
}

absl::Status HostBackend::ReserveSlots(int num_slots) {
  if (num_slots < 0) {
    return absl::InvalidArgumentError(absl::StrCat(num_slots, " slots: want 0 or more"));
  }
  sampled_.assign(static_cast<size_t>(num_slots), -1);
  rules_.clear();
  rules_.resize(sampled_.size());
  return absl::OkStatus();
}

void HostBackend::Open(const SlotOpening& opening) {
  Check(opening.slot >= 0 && static_cast<size_t>(opening.slot) < rules_.size(), "slot that opens");
  const bool any = opening.rules != nullptr && !opening.rules->Empty();
  rules_[static_cast<size_t>(opening.slot)] = any ? std::make_unique<SlotRules>(*opening.rules) : nullptr;
}

Adjustment HostBackend::AdjustmentOf(const HostStep& step, int64_t row) const {
  const SamplingRow& sampling = step.sampling[static_cast<size_t>(row)];
  Adjustment adjustment;
  if (sampling.rules != 0) {
    Check(sampling.slot >= 0 && static_cast<size_t>(sampling.slot) < rules_.size(), "slot whose rules a row follows");
    adjustment.rules = rules_[static_cast<size_t>(sampling.slot)].get();
    Check(adjustment.rules != nullptr, "rules that a row follows");
  }
  if (sampling.mask >= 0) {
    const auto words = static_cast<size_t>(step.mask_words);
    const size_t begin = static_cast<size_t>(sampling.mask) * words;
    Check(words > 0 && begin + words <= step.masks.size(), "mask of a row");
    adjustment.mask = std::span(step.masks).subspan(begin, words);
  }
  return adjustment;
}

int32_t HostBackend::TokenOf(const HostStep& step, int64_t row) const {
  const int32_t token = step.tokens[static_cast<size_t>(row)];
  if (token >= 0) {
    return token;
  }
  const auto slot = static_cast<size_t>(-1 - token);
  Check(slot < sampled_.size(), "slot whose last token is asked");
  return sampled_[slot];
}

void HostBackend::GatherRows(Stream&, const Step& step, const GatherRowsArgs& a) {
  const HostStep& s = Host(step);
  for (size_t r = 0; r < s.logit_list.size(); ++r) {
    std::memcpy(FloatRow(a.out, static_cast<int64_t>(r)), FloatRow(a.in, s.logit_list[r]),
                static_cast<size_t>(a.in.cols) * sizeof(float));
  }
}

void HostBackend::Softcap(Stream&, const SoftcapArgs& a) {
  if (a.cap == 0.0F) {
    return;
  }
  for (int64_t r = 0; r < a.logits.rows; ++r) {
    float* row = FloatRow(a.logits, r);
    for (int64_t i = 0; i < a.logits.cols; ++i) {
      row[i] = static_cast<float>(a.cap * std::tanh(static_cast<double>(row[i]) / a.cap));
    }
  }
}

void HostBackend::Candidates(Stream&, const Step& step, const CandidatesArgs& a) {
  const HostStep& s = Host(step);
  auto* out = static_cast<std::byte*>(a.out);
  for (size_t r = 0; r < s.sampling.size(); ++r) {
    const std::span<const float> logits(FloatRow(a.logits, static_cast<int64_t>(r)),
                                        static_cast<size_t>(a.logits.cols));
    ReduceCandidates(s.sampling[r], AdjustmentOf(s, static_cast<int64_t>(r)), logits, a.first_token, a.count, out);
    out += CandidateRecordBytes(a.count);
  }
}

void HostBackend::Choose(Stream&, const Step& step, const ChooseArgs& a) {
  const HostStep& s = Host(step);
  const auto* records = static_cast<const std::byte*>(a.records);
  auto* out = static_cast<std::byte*>(a.out);
  std::vector<const void*> of_row(static_cast<size_t>(a.ranks));
  for (int64_t r = 0; r < s.logit_rows; ++r, out += ChoiceBytes(a.count)) {
    for (int64_t rank = 0; rank < a.ranks; ++rank) {
      of_row[static_cast<size_t>(rank)] = records + (rank * s.logit_rows + r) * CandidateRecordBytes(a.count);
    }
    const SamplingRow& row = s.sampling[static_cast<size_t>(r)];
    ChooseToken(row, AdjustmentOf(s, r), of_row, a.count, out);
    if (row.keep != 0) {
      Check(row.slot >= 0 && static_cast<size_t>(row.slot) < sampled_.size(), "slot that a token is kept for");
      Choice choice;
      std::memcpy(&choice, out, sizeof choice);
      sampled_[static_cast<size_t>(row.slot)] = choice.token;
      if (row.rules != 0 && choice.token >= 0) {
        rules_[static_cast<size_t>(row.slot)]->Count(choice.token);
      }
    }
  }
}

void HostBackend::KvCopy(Stream&, KvPool& pool, int32_t from, int32_t to) {
  Host(pool).CopyBlock(from, to);
}

absl::Status HostBackend::KvExport(Stream&, const KvPool& pool, int layer, int32_t slot, Range positions,
                                   std::span<float> key, std::span<float> value) {
  RETURN_IF_ERROR(CheckExport(pool, layer, slot, positions, key.size(), value.size()));
  const KvLayerShape shape = pool.spec.layers[static_cast<size_t>(layer)];
  int64_t at = 0;
  for (int head = 0; head < shape.kv_heads; ++head) {
    for (int64_t p = positions.begin; p < positions.end; ++p, at += shape.head_dim) {
      Host(pool).Load(layer, slot, p, head, key.data() + at, value.data() + at);
    }
  }
  return absl::OkStatus();
}

absl::Status HostBackend::KvImport(Stream&, KvPool& pool, int layer, int32_t slot, Range positions,
                                   std::span<const float> key, std::span<const float> value) {
  RETURN_IF_ERROR(CheckExport(pool, layer, slot, positions, key.size(), value.size()));
  const KvLayerShape shape = pool.spec.layers[static_cast<size_t>(layer)];
  int64_t at = 0;
  for (int head = 0; head < shape.kv_heads; ++head) {
    for (int64_t p = positions.begin; p < positions.end; ++p, at += shape.head_dim) {
      Host(pool).Store(layer, slot, p, head, key.data() + at, value.data() + at);
    }
  }
  return absl::OkStatus();
}

}  // namespace alphecca::kernels

#include "tests/unit/kernels/planted_backend.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace alphecca::kernels {
namespace {

// Scales the elements of every row of `t` in [begin, end).
void ScaleColumns(const Tensor& t, int64_t begin, int64_t end, float by) {
  for (int64_t r = 0; r < t.rows; ++r) {
    std::for_each(FloatRow(t, r) + begin, FloatRow(t, r) + end, [by](float& v) { v *= by; });
  }
}

// As if pairs were (2i, 2i + 1): every value in its neighbour's place.
void SwapNeighbours(const Tensor& t, int64_t cols) {
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t i = 0; i + 1 < cols; i += 2) {
      std::swap(FloatRow(t, r)[i], FloatRow(t, r)[i + 1]);
    }
  }
}

}  // namespace

void PlantedBackend::MatMul(Stream& s, const MatMulArgs& a) {
  const int64_t cols = a.in.cols;
  if (error_ == Planted::kMatMulSkipsLastColumn && cols > 0) {
    std::vector<float> last(static_cast<size_t>(a.in.rows));
    for (int64_t t = 0; t < a.in.rows; ++t) {
      last[static_cast<size_t>(t)] = std::exchange(FloatRow(a.in, t)[cols - 1], 0.0F);
    }
    RefBackend::MatMul(s, a);
    for (int64_t t = 0; t < a.in.rows; ++t) {
      FloatRow(a.in, t)[cols - 1] = last[static_cast<size_t>(t)];
    }
    return;
  }
  RefBackend::MatMul(s, a);
  if (error_ == Planted::kMatMulSkipsLastRow && a.out.cols > 0) {
    ScaleColumns(a.out, a.out.cols - 1, a.out.cols, 0.0F);
  }
  if (error_ == Planted::kWritesPastRow && a.out.stride > a.out.cols && a.out.rows > 0) {
    FloatRow(a.out, 0)[a.out.cols] = 0.0F;
  }
}

void PlantedBackend::GatedMatMul(Stream& s, const GatedMatMulArgs& a) {
  if (error_ != Planted::kGatedSwapsHalves) {
    return RefBackend::GatedMatMul(s, a);
  }
  std::vector<float> both(static_cast<size_t>(a.in.rows * 2 * a.out.cols));
  const Tensor product = {both.data(), DType::kF32, a.in.rows, 2 * a.out.cols, 2 * a.out.cols};
  RefBackend::MatMul(s, {.in = a.in, .matrix = a.gate_up, .scale = 1.0F, .out = product});
  for (int64_t t = 0; t < a.in.rows; ++t) {
    const float* row = FloatRow(product, t);
    for (int64_t i = 0; i < a.out.cols; ++i) {
      FloatRow(a.out, t)[i] = static_cast<float>(row[i] * GeluTanh(row[a.out.cols + i]));
    }
  }
}

void PlantedBackend::GeluMul(Stream& s, const GeluMulArgs& a) {
  if (error_ != Planted::kGeluIsExact) {
    return RefBackend::GeluMul(s, a);
  }
  for (int64_t t = 0; t < a.a.rows; ++t) {
    for (int64_t i = 0; i < a.a.cols; ++i) {
      float& x = FloatRow(a.a, t)[i];
      x = static_cast<float>(0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0))) * FloatRow(a.b, t)[i]);
    }
  }
}

void PlantedBackend::RmsNorm(Stream& s, const RmsNormArgs& a) {
  RmsNormArgs b = a;
  b.eps = error_ == Planted::kNormWithoutEps ? 1e-30F : a.eps;
  std::vector<float> weight;
  HostBuffer buffer;
  if (error_ == Planted::kNormOnePlusWeight && a.weight != nullptr) {
    const auto* w = static_cast<const float*>(a.weight->data);
    weight.assign(w, w + a.in.cols);
    std::for_each(weight.begin(), weight.end(), [](float& v) { v += 1.0F; });
    buffer.data = weight.data();
    buffer.bytes = a.weight->bytes;
    b.weight = &buffer;
  }
  RefBackend::RmsNorm(s, b);
}

void PlantedBackend::ResidualNorm(Stream& s, const ResidualNormArgs& a) {
  ResidualNormArgs b = a;
  if (error_ == Planted::kResidualScalesBranchOnly) {
    ScaleColumns(a.x, 0, a.x.cols, 1.0F / a.scale);
  }
  RefBackend::ResidualNorm(s, b);
}

void PlantedBackend::AddNorms(Stream& s, const AddNormsArgs& a) {
  AddNormsArgs b = a;
  if (error_ == Planted::kAddNormsSwapsWeights) {
    std::swap(b.weight_a, b.weight_b);
  }
  RefBackend::AddNorms(s, b);
}

void PlantedBackend::Embed(Stream& s, const Step& step, const EmbedArgs& a) {
  RefBackend::Embed(s, step, a);
  for (int64_t t = 0; t < step.rows; ++t) {
    if (error_ == Planted::kEmbedScalesSoftRows && Host(step).IsSoft(t)) {
      std::for_each(FloatRow(a.out, t), FloatRow(a.out, t) + a.out.cols, [&](float& v) { v *= a.scale; });
    }
  }
}

void PlantedBackend::PerLayerInput(Stream& s, const Step& step, const PerLayerInputArgs& a) {
  RefBackend::PerLayerInput(s, step, a);
  if (error_ == Planted::kPerLayerWithoutHalfRoot) {
    ScaleColumns(a.out, 0, a.out.cols, std::sqrt(2.0F));
  }
}

void PlantedBackend::Qkv(Stream& s, const Step& step, const QkvArgs& a) {
  QkvArgs b = a;
  if (error_ == Planted::kQkvNormsValueWithKeyWeight) {
    b.norm_v = !a.norm_v;
  }
  HostStep moved = Host(step);
  if (error_ == Planted::kQkvOneBlockOff) {
    for (int32_t& p : moved.positions) {
      p = p >= 16 ? p - 16 : p + 16;
    }
  }
  RefBackend::Qkv(s, moved, b);
  if (error_ == Planted::kRopePairsNeighbours) {
    SwapNeighbours(a.qkv, int64_t{a.heads} * a.head_dim);
  }
}

void PlantedBackend::Attend(Stream& s, const Step& step, const AttendArgs& a) {
  HostStep moved = Host(step);
  for (KeyRange& keys : moved.visible[a.pool_kind]) {
    if (keys.last > keys.first) {
      keys.first += error_ == Planted::kAttendDropsFirstKey ? 1 : 0;
      keys.last += error_ == Planted::kAttendSeesOneMore && keys.last < 79 ? 1 : 0;
    }
  }
  AttendArgs b = a;
  if (error_ == Planted::kAttendWrongGroup) {
    b.first_head = 0;
    b.first_kv_head = 0;
  }
  RefBackend::Attend(s, moved, b);
}

void PlantedBackend::Route(Stream& s, const RouteArgs& a) {
  RouteArgs b = a;
  if (error_ == Planted::kRouteWithoutScale) {
    b.expert_scale = nullptr;
  }
  RefBackend::Route(s, b);
  const bool tied = a.logits.rows > 0 && FloatRow(a.logits, 0)[0] == FloatRow(a.logits, 0)[a.logits.cols - 1];
  if (error_ == Planted::kRouteHighestOfTies && tied) {
    IntRow(a.ids, 0)[0] = static_cast<int32_t>(a.logits.cols) - 1;
  }
}

void PlantedBackend::Experts(Stream& s, const ExpertsArgs& a) {
  ExpertsArgs b = a;
  if (error_ == Planted::kExpertsIgnoresLive) {
    b.live.data = nullptr;
  }
  if (error_ == Planted::kExpertsDropsLastOfRow) {
    b.ids.cols -= 1;
  }
  if (error_ == Planted::kExpertsForgetsLoad) {
    b.load.data = nullptr;
  }
  RefBackend::Experts(s, b);
}

void PlantedBackend::GatherRows(Stream& s, const Step& step, const GatherRowsArgs& a) {
  HostStep moved = Host(step);
  if (error_ == Planted::kGatherOffByOne && !moved.logit_list.empty()) {
    moved.logit_list.back() -= 1;
  }
  RefBackend::GatherRows(s, moved, a);
}

void PlantedBackend::Softcap(Stream& s, const SoftcapArgs& a) {
  if (error_ != Planted::kSoftcapOff) {
    RefBackend::Softcap(s, a);
  }
}

std::unique_ptr<Step> PlantedBackend::Upload(Stream& s, const StepInput& input, KvPool* full, KvPool* sliding) {
  StepInput changed = input;
  std::vector<SamplingRow> sampling(input.sampling.begin(), input.sampling.end());
  for (SamplingRow& row : sampling) {
    row.rules = error_ == Planted::kRulesIgnored ? 0 : row.rules;
    row.mask = error_ == Planted::kMaskIgnored ? -1 : row.mask;
  }
  changed.sampling = sampling;
  if (error_ == Planted::kReopensWithOldRules) {
    std::vector<SlotOpening> first;
    for (const SlotOpening& opening : input.opens) {
      if (has_rules_.try_emplace(opening.slot, opening.rules != nullptr && !opening.rules->Empty()).second) {
        first.push_back(opening);
      }
    }
    for (SamplingRow& row : sampling) {
      row.rules = has_rules_[row.slot] ? 1 : 0;
    }
    changed.opens = first;
    return RefBackend::Upload(s, changed, full, sliding);
  }
  return RefBackend::Upload(s, changed, full, sliding);
}

void PlantedBackend::Candidates(Stream& s, const Step& step, const CandidatesArgs& a) {
  RefBackend::Candidates(s, step, a);
  const int64_t n = a.logits.cols;
  if (error_ == Planted::kCandidatesHighestOfTies && n > 1 &&
      FloatRow(a.logits, 0)[0] == FloatRow(a.logits, 0)[n - 1]) {
    CandidateHead head;
    std::memcpy(&head, a.out, sizeof head);
    head.best_token = static_cast<int32_t>(a.first_token + n - 1);
    std::memcpy(a.out, &head, sizeof head);
  }
}

void PlantedBackend::Choose(Stream& s, const Step& step, const ChooseArgs& a) {
  HostStep moved = Host(step);
  if (error_ == Planted::kChooseForgets) {
    std::for_each(moved.sampling.begin(), moved.sampling.end(), [](SamplingRow& row) { row.keep = 0; });
  }
  if (error_ == Planted::kChooseForgetsCounts) {
    std::for_each(moved.sampling.begin(), moved.sampling.end(),
                  [](SamplingRow& row) { row.keep = row.rules != 0 ? 0 : row.keep; });
  }
  RefBackend::Choose(s, moved, a);
}

void PlantedBackend::KvCopy(Stream& s, KvPool& pool, int32_t from, int32_t to) {
  if (error_ == Planted::kKvCopyBackwards) {
    std::swap(from, to);
  }
  RefBackend::KvCopy(s, pool, from, to);
}

}  // namespace alphecca::kernels

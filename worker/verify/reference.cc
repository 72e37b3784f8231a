#include "worker/verify/reference.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "common/status_macros.h"
#include "kernels/quant/quant.h"
#include "worker/verify/prompt_runner.h"

namespace alphecca::verify {
namespace {

using kernels::DType;
using kernels::HostTensor;

// The tensor's rows in `held` and back, F32.
std::vector<float> ThereAndBack(const HostTensor& tensor, DType held) {
  std::vector<float> values(static_cast<size_t>(tensor.items * tensor.rows * tensor.cols));
  std::vector<float> scratch(static_cast<size_t>(tensor.cols));
  std::vector<std::byte> encoded(static_cast<size_t>(kernels::RowBytes(held, tensor.cols)));
  const int64_t row_bytes = kernels::RowBytes(tensor.type, tensor.cols);
  for (int64_t row = 0; row < tensor.items * tensor.rows; ++row) {
    const float scale = kernels::ConvertRow(tensor.type, tensor.data + row * row_bytes, tensor.cols, {0, tensor.cols},
                                            tensor.RowScale(row), held, scratch.data(), encoded.data());
    kernels::DecodeRow(held, encoded.data(), {0, tensor.cols}, scale, values.data() + row * tensor.cols);
  }
  return values;
}

class DequantisedCheckpoint final : public model::Checkpoint {
 public:
  explicit DequantisedCheckpoint(const model::Checkpoint& file) : file_(file) {
    config_ = file.config();
    path_ = file.path();
  }

  absl::Status Convert(model::WeightType weights) {
    RETURN_IF_ERROR(model::CheckWeightType(file_, weights));
    for (const model::TensorSpec& spec : model::TensorsOf(file_)) {
      if (model::IsVector(spec.kind) || spec.kind == model::TensorKind::kPerLayerEmbedding) {
        continue;
      }
      ASSIGN_OR_RETURN(const HostTensor tensor, file_.Find(spec.kind, spec.layer));
      ASSIGN_OR_RETURN(const DType held, model::HeldType(spec.kind, tensor.type, weights));
      matrices_[{spec.kind, spec.layer}] = ThereAndBack(tensor, held);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<HostTensor> Find(model::TensorKind kind, int layer) const override {
    ASSIGN_OR_RETURN(HostTensor tensor, file_.Find(kind, layer));
    const auto found = matrices_.find({kind, layer});
    if (found != matrices_.end()) {
      tensor.type = DType::kF32;
      tensor.data = std::as_bytes(std::span(found->second)).data();
      tensor.scales = nullptr;
    }
    return tensor;
  }
  float norm_offset() const override { return file_.norm_offset(); }
  std::string Revision() const override { return file_.Revision(); }

 private:
  const model::Checkpoint& file_;
  std::map<std::pair<model::TensorKind, int>, std::vector<float>> matrices_;
};

// Rows of the layers one after another, [layers, rows, cols]; only the last row of each where `last`.
GoldenTensor Stack(const ProbeLog& log, const std::string& probe, const std::vector<int>& layers, bool last) {
  GoldenTensor stacked;
  for (const int layer : layers) {
    const auto found = log.find({probe, layer});
    if (found == log.end()) {
      return {};
    }
    const RowLog& rows = found->second;
    const auto skipped = static_cast<std::ptrdiff_t>(last ? (rows.rows() - 1) * rows.cols : 0);
    stacked.values.insert(stacked.values.end(), rows.values.begin() + skipped, rows.values.end());
    stacked.shape = {static_cast<int64_t>(layers.size()), last ? 1 : rows.rows(), rows.cols};
  }
  return stacked;
}

// What the stored prompt had of this name, as the reference computed it.
GoldenTensor Retell(const std::string& name, const GoldenTensor& stored, const PromptRun& run, int layers) {
  const int64_t vocab = run.vocab;
  if (name == "logits") {
    return {{static_cast<int64_t>(run.prompt_logits.size()) / vocab, vocab}, run.prompt_logits};
  }
  if (name == "logits_last") {
    return {{vocab}, {run.prompt_logits.end() - vocab, run.prompt_logits.end()}};
  }
  if (name == "greedy_logits") {
    return {{static_cast<int64_t>(run.ids.size()), vocab}, run.step_logits};
  }
  if (name == "final_norm_last") {
    return {{static_cast<int64_t>(run.final_norm.size())}, run.final_norm};
  }
  std::vector<int> stack;
  for (int layer = absl::StartsWith(name, "hidden") ? -1 : 0; layer < layers; ++layer) {
    stack.push_back(layer);
  }
  if (name == "per_layer_inputs") {
    GoldenTensor all = Stack(run.probe, name, {-1}, false);
    all.shape = stored.shape;
    return all;
  }
  const std::string probe = name == "router_topk_weight"       ? "router_weights"
                            : absl::StartsWith(name, "hidden") ? "hidden"
                                                               : name;
  GoldenTensor told = Stack(run.probe, probe, stack, name == "hidden_last");
  if (name == "hidden_last" && told.shape.size() == 3) {
    told.shape = {told.shape[0], told.shape[2]};
  }
  return told;
}

std::vector<double> Margins(const PromptRun& run) {
  std::vector<double> margins;
  for (size_t begin = 0; begin < run.step_logits.size(); begin += static_cast<size_t>(run.vocab)) {
    const auto row = std::span(run.step_logits).subspan(begin, static_cast<size_t>(run.vocab));
    float best = -HUGE_VALF;
    float second = -HUGE_VALF;
    for (const float logit : row) {
      second = std::max(second, std::min(best, logit));
      best = std::max(best, logit);
    }
    margins.push_back(static_cast<double>(best) - static_cast<double>(second));
  }
  return margins;
}

}  // namespace

absl::StatusOr<std::unique_ptr<model::Checkpoint>> Dequantised(const model::Checkpoint& checkpoint,
                                                               model::WeightType weights) {
  auto result = std::make_unique<DequantisedCheckpoint>(checkpoint);
  RETURN_IF_ERROR(result->Convert(weights));
  return std::unique_ptr<model::Checkpoint>(std::move(result));
}

absl::StatusOr<GoldenCase> OwnReference(const GoldenCase& golden, const model::Checkpoint& checkpoint,
                                        model::WeightType weights, int64_t step_rows) {
  ASSIGN_OR_RETURN(const std::unique_ptr<model::Checkpoint> exact, Dequantised(checkpoint, weights));
  GroupOptions options;
  options.kernels = Kernels::kRef;
  options.backend.activations = kernels::Activations::kF32;
  options.context = LongestSequence(golden);
  options.max_rows = std::min(step_rows, options.context);
  ASSIGN_OR_RETURN(const auto by_owner, RunPrompts(*exact, golden, options, Continue::kFreely));
  const std::vector<PromptRun>& runs = by_owner.front();
  GoldenCase own = golden;
  own.tie = kOwnReferenceTie;
  own.peer.reset();
  const auto layers = static_cast<int>(checkpoint.config().layers.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    GoldenPrompt& prompt = own.prompts[i];
    prompt.greedy_ids = runs[i].ids;
    prompt.margins = Margins(runs[i]);
    for (auto& [name, tensor] : prompt.tensors) {
      tensor = Retell(name, tensor, runs[i], layers);
    }
    // Every step's logits are known here, also where the case stored none.
    prompt.tensors["greedy_logits"] = Retell("greedy_logits", {}, runs[i], layers);
  }
  return own;
}

}  // namespace alphecca::verify

#include "worker/forward/wide.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "common/status_macros.h"
#include "kernels/sampling.h"

namespace alphecca::forward {

using kernels::Tensor;

absl::StatusOr<ExpertHomes> ExpertHomes::Upload(const model::ModelConfig& config, const model::ShardPlan& plan,
                                                int rank, kernels::Backend& backend) {
  ExpertHomes homes;
  if (plan.ep == 1) {
    return homes;
  }
  homes.experts_ = config.experts;
  std::vector<std::vector<std::vector<model::ExpertHome>>> layers;
  for (size_t l = 0; l < config.layers.size(); ++l) {
    layers.push_back(model::ExpertHomes(config, plan, static_cast<int>(l), rank));
    for (const std::vector<model::ExpertHome>& copies : layers.back()) {
      homes.copies_ = std::max(homes.copies_, static_cast<int64_t>(copies.size()));
    }
  }
  const std::unique_ptr<kernels::Stream> stream = backend.CreateStream();
  for (const auto& layer : layers) {
    std::vector<model::ExpertHome> table(layer.size() * static_cast<size_t>(homes.copies_), {.rank = -1, .index = -1});
    for (size_t e = 0; e < layer.size(); ++e) {
      std::copy(layer[e].begin(), layer[e].end(), table.begin() + static_cast<int64_t>(e) * homes.copies_);
    }
    const std::span<const std::byte> bytes = std::as_bytes(std::span(table));
    ASSIGN_OR_RETURN(homes.layers_.emplace_back(), backend.Allocate(static_cast<int64_t>(bytes.size())));
    backend.Write(*stream, *homes.layers_.back(), 0, bytes);
  }
  RETURN_IF_ERROR(backend.Synchronize(*stream));
  return homes;
}

Tensor ExpertHomes::Layer(int l) const {
  return {.data = layers_[static_cast<size_t>(l)]->data,
          .type = kernels::DType::kI32,
          .rows = experts_,
          .cols = 2 * copies_,
          .stride = 2 * copies_};
}

absl::Status WideExchange::Experts(const WideExpertsArgs& a) {
  const int64_t d = a.in.cols;
  const int64_t k = a.ids.cols;
  const int64_t ranks = comm_.size();
  const int64_t travelling = step_.rows * std::min(ranks, k);
  const Tensor counts = scratch_.counts.View(1, 2 * ranks + 1);
  const Tensor sent = Columns(counts, 0, ranks);
  const Tensor received = Columns(counts, ranks, ranks + 1);
  const Tensor dispatched = scratch_.dispatched.View(travelling, d + 2 * k);
  const Tensor arrived = scratch_.arrived.View(all_.rows, d + 2 * k);
  const Tensor answers = scratch_.answers.View(all_.rows, d);
  const Tensor rows = scratch_.sent_rows.View(step_.rows, ranks);
  backend_.Dispatch(stream_, step_,
                    {.in = a.in,
                     .ids = a.ids,
                     .weights = a.weights,
                     .homes = a.homes,
                     .out = dispatched,
                     .counts = sent,
                     .rows = rows});
  RETURN_IF_ERROR(
      comm_.ExchangeRows(stream_, {.send = dispatched, .send_counts = sent, .recv = arrived, .recv_counts = received}));
  Tensor places = Columns(arrived, d + k, k);
  places.type = kernels::DType::kI32;
  backend_.Experts(stream_, {.in = Columns(arrived, 0, d),
                             .gate_up = a.gate_up,
                             .down = a.down,
                             .ids = places,
                             .weights = Columns(arrived, d, k),
                             .out = answers,
                             .load = a.load,
                             .live = Columns(received, ranks, 1)});
  const Tensor back = scratch_.dispatched.View(travelling, d);
  RETURN_IF_ERROR(comm_.ExchangeRows(stream_, {.send = answers,
                                               .send_counts = Columns(received, 0, ranks),
                                               .recv = back,
                                               .recv_counts = scratch_.returned.View(1, ranks + 1)}));
  backend_.Combine(stream_, {.in = back, .rows = rows, .out = a.out});
  return absl::OkStatus();
}

absl::Status WideExchange::Choose(int count) {
  const int64_t bytes = all_.most_logit_rows * kernels::ChoiceBytes(count);
  auto* choices = static_cast<std::byte*>(scratch_.choices.buffer().data);
  std::byte* mine = choices + comm_.rank() * bytes;
  if (step_.logit_rows > 0) {
    const void* records = scratch_.candidates.buffer().data;
    backend_.Choose(stream_, step_, {.records = records, .ranks = 1, .count = count, .out = mine});
  }
  return comm_.AllGather(stream_, mine, bytes, choices);
}

}  // namespace alphecca::forward

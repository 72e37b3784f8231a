#include "model/expert_replicas.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "common/status_macros.h"
#include "model/messages.h"
#include "nlohmann/json.hpp"

namespace alphecca::model {
namespace {

template <typename... Parts>
absl::Status Bad(const Parts&... text) {
  return absl::InvalidArgumentError(Text("expert load: ", text...));
}

absl::Status CheckRows(const ExpertRows& rows, const ModelConfig& config) {
  if (config.experts == 0) {
    return Bad("the model has no experts");
  }
  if (rows.size() != config.layers.size()) {
    return Bad(rows.size(), " layers, the model has ", config.layers.size());
  }
  for (size_t l = 0; l < rows.size(); ++l) {
    if (static_cast<int>(rows[l].size()) != config.experts) {
      return Bad("layer ", l, " has ", rows[l].size(), " experts, the model ", config.experts);
    }
  }
  return absl::OkStatus();
}

// One layer, while copies are handed out.
class Layer {
 public:
  Layer(const ModelConfig& config, const std::vector<uint64_t>& rows, int ranks, int per_rank)
      : rows_(rows),
        per_rank_(static_cast<size_t>(per_rank)),
        holders_(rows.size()),
        copies_(static_cast<size_t>(ranks)),
        loads_(static_cast<size_t>(ranks), 0.0) {
    for (size_t rank = 0; rank < copies_.size(); ++rank) {
      const Range own = OwnExperts(config, static_cast<int>(rank), ranks);
      for (int64_t e = own.begin; e < own.end; ++e) {
        holders_[static_cast<size_t>(e)].push_back(rank);
        loads_[rank] += static_cast<double>(rows_[static_cast<size_t>(e)]);
      }
    }
  }

  std::vector<std::vector<int32_t>> Place() {
    for (size_t wanted = per_rank_ * copies_.size(); wanted > 0; --wanted) {
      PlaceOne();
    }
    for (std::vector<int32_t>& copies : copies_) {
      std::sort(copies.begin(), copies.end());
    }
    return std::move(copies_);
  }

 private:
  bool CanTake(size_t rank, size_t expert) const {
    const std::vector<size_t>& holders = holders_[expert];
    return copies_[rank].size() < per_rank_ && std::find(holders.begin(), holders.end(), rank) == holders.end();
  }

  // What the ranks would carry if `rank` held a copy of `expert` too.
  std::vector<double> LoadsWith(size_t rank, size_t expert) const {
    std::vector<double> loads = loads_;
    const auto rows = static_cast<double>(rows_[expert]);
    const auto holders = static_cast<double>(holders_[expert].size());
    for (const size_t holder : holders_[expert]) {
      loads[holder] -= rows / holders - rows / (holders + 1.0);
    }
    loads[rank] += rows / (holders + 1.0);
    return loads;
  }

  // The copy that leaves the busiest rank with the least; of equal ones the hottest expert's.
  void PlaceOne() {
    double best_load = std::numeric_limits<double>::infinity();
    std::pair<size_t, size_t> best;  // rank, expert
    for (size_t rank = 0; rank < copies_.size(); ++rank) {
      for (size_t expert = 0; expert < rows_.size(); ++expert) {
        if (!CanTake(rank, expert)) {
          continue;
        }
        const std::vector<double> loads = LoadsWith(rank, expert);
        const double busiest = *std::max_element(loads.begin(), loads.end());
        if (busiest < best_load || (busiest == best_load && rows_[expert] > rows_[best.second])) {
          best_load = busiest;
          best = {rank, expert};
        }
      }
    }
    const auto [rank, expert] = best;
    loads_ = LoadsWith(rank, expert);
    copies_[rank].push_back(static_cast<int32_t>(expert));
    holders_[expert].push_back(rank);
  }

  const std::vector<uint64_t>& rows_;
  const size_t per_rank_;
  std::vector<std::vector<size_t>> holders_;  // of each expert
  std::vector<std::vector<int32_t>> copies_;  // of each rank
  std::vector<double> loads_;                 // rows of each rank, those of an expert shared evenly by its holders
};

}  // namespace

Range OwnExperts(const ModelConfig& config, int rank, int ranks) {
  const int64_t experts = config.experts;
  return {experts * rank / ranks, experts * (rank + 1) / ranks};
}

std::string ExpertRowsToJson(const ExpertRows& rows) {
  const nlohmann::ordered_json json = {{"layers", rows}};
  return json.dump();
}

absl::StatusOr<ExpertRows> ExpertRowsFromJson(std::string_view text, const ModelConfig& config) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("layers") || !json["layers"].is_array()) {
    return Bad("want a JSON object with \"layers\", a list of lists of counts");
  }
  ExpertRows rows;
  for (const nlohmann::json& layer : json["layers"]) {
    if (!layer.is_array()) {
      return Bad("layer ", rows.size(), " is no list of counts");
    }
    std::vector<uint64_t>& counts = rows.emplace_back();
    for (const nlohmann::json& count : layer) {
      if (!count.is_number_unsigned()) {
        return Bad("layer ", rows.size() - 1, " expert ", counts.size(), " is ", count.dump(), ", not a count");
      }
      counts.push_back(count.get<uint64_t>());
    }
  }
  RETURN_IF_ERROR(CheckRows(rows, config));
  return rows;
}

absl::StatusOr<ExpertRows> ReadExpertRows(const std::string& path, const ModelConfig& config) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(Text("expert load: cannot open ", path));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  absl::StatusOr<ExpertRows> rows = ExpertRowsFromJson(text, config);
  if (!rows.ok()) {
    return absl::Status(rows.status().code(), Text(path, ": ", std::string(rows.status().message())));
  }
  return rows;
}

absl::StatusOr<ExpertReplicas> PlaceReplicas(const ModelConfig& config, const ExpertRows& rows, int ranks,
                                             int per_rank) {
  RETURN_IF_ERROR(CheckRows(rows, config));
  if (ranks < 1 || ranks > config.experts) {
    return Bad(ranks, " ranks for ", config.experts, " experts: 1 to as many as there are experts");
  }
  const int most = config.experts - (config.experts + ranks - 1) / ranks;
  if (per_rank < 0 || per_rank > most) {
    return Bad(per_rank, " copies on each of ", ranks, " ranks: 0 to ", most, ", the experts of the others");
  }
  ExpertReplicas replicas;
  for (const std::vector<uint64_t>& layer : rows) {
    replicas.push_back(Layer(config, layer, ranks, per_rank).Place());
  }
  return replicas;
}

}  // namespace alphecca::model

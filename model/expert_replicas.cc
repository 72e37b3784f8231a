#include "model/expert_replicas.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <numeric>
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
        copies_(static_cast<size_t>(ranks)) {
    for (int rank = 0; rank < ranks; ++rank) {
      const Range own = OwnExperts(config, rank, ranks);
      for (int64_t e = own.begin; e < own.end; ++e) {
        holders_[static_cast<size_t>(e)].push_back(rank);
      }
    }
  }

  std::vector<std::vector<int32_t>> Place() {
    const size_t wanted = per_rank_ * copies_.size();
    for (size_t placed = 0; placed < wanted; ++placed) {
      PlaceOne();
    }
    for (std::vector<int32_t>& copies : copies_) {
      std::sort(copies.begin(), copies.end());
    }
    return std::move(copies_);
  }

 private:
  double RowsACopy(size_t expert) const {
    return static_cast<double>(rows_[expert]) / static_cast<double>(holders_[expert].size());
  }
  double LoadOf(int rank) const {
    double load = 0.0;
    for (size_t e = 0; e < holders_.size(); ++e) {
      load += Holds(rank, e) ? RowsACopy(e) : 0.0;
    }
    return load;
  }
  bool Holds(int rank, size_t expert) const {
    const std::vector<int>& holders = holders_[expert];
    return std::find(holders.begin(), holders.end(), rank) != holders.end();
  }

  // The hottest expert that some rank can take goes to the least loaded of those that can.
  void PlaceOne() {
    std::vector<int> open;
    for (size_t rank = 0; rank < copies_.size(); ++rank) {
      if (copies_[rank].size() < per_rank_) {
        open.push_back(static_cast<int>(rank));
      }
    }
    std::vector<size_t> hottest(holders_.size());
    std::iota(hottest.begin(), hottest.end(), size_t{0});
    std::stable_sort(hottest.begin(), hottest.end(),
                     [this](size_t a, size_t b) { return RowsACopy(a) > RowsACopy(b); });
    std::stable_sort(open.begin(), open.end(), [this](int a, int b) { return LoadOf(a) < LoadOf(b); });
    for (const size_t expert : hottest) {
      const auto taker = std::find_if(open.begin(), open.end(), [&](int rank) { return !Holds(rank, expert); });
      if (taker != open.end()) {
        copies_[static_cast<size_t>(*taker)].push_back(static_cast<int32_t>(expert));
        holders_[expert].push_back(*taker);
        return;
      }
    }
  }

  const std::vector<uint64_t>& rows_;
  const size_t per_rank_;
  std::vector<std::vector<int>> holders_;     // of each expert
  std::vector<std::vector<int32_t>> copies_;  // of each rank
};

}  // namespace

Range OwnExperts(const ModelConfig& config, int rank, int ranks) {
  const int64_t experts = config.experts;
  return {experts * rank / ranks, experts * (rank + 1) / ranks};
}

std::string ExpertRowsToJson(const ExpertRows& rows) {
  const nlohmann::ordered_json json = {{"experts", rows.empty() ? 0 : rows[0].size()}, {"layers", rows}};
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

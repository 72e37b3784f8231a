#include "model/expert_replicas.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
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

// One layer, while copies are handed out. A placement looks at the experts of the busiest rank alone, as no copy of
// another relieves it, and at few ranks for each: they are kept in the order of their loads.
class Layer {
 public:
  Layer(const ModelConfig& config, const std::vector<uint64_t>& rows, int ranks, int per_rank)
      : rows_(rows.begin(), rows.end()),
        shares_(rows_),
        per_rank_(static_cast<size_t>(per_rank)),
        holders_(rows.size()),
        held_(static_cast<size_t>(ranks)),
        holds_(rows.size() * held_.size(), 0),
        copies_(held_.size()),
        loads_(held_.size(), 0.0),
        by_load_(held_.size()),
        takers_(held_.size()) {
    for (size_t rank = 0; rank < held_.size(); ++rank) {
      const Range own = OwnExperts(config, static_cast<int>(rank), ranks);
      for (int64_t e = own.begin; e < own.end; ++e) {
        Hold(rank, static_cast<size_t>(e));
        loads_[rank] += rows_[static_cast<size_t>(e)];
      }
    }
    std::iota(by_load_.begin(), by_load_.end(), size_t{0});
    SortRanks();
  }

  std::vector<std::vector<int32_t>> Place() {
    for (size_t wanted = per_rank_ * copies_.size(); wanted > 0; --wanted) {
      takers_.clear();
      std::copy_if(by_load_.begin(), by_load_.end(), std::back_inserter(takers_),
                   [this](size_t rank) { return copies_[rank].size() < per_rank_; });
      const size_t busiest = by_load_.back();
      Choice choice = Relief(busiest);
      if (!(choice.load < loads_[busiest])) {
        choice = Filling(loads_[busiest]);
      }
      Give(choice.rank, choice.expert);
    }
    for (std::vector<int32_t>& copies : copies_) {
      std::sort(copies.begin(), copies.end());
    }
    return std::move(copies_);
  }

 private:
  struct Choice {
    double load = std::numeric_limits<double>::infinity();  // of the busiest rank, with the copy
    size_t rank = 0;
    size_t expert = 0;
  };

  void Hold(size_t rank, size_t expert) {
    holders_[expert].push_back(rank);
    held_[rank].push_back(expert);
    holds_[expert * held_.size() + rank] = 1;
  }
  bool Holds(size_t rank, size_t expert) const { return holds_[expert * held_.size() + rank] != 0; }
  // Rows of an expert that each holder would have, were there one more.
  double ShareWithOneMore(size_t expert) const {
    return rows_[expert] / (static_cast<double>(holders_[expert].size()) + 1.0);
  }

  // A copy of this expert on the rank with the least to do that can take it.
  Choice OneMore(size_t expert) const {
    const double share = ShareWithOneMore(expert);
    const auto taker = std::find_if(takers_.begin(), takers_.end(), [&](size_t rank) { return !Holds(rank, expert); });
    if (taker == takers_.end()) {
      return {};
    }
    Choice choice{.load = loads_[*taker] + share, .rank = *taker, .expert = expert};
    for (const size_t holder : holders_[expert]) {
      choice.load = std::max(choice.load, loads_[holder] - shares_[expert] + share);
    }
    const auto other =
        std::find_if(by_load_.rbegin(), by_load_.rend(), [&](size_t rank) { return !Holds(rank, expert); });
    choice.load = std::max(choice.load, loads_[*other]);
    return choice;
  }

  // The copy that leaves the busiest rank with the least; of equal ones the hottest expert's.
  Choice Relief(size_t busiest) const {
    Choice best;
    for (const size_t expert : held_[busiest]) {
      const Choice choice = OneMore(expert);
      if (choice.load < best.load || (choice.load == best.load && rows_[choice.expert] > rows_[best.expert])) {
        best = choice;
      }
    }
    return best;
  }

  // Where nothing relieves the busiest rank, as all get the same number of copies: for the rank with the least to do,
  // the hottest expert that leaves it at most at `limit`, else the coldest.
  Choice Filling(double limit) const {
    Choice best;
    best.rank = takers_.front();
    const double room = limit - loads_[best.rank];
    double best_share = std::numeric_limits<double>::infinity();
    for (size_t expert = 0; expert < rows_.size(); ++expert) {
      const double share = ShareWithOneMore(expert);
      const bool better = share <= room ? best_share > room || share > best_share : share < best_share;
      if (better && !Holds(best.rank, expert)) {
        best_share = share;
        best.expert = expert;
      }
    }
    return best;
  }

  void Give(size_t rank, size_t expert) {
    const double share = ShareWithOneMore(expert);
    for (const size_t holder : holders_[expert]) {
      loads_[holder] -= shares_[expert] - share;
    }
    loads_[rank] += share;
    shares_[expert] = share;
    Hold(rank, expert);
    copies_[rank].push_back(static_cast<int32_t>(expert));
    SortRanks();
  }

  // By insertion: few ranks have moved since the last time.
  void SortRanks() {
    for (size_t i = 1; i < by_load_.size(); ++i) {
      const size_t rank = by_load_[i];
      size_t to = i;
      for (; to > 0 && loads_[by_load_[to - 1]] > loads_[rank]; --to) {
        by_load_[to] = by_load_[to - 1];
      }
      by_load_[to] = rank;
    }
  }

  const std::vector<double> rows_;
  std::vector<double> shares_;  // rows of an expert that each of its holders has
  const size_t per_rank_;
  std::vector<std::vector<size_t>> holders_;  // ranks, of each expert
  std::vector<std::vector<size_t>> held_;     // experts, of each rank
  std::vector<char> holds_;                   // [expert][rank]: 1 where the rank holds it
  std::vector<std::vector<int32_t>> copies_;  // those beside its own
  std::vector<double> loads_;                 // rows of each rank: the shares of what it holds
  std::vector<size_t> by_load_;               // ranks, the least busy first
  std::vector<size_t> takers_;                // those that can take more copies
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

// Route and Experts.
#include <limits>
#include <numeric>

#include "tests/unit/kernels/op_cases.h"

namespace alphecca::kernels {
namespace {

void RunRoute(OpRun& run, int64_t rows, int64_t experts, int k, double sigma) {
  const Tensor logits = run.Random(rows, experts, 1, sigma);
  const Buffer* scale = run.Floats(run.Normal(experts, 0.2, 1.0));
  const Tensor ids = run.EmptyInts(rows, k);
  const Tensor weights = run.Empty(rows, k);
  run.backend().Route(run.stream(), {.logits = logits, .expert_scale = scale, .k = k, .ids = ids, .weights = weights});
  run.CollectBytes("ids", ids.data, rows * k * static_cast<int64_t>(sizeof(int32_t)));
  run.Collect("weights", weights, SumTolerance(experts));
}

enum class Routing { kRandom, kAllToOne, kNoneHere };

struct ExpertsCase {
  std::string name;
  DType type;
  int64_t rows;
  int64_t width;    // D
  int64_t hidden;   // I
  int64_t items;    // experts here
  int64_t experts;  // in all
  int64_t first;
  int k;
  Routing routing = Routing::kRandom;
  int32_t live = -1;  // rows that there are; -1: all, and not said
};

std::vector<int32_t> Ids(OpRun& run, const ExpertsCase& c) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < c.rows; ++t) {
    std::vector<int32_t> order(static_cast<size_t>(c.experts));
    std::iota(order.begin(), order.end(), 0);
    for (int i = 0; i < c.k; ++i) {
      std::swap(order[static_cast<size_t>(i)],
                order[static_cast<size_t>(run.Uniform(i, static_cast<int>(c.experts) - 1))]);
      int32_t id = order[static_cast<size_t>(i)];
      if (c.routing == Routing::kAllToOne) {
        id = static_cast<int32_t>((c.first + i) % c.experts);
      } else if (c.routing == Routing::kNoneHere) {
        id = static_cast<int32_t>((c.first + c.items + i) % c.experts);
      }
      ids.push_back(id - static_cast<int32_t>(c.first));  // a place: others lie before or behind the items
    }
  }
  return ids;
}

void RunExperts(OpRun& run, const ExpertsCase& c) {
  const Matrix& gate_up = run.Weights(c.items, 2 * c.hidden, c.width, c.type);
  const Matrix& down = run.Weights(c.items, c.width, c.hidden, c.type);
  const Tensor in = run.Random(c.rows, c.width, 1);
  const std::vector<float> weights = run.Normal(c.rows * c.k, 0.2, 0.5);
  const Tensor out = run.Empty(c.rows, c.width, 2);
  Tensor answered = out;
  Tensor live = {};
  if (c.live >= 0) {
    live = run.PutInts({c.live}, 1, 1);
    answered.rows = c.live;
  }
  // Counts go on from what was there, and beyond the largest number.
  std::vector<int32_t> before;
  for (int64_t e = 0; e < c.items; ++e) {
    before.push_back(e % 2 == 0 ? std::numeric_limits<int32_t>::max() : 100);
  }
  const Tensor load = run.PutInts(before, 1, c.items);
  run.backend().Experts(run.stream(), {.in = in,
                                       .gate_up = &gate_up,
                                       .down = &down,
                                       .ids = run.PutInts(Ids(run, c), c.rows, c.k),
                                       .weights = run.Put(weights, c.rows, c.k),
                                       .out = out,
                                       .load = load,
                                       .live = live});
  run.Collect(
      "out", answered,
      3.0 * ProductTolerance(run.backend(), c.type, c.width) + ProductTolerance(run.backend(), c.type, c.hidden));
  run.CollectBytes("load", load.data, c.items * static_cast<int64_t>(sizeof(int32_t)));
}

}  // namespace

void AddExpertCases(std::vector<OpCase>& cases) {
  cases.push_back({"Route", "Route_6_of_2", [](OpRun& run) { RunRoute(run, 5, 6, 2, 1.0); }});
  cases.push_back({"Route", "Route_128_of_8", [](OpRun& run) { RunRoute(run, 9, 128, 8, 2.0); }});
  cases.push_back({"Route", "Route_all", [](OpRun& run) { RunRoute(run, 3, 4, 4, 1.0); }});
  cases.push_back({"Route", "Route_one", [](OpRun& run) { RunRoute(run, 3, 7, 1, 1.0); }});
  cases.push_back({"Route", "Route_far_apart", [](OpRun& run) { RunRoute(run, 3, 16, 3, 100.0); }});
  cases.push_back({"Route", "Route_ties", [](OpRun& run) { RunRoute(run, 2, 16, 5, 0.0); }});

  using R = Routing;
  for (const ExpertsCase& c : std::vector<ExpertsCase>{
           {"f32", DType::kF32, 5, 24, 10, 6, 6, 0, 2},
           {"bf16_part", DType::kBF16, 7, 40, 12, 3, 8, 4, 3},
           {"sfp8", DType::kSFP8, 4, 33, 17, 4, 4, 0, 2},
           {"q8_0_one_row", DType::kQ8_0, 1, 64, 32, 8, 8, 0, 4},
           {"q8_0_many_rows", DType::kQ8_0, 40, 64, 96, 4, 4, 0, 2},
           {"q4_0", DType::kQ4_0, 9, 96, 64, 5, 16, 11, 4},
           {"q4_k", DType::kQ4_K, 6, 256, 256, 3, 4, 1, 2},
           {"q6_k", DType::kQ6_K, 3, 256, 256, 2, 4, 1, 2},
           {"f32_all_to_one", DType::kF32, 20, 16, 8, 3, 4, 1, 1, R::kAllToOne},
           {"q4_0_all_to_one", DType::kQ4_0, 20, 64, 32, 3, 4, 1, 1, R::kAllToOne},
           // More rows of one expert, and more groups, than a panel takes; the rest in tiles, and too few for one.
           {"q4_0_all_to_one_140", DType::kQ4_0, 140, 64, 160, 3, 4, 1, 1, R::kAllToOne},
           {"q4_0_all_to_one_131", DType::kQ4_0, 131, 64, 160, 3, 4, 1, 1, R::kAllToOne},
           {"f32_none_here", DType::kF32, 4, 16, 8, 2, 8, 2, 2, R::kNoneHere},
           {"q8_0_none_here", DType::kQ8_0, 4, 32, 32, 2, 8, 2, 2, R::kNoneHere},
           {"f32_few_live", DType::kF32, 8, 16, 8, 3, 4, 0, 2, R::kRandom, 3},
           {"q4_0_few_live", DType::kQ4_0, 8, 64, 32, 3, 4, 1, 2, R::kRandom, 5},
           {"q8_0_none_live", DType::kQ8_0, 4, 32, 32, 2, 4, 0, 2, R::kRandom, 0},
           {"no_rows", DType::kF32, 0, 16, 8, 2, 2, 0, 1},
           {"no_columns", DType::kQ8_0, 3, 32, 0, 2, 2, 0, 1},
           {"no_experts", DType::kQ8_0, 3, 32, 32, 0, 4, 0, 2},
       }) {
    cases.push_back({"Experts", "Experts_" + c.name, [c](OpRun& run) { RunExperts(run, c); }});
  }
}

}  // namespace alphecca::kernels

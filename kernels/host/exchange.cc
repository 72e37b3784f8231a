// Rows on their way to experts on other ranks and back.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/check.h"
#include "kernels/host/host_backend.h"

namespace alphecca::kernels {
namespace {

struct Home {
  int32_t rank = -1;
  int32_t place = -1;
};

// Where a row at `position` has expert `expert` computed.
Home HomeOf(const Tensor& homes, int32_t expert, int32_t position) {
  Check(expert >= 0 && expert < homes.rows, "an expert of the model");
  const int32_t* row = IntRow(homes, expert);
  int32_t copies = 0;
  while (2 * copies < homes.cols && row[2 * copies] >= 0) {
    ++copies;
  }
  Check(copies > 0, "every expert has a home");
  const int32_t copy = position % copies;
  return {row[2 * copy], row[2 * copy + 1]};
}

// The columns of a row of `out` that hold its places.
Tensor PlacesOf(const DispatchArgs& a) {
  Tensor places = a.out;
  places.data = FloatRow(a.out, 0) + a.in.cols + a.ids.cols;
  places.type = DType::kI32;
  places.cols = a.ids.cols;
  return places;
}

}  // namespace

int64_t LiveRows(const ExpertsArgs& a) {
  return a.live.data == nullptr ? a.in.rows : std::clamp<int64_t>(IntRow(a.live, 0)[0], 0, a.in.rows);
}

void HostBackend::PlaceExperts(Stream&, const Step& step, const PlaceExpertsArgs& a) {
  const HostStep& s = Host(step);
  Check(a.ids.rows == s.rows && a.homes.cols % 2 == 0, "PlaceExperts: shapes of ids and homes");
  for (int64_t t = 0; t < a.ids.rows; ++t) {
    for (int64_t i = 0; i < a.ids.cols; ++i) {
      int32_t& id = IntRow(a.ids, t)[i];
      const Home home = HomeOf(a.homes, id, s.positions[static_cast<size_t>(t)]);
      id = home.rank == a.rank ? home.place : -1;
    }
  }
}

void HostBackend::Dispatch(Stream&, const Step& step, const DispatchArgs& a) {
  const HostStep& s = Host(step);
  const int64_t k = a.ids.cols;
  const int64_t ranks = a.counts.cols;
  Check(a.in.rows == s.rows && a.ids.rows == s.rows && a.weights.rows == s.rows && a.weights.cols == k &&
            a.homes.cols % 2 == 0 && a.rows.rows == s.rows && a.rows.cols == ranks &&
            a.out.rows >= s.rows * std::min(ranks, k) && a.out.cols == a.in.cols + 2 * k,
        "Dispatch: shapes of in, ids, weights, homes, out, counts, rows");
  std::vector<Home> homes(static_cast<size_t>(s.rows * k));
  for (int64_t t = 0; t < s.rows; ++t) {
    for (int64_t i = 0; i < k; ++i) {
      homes[static_cast<size_t>(t * k + i)] = HomeOf(a.homes, IntRow(a.ids, t)[i], s.positions[static_cast<size_t>(t)]);
    }
  }
  const Tensor places = PlacesOf(a);
  int32_t next = 0;
  for (int32_t rank = 0; rank < ranks; ++rank) {
    const int32_t first = next;
    for (int64_t t = 0; t < s.rows; ++t) {
      const Home* row_homes = homes.data() + t * k;
      if (std::none_of(row_homes, row_homes + k, [rank](const Home& home) { return home.rank == rank; })) {
        IntRow(a.rows, t)[rank] = -1;
        continue;
      }
      IntRow(a.rows, t)[rank] = next;
      std::copy_n(FloatRow(a.in, t), a.in.cols, FloatRow(a.out, next));
      std::copy_n(FloatRow(a.weights, t), k, FloatRow(a.out, next) + a.in.cols);
      for (int64_t i = 0; i < k; ++i) {
        IntRow(places, next)[i] = row_homes[i].rank == rank ? row_homes[i].place : -1;
      }
      ++next;
    }
    IntRow(a.counts, 0)[rank] = next - first;
  }
}

void HostBackend::Combine(Stream&, const CombineArgs& a) {
  Check(a.rows.rows == a.out.rows && a.in.cols == a.out.cols, "Combine: shapes of in, rows, out");
  for (int64_t t = 0; t < a.out.rows; ++t) {
    float* out = FloatRow(a.out, t);
    bool first = true;
    for (int64_t rank = 0; rank < a.rows.cols; ++rank) {
      const int32_t row = IntRow(a.rows, t)[rank];
      if (row < 0) {
        continue;
      }
      Check(row < a.in.rows, "Combine: a row of in");
      const float* part = FloatRow(a.in, row);
      for (int64_t i = 0; i < a.out.cols; ++i) {
        out[i] = first ? part[i] : out[i] + part[i];
      }
      first = false;
    }
    if (first) {
      std::fill_n(out, a.out.cols, 0.0F);
    }
  }
}

}  // namespace alphecca::kernels

// The one sum that all communicators of ours share: in rank order, in F32.
#pragma once

#include <cstdint>
#include <span>

namespace alphecca::comm {

// out[i] = (..(parts[0][i] + parts[1][i]) + ..) + parts[n-1][i] for i < count. out may be one of the parts or apart
// from all of them, not overlap one in another way. At least one part.
void SumInRankOrder(std::span<const float* const> parts, int64_t count, float* out);

}  // namespace alphecca::comm

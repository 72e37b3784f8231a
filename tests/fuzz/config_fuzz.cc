// A config.json of any text: an error, or a valid configuration that can be catalogued and split.
#include <cstddef>
#include <cstdint>

#include "model/catalogue.h"
#include "model/config.h"
#include "model/shard_plan.h"
#include "touch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace alphecca;
  const auto config = model::ConfigFromJson({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) {
    return 0;
  }
  fuzz::Check(config->Validate().ok());
  int64_t elements = 0;
  for (const model::TensorSpec& spec : model::Catalogue(*config)) {
    fuzz::Check(spec.items > 0 && spec.rows > 0 && spec.cols > 0);
    fuzz::Check(!__builtin_add_overflow(elements, spec.elements(), &elements));
  }
  for (const int degree : {1, 2, 3}) {
    model::MakeShardPlan(*config, {degree, 1}, 32).status().IgnoreError();
    model::MakeShardPlan(*config, {1, degree}, 256).status().IgnoreError();
  }
  return 0;
}

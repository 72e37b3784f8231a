// A safetensors file of any bytes: an error or tensors whose bytes are there.
#include <cstddef>
#include <cstdint>

#include "model/safetensors.h"
#include "touch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace alphecca;
  const auto file = model::SafetensorsFile::FromBytes({reinterpret_cast<const char*>(data), size});
  if (file.ok()) {
    for (const model::SafetensorsTensor& tensor : (*file)->tensors()) {
      fuzz::Touch(tensor.data.data(), tensor.data.size());
      fuzz::Check((*file)->Find(tensor.name) == &tensor);
    }
  }
  return 0;
}

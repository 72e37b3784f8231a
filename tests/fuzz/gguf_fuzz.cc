// A GGUF file of any bytes: an error or a readable file, and then a checkpoint or an error.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "model/checkpoint.h"
#include "model/gguf.h"
#include "touch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace alphecca;
  auto file = model::GgufFile::FromBytes({reinterpret_cast<const char*>(data), size});
  if (!file.ok()) {
    return 0;
  }
  for (const std::string_view key : (*file)->keys()) {
    if (const auto strings = (*file)->Strings(key); strings.ok()) {
      for (const std::string_view text : *strings) {
        fuzz::Touch(text.data(), text.size());
      }
    }
    if (const auto text = (*file)->String(key); text.ok()) {
      fuzz::Touch(text->data(), text->size());
    }
    (*file)->Ints(key).status().IgnoreError();
    (*file)->Floats(key).status().IgnoreError();
    (*file)->Int(key).status().IgnoreError();
    (*file)->Float(key).status().IgnoreError();
    (*file)->Bool(key).status().IgnoreError();
  }
  for (const model::GgufTensor& tensor : (*file)->tensors()) {
    fuzz::Touch(tensor.data.data(), tensor.data.size());
  }
  const auto checkpoint = model::Checkpoint::FromGguf(*std::move(file));
  if (checkpoint.ok()) {
    fuzz::TouchCheckpoint(**checkpoint);
  }
  return 0;
}

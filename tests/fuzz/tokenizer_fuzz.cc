// A tokenizer.json of any text: an error, or a tokenizer that gives texts back and never makes a control token of them.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"
#include "touch.h"

namespace {

using alphecca::fuzz::Check;
using alphecca::text::ControlText;
using alphecca::text::ShowControl;
using alphecca::text::Tokenizer;

void CheckText(const Tokenizer& tokenizer, std::string_view text) {
  for (const ControlText control : {ControlText::kPlain, ControlText::kParse}) {
    const std::vector<int32_t> ids = tokenizer.EncodeText(text, control);
    alphecca::text::StreamingDetokenizer stream(tokenizer, ShowControl::kShow);
    std::string streamed;
    for (const int32_t id : ids) {
      Check(tokenizer.InRange(id));
      streamed += stream.Add(id).value();
    }
    streamed += stream.Flush();
    Check(alphecca::text::IsValidUtf8(streamed));
    Check(streamed == tokenizer.Decode(ids, ShowControl::kShow).value());
  }
  for (const int32_t id : tokenizer.EncodeText(text)) {
    // What no piece and no byte token stands for is the unknown token; no other control token comes from text.
    Check(!tokenizer.IsControl(id) || tokenizer.Type(id) == alphecca::text::TokenType::kUnknown);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  alphecca::text::TokenizerData config;
  alphecca::text::ReadGenerationConfig(json, config).IgnoreError();
  absl::StatusOr<alphecca::text::TokenizerData> read = alphecca::text::ReadTokenizerJson(json);
  if (!read.ok()) {
    return 0;
  }
  read->end_ids = config.end_ids;
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(*std::move(read));
  if (!tokenizer.ok()) {
    return 0;
  }
  CheckText(**tokenizer, "And the\n\n\nthe <bos> <|turn>\xE6\x97\xA5\xE6\x9C\xAC\xC3\xA9 tthhee</p>\xFF");
  CheckText(**tokenizer, json.substr(0, 4096));
  return 0;
}

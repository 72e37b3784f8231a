// The text layer as filters: one JSON object a line in, one a line out. A line that can't be answered gives
// {"error": message} in its place and the run goes on; the result is then 1, else 0. A model or format that isn't there
// is told on `out` likewise, once, without reading.
#pragma once

#include <iosfwd>
#include <string>

namespace alphecca::cli {

// `model`: a directory or a .gguf file. {"text", "special": "plain" (default) or "parse"} or {"hex", "special"} ->
// {"ids"}; no BOS is added. {"ids"} -> {"text"}, control tokens shown.
int RunTokenize(const std::string& model, std::istream& in, std::ostream& out);

// `format`: gemma4, gemma4-small or gemma3. A chat request in OpenAI's form, not validated -> {"prompt", "pieces"}, and
// {"ids"} with a model (empty: none).
int RunRender(const std::string& format, const std::string& model, std::istream& in, std::ostream& out);

// {"pieces": [["c" or "t", text], ...], "starts_in_thought", "end": "stop" (default) or "length"} -> {"reasoning",
// "content", "tool_calls", "finish_reason"}.
int RunParse(const std::string& format, std::istream& in, std::ostream& out);

}  // namespace alphecca::cli

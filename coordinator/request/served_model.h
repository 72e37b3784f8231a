// A model as the coordinator knows it: its text side, defaults and limits. It never holds weights.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/cluster/types.h"
#include "coordinator/request/generation.h"
#include "coordinator/request/options.h"

namespace alphecca::coordinator {

// Domain forms of GenerateRequest and ChatRequest.
struct GenerateInput {
  std::optional<std::string> text;  // exactly one of the two, else InvalidArgument
  std::optional<std::vector<int32_t>> ids;
  GenerationOptions options;
};
struct ChatCall {
  std::string id;
  std::string name;
  std::string arguments;
};
struct ChatTurn {
  std::string role;
  std::vector<std::string> content;  // text parts
  std::string reasoning;
  std::vector<ChatCall> tool_calls;
  std::string tool_call_id;
  std::string name;
};
struct ChatTool {
  std::string name;
  std::string description;
  std::string parameters;
};
struct ChatInput {
  std::vector<ChatTurn> messages;
  std::vector<ChatTool> tools;
  bool enable_thinking = false;
  bool preserve_thinking = false;
  GenerationOptions options;
};

// Immutable after loading; const methods may be called by any thread.
class ServedModel {
 public:
  virtual ~ServedModel() = default;

  // Checks the request, renders and tokenizes it. InvalidArgument (with field violations); FailedPrecondition: Chat on
  // a model without turn tokens. `context`: tokens that prompt and answer may have together. `random` serves the seed
  // where none is given.
  virtual absl::StatusOr<GenerationPlan> PlanGenerate(const GenerateInput& input, int64_t context,
                                                      uint64_t random) const = 0;
  virtual absl::StatusOr<GenerationPlan> PlanChat(const ChatInput& input, int64_t context, uint64_t random) const = 0;
  // Text of a request to ids, without BOS.
  virtual absl::StatusOr<std::vector<int32_t>> Tokenize(const std::string& text) const = 0;
  virtual absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& ids) const = 0;
  // One token's own text, for log-probabilities; empty for control tokens, U+FFFD for pieces of a character.
  virtual std::string TokenText(int32_t id) const = 0;
  virtual bool chat() const = 0;

  const ModelSpec& spec() const { return spec_; }
  // What the groups are asked to hold; one may hold less context: see Router::Context.
  const ModelLimits& limits() const { return limits_; }
  const std::string& family() const { return family_; }

 protected:
  ModelSpec spec_;
  ModelLimits limits_;
  std::string family_;  // "gemma4", "gemma3"
};

// The models of this coordinator, by name.
class ModelCatalogue {
 public:
  explicit ModelCatalogue(std::vector<std::unique_ptr<ServedModel>> models);
  // NotFound: no such model (names those there are). InvalidArgument: empty, and there are several.
  absl::StatusOr<const ServedModel*> Find(const std::string& name) const;
  const std::vector<std::unique_ptr<ServedModel>>& all() const { return models_; }

 private:
  std::vector<std::unique_ptr<ServedModel>> models_;
};

// How a model is to be served; zeros and empty strings take the model's own.
struct ServeOptions {
  std::string name;  // empty: from the path
  std::string path;
  int tp = 0;        // 0: as many ranks as the workers that join need to hold it
  int ep = 0;        // 0: model::DefaultEp
  int replicas = 1;  // 0: as many as the workers make
  OnLoss on_loss = OnLoss::kWait;
  int64_t context = 0;  // 0: the model's
  int max_sequences = 64;
  std::string weights = "as-file";
  bool resident_tables = false;
  std::string activations = "default";
  std::string kv_type = "bf16";
  std::string expert_mode = "fused";
  std::string expert_load;  // file of a recorded load; with hot_experts
  int hot_experts = 0;      // copies of other ranks' experts on each rank
};

// Opens the checkpoint for its configuration, plans the shards, loads the tokenizer. Errors name the file and what
// would be right.
absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(const ServeOptions& options);

}  // namespace alphecca::coordinator

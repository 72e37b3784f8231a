#include "coordinator/request/served_model.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "coordinator/cluster/splits.h"
#include "coordinator/request/chat_input.h"
#include "coordinator/request/text_flow.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"
#include "text/chat_format.h"
#include "text/tokenizer.h"

namespace alphecca::coordinator {
namespace {

// Without --context: longer ones would have the workers set aside a cache that few requests use.
constexpr int64_t kDefaultContext = 8192;
constexpr size_t kMaxConfigBytes = 1 << 20;

// generation_config.json beside the weights; defaults stand where it, or a field of it, is missing or out of range.
GenerationDefaults ReadDefaults(const std::string& path) {
  GenerationDefaults defaults;
  std::ifstream file(std::filesystem::path(path) / "generation_config.json", std::ios::binary);
  std::string text(kMaxConfigBytes, '\0');
  if (!file.is_open()) {
    return defaults;
  }
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) {
    return defaults;
  }
  const auto number = [&](const char* key, double low, double high) -> std::optional<double> {
    const auto it = json.find(key);
    if (it == json.end() || !it->is_number()) {
      return std::nullopt;
    }
    const double value = it->get<double>();
    return value >= low && value <= high ? std::optional(value) : std::nullopt;
  };
  defaults.temperature = static_cast<float>(number("temperature", 0, kMaxTemperature).value_or(defaults.temperature));
  defaults.top_k = static_cast<int32_t>(number("top_k", 0, kMaxTopK).value_or(defaults.top_k));
  defaults.top_p = static_cast<float>(number("top_p", 1e-6, 1).value_or(defaults.top_p));
  return defaults;
}

// What the tokenizer suppresses, and rows of the embedding that it has no token for. An end token is never among them,
// nor is the whole vocabulary: a file that says otherwise is not followed so far.
std::vector<kernels::TokenRange> NeverAnswered(const text::Tokenizer& tokenizer, int64_t vocab) {
  std::vector<int32_t> ids;
  const std::vector<int32_t>& ends = tokenizer.end_ids();
  std::copy_if(tokenizer.suppress_ids().begin(), tokenizer.suppress_ids().end(), std::back_inserter(ids),
               [&](int32_t id) { return id < vocab && !std::binary_search(ends.begin(), ends.end(), id); });
  for (int64_t id = tokenizer.size(); id < vocab; ++id) {
    ids.push_back(static_cast<int32_t>(id));
  }
  return static_cast<int64_t>(ids.size()) < vocab ? kernels::RangesOf(ids) : std::vector<kernels::TokenRange>();
}

class GemmaModel : public ServedModel {
 public:
  static absl::StatusOr<std::unique_ptr<ServedModel>> Load(const ServeOptions& options) {
    ASSIGN_OR_RETURN(const std::unique_ptr<model::Checkpoint> checkpoint, model::Checkpoint::Open(options.path));
    auto result = std::unique_ptr<GemmaModel>(new GemmaModel());
    // A checkpoint without a tokenizer file is served by token ids alone.
    if (auto tokenizer = text::Tokenizer::Open(options.path); tokenizer.ok()) {
      result->tokenizer_ = *std::move(tokenizer);
    } else if (!absl::IsNotFound(tokenizer.status())) {
      return tokenizer.status();
    }
    const model::ModelConfig& config = checkpoint->config();
    if (result->tokenizer_ != nullptr) {
      if (const auto format = text::ChatFormatOf(*result->tokenizer_, config.per_layer_width > 0); format.ok()) {
        result->format_ = *format;
      }
    }
    result->family_ = config.family == model::Family::kGemma3 ? "gemma3" : "gemma4";
    result->limits_.vocabulary = config.vocab;
    result->limits_.context =
        options.context > 0 ? options.context : std::min<int64_t>(config.context, kDefaultContext);
    if (result->limits_.context > config.context) {
      return absl::InvalidArgumentError(
          absl::StrCat("--context ", options.context, ": this model was made for at most ", config.context, " tokens"));
    }
    if (result->tokenizer_ != nullptr) {
      result->suppressed_ = NeverAnswered(*result->tokenizer_, config.vocab);
    }
    result->defaults_ = ReadDefaults(options.path);
    ModelSpec& spec = result->spec_;
    spec.name = options.name;
    spec.checkpoint = options.path;
    spec.revision = checkpoint->Revision();
    spec.replicas = options.replicas;
    spec.on_loss = options.on_loss;
    spec.weights = options.weights;
    spec.resident_tables = options.resident_tables;
    spec.activations = options.activations;
    spec.kv_type = options.kv_type;
    spec.context = result->limits_.context;
    spec.max_sequences = options.max_sequences;
    ASSIGN_OR_RETURN(const model::ExpertMode expert_mode, model::ParseExpertMode(options.expert_mode));
    ASSIGN_OR_RETURN(spec.splits, AllowedSplits(*checkpoint, {.tp = options.tp,
                                                              .ep = options.ep,
                                                              .weights = options.weights,
                                                              .resident_tables = options.resident_tables,
                                                              .kv_type = options.kv_type,
                                                              .context = spec.context,
                                                              .max_sequences = options.max_sequences,
                                                              .expert_mode = expert_mode,
                                                              .expert_load = options.expert_load,
                                                              .hot_experts = options.hot_experts}));
    return std::unique_ptr<ServedModel>(std::move(result));
  }

  absl::StatusOr<GenerationPlan> PlanGenerate(const GenerateInput& input, int64_t context,
                                              uint64_t random) const override {
    Violations violations;
    CheckOptions(input.options, violations);
    if (input.text.has_value() == input.ids.has_value()) {
      violations.Add("prompt", "set exactly one of text and ids");
    } else if (input.text) {
      CheckTextSize(input.text->size(), "text", violations);
    } else {
      CheckIds(*input.ids, limits_.vocabulary, "ids.ids", violations);
    }
    RETURN_IF_ERROR(violations.ToStatus());
    if (input.text && tokenizer_ == nullptr) {
      return NoTokenizer();
    }
    std::vector<int32_t> prompt = input.text ? tokenizer_->EncodeText(*input.text) : *input.ids;
    if (prompt.empty()) {
      return InvalidField(input.text ? "text" : "ids", "it is empty; give at least one token");
    }
    if (tokenizer_ != nullptr) {
      tokenizer_->PrependBos(prompt);
    }
    return MakePlan(input.options, std::move(prompt), context, random, [this](const ResolvedOptions& o) {
      return tokenizer_ != nullptr ? MakeCompletionText(*tokenizer_, o.stop) : MakeNoText();
    });
  }

  absl::StatusOr<GenerationPlan> PlanChat(const ChatInput& input, int64_t context, uint64_t random) const override {
    if (!format_) {
      return absl::FailedPreconditionError(
          absl::StrCat("model \"", spec_.name, "\" has no turn tokens, so it cannot chat; Generate works"));
    }
    ASSIGN_OR_RETURN(const text::ChatRequest request, ReadChat(input, *format_));
    absl::StatusOr<text::RenderedChat> rendered = text::RenderChat(request, *format_);
    if (!rendered.ok()) {
      return AsViolation(rendered.status(), "messages");
    }
    ASSIGN_OR_RETURN(std::vector<int32_t> prompt, tokenizer_->Encode(rendered->pieces));
    return MakePlan(input.options, std::move(prompt), context, random, [&](const ResolvedOptions& o) {
      return format_ == text::ChatFormat::kGemma3 ? MakeCompletionText(*tokenizer_, o.stop)
                                                  : MakeChatText(*tokenizer_, o.stop, rendered->starts_in_thought);
    });
  }

  absl::StatusOr<std::vector<int32_t>> Tokenize(const std::string& text) const override {
    if (tokenizer_ == nullptr) {
      return NoTokenizer();
    }
    return tokenizer_->EncodeText(text);
  }

  absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& ids) const override {
    if (tokenizer_ == nullptr) {
      return NoTokenizer();
    }
    std::vector<int32_t> known;  // rows beyond the vocabulary have no text
    std::copy_if(ids.begin(), ids.end(), std::back_inserter(known),
                 [this](int32_t id) { return tokenizer_->InRange(id); });
    return tokenizer_->Decode(known);
  }

  std::string TokenText(int32_t id) const override {
    if (tokenizer_ == nullptr || !tokenizer_->InRange(id)) {
      return "";
    }
    const int32_t one[] = {id};
    return tokenizer_->Decode(one, text::ShowControl::kShow).value_or("");
  }

  bool chat() const override { return format_.has_value(); }

 private:
  GemmaModel() = default;

  absl::Status NoTokenizer() const {
    return absl::FailedPreconditionError(
        absl::StrCat("model \"", spec_.name, "\" has no tokenizer; Generate takes token ids"));
  }

  absl::StatusOr<GenerationPlan> MakePlan(
      const GenerationOptions& options, std::vector<int32_t> prompt, int64_t context, uint64_t random,
      const std::function<std::unique_ptr<SampleText>(const ResolvedOptions&)>& make_text) const {
    const ModelLimits limits{.context = context, .vocabulary = limits_.vocabulary};
    GenerationPlan plan;
    ASSIGN_OR_RETURN(plan.options,
                     ResolveOptions(options, defaults_, limits, static_cast<int64_t>(prompt.size()), random));
    plan.prompt = std::move(prompt);
    plan.suppressed = suppressed_;
    if (!plan.options.ignore_eos && tokenizer_ != nullptr) {
      plan.stop_ids = tokenizer_->end_ids();
    }
    for (int i = 0; i < plan.options.n; ++i) {
      plan.texts.push_back(make_text(plan.options));
    }
    return plan;
  }

  std::unique_ptr<text::Tokenizer> tokenizer_;   // null: the checkpoint has none
  std::vector<kernels::TokenRange> suppressed_;  // empty without a tokenizer
  GenerationDefaults defaults_;
  std::optional<text::ChatFormat> format_;  // none: it cannot chat
};

}  // namespace

ModelCatalogue::ModelCatalogue(std::vector<std::unique_ptr<ServedModel>> models) : models_(std::move(models)) {}

absl::StatusOr<const ServedModel*> ModelCatalogue::Find(const std::string& name) const {
  std::vector<std::string> names;
  for (const auto& model : models_) {
    if (model->spec().name == name || (name.empty() && models_.size() == 1)) {
      return model.get();
    }
    names.push_back(model->spec().name);
  }
  if (name.empty()) {
    return InvalidField("model", absl::StrCat("it is empty, and several are served: ", absl::StrJoin(names, ", ")));
  }
  return absl::NotFoundError(
      absl::StrCat("no model \"", Shortened(name, 128), "\" is served here; there is ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(const ServeOptions& options) {
  return GemmaModel::Load(options);
}

}  // namespace alphecca::coordinator

#include "model/checkpoint.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "model/gguf.h"
#include "model/hash.h"
#include "model/mapped_file.h"
#include "model/messages.h"
#include "model/plan_layout.h"
#include "model/safetensors.h"

namespace alphecca::model {
namespace {

using kernels::DType;
using kernels::HostTensor;

// A tensor where a file has it.
struct Located {
  HostTensor tensor;
  std::string name;  // the file's own
  std::string path;
  uint64_t offset = 0;
};

// Finds a tensor by its canonical name, followed by `suffix`; empty if the file has none. InvalidArgument if it cannot
// be a HostTensor.
using Locate =
    std::function<absl::StatusOr<std::optional<Located>>(TensorKind kind, int layer, const std::string& suffix)>;

std::string BaseName(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

std::string ShapeText(int64_t items, int64_t rows, int64_t cols) {
  return items != 1 ? Text("[", items, ", ", rows, ", ", cols, "]")
                    : (rows != 1 ? Text("[", rows, ", ", cols, "]") : Text("[", cols, "]"));
}

absl::Status CheckTensor(const Located& located, const TensorSpec& spec) {
  const HostTensor& tensor = located.tensor;
  const std::string where = Text(located.path, ": tensor ", located.name);
  if (tensor.items != spec.items || tensor.rows != spec.rows || tensor.cols != spec.cols) {
    return absl::InvalidArgumentError(Text(where, " has the shape ", ShapeText(tensor.items, tensor.rows, tensor.cols),
                                           "; the configuration wants ", ShapeText(spec.items, spec.rows, spec.cols)));
  }
  const bool plain = tensor.type == DType::kF32 || tensor.type == DType::kF16 || tensor.type == DType::kBF16;
  const bool integers = tensor.type == DType::kI32 || tensor.type == DType::kI64;
  if (integers || (IsVector(spec.kind) && !plain)) {
    return absl::InvalidArgumentError(
        Text(where, " has the type ", kernels::Info(tensor.type).name,
             IsVector(spec.kind) ? "; F32, F16 or BF16 is expected of a vector" : ", which is no type of weights"));
  }
  return absl::OkStatus();
}

// Alignment that loads of the type's elements (of quantised blocks: their F16 scales) need.
size_t AlignmentOf(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kI64:
      return 8;
    case DType::kSFP8:
      return 1;
    default:
      return 2;
  }
}

class MappedCheckpoint final : public Checkpoint {
 public:
  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGguf(std::unique_ptr<GgufFile> file) {
    std::unique_ptr<MappedCheckpoint> result(new MappedCheckpoint);
    result->path_ = file->path();
    ASSIGN_OR_RETURN(result->config_, ConfigFromGguf(*file));
    if (result->config_.name.empty()) {
      result->config_.name = std::filesystem::path(file->path()).stem().string();
    }
    result->gguf_ = std::move(file);
    if (result->gguf_->Has(kPlanKey)) {
      ASSIGN_OR_RETURN(const std::string_view layout, result->gguf_->String(kPlanKey));
      RETURN_IF_ERROR(result->ReadLayout(layout));
    }
    RETURN_IF_ERROR(result->Index([&gguf = *result->gguf_](TensorKind kind, int layer, const std::string& suffix) {
      return InGguf(gguf, kind, layer, suffix);
    }));
    return result;
  }

  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenDirectory(const std::string& path,
                                                                   const std::string& config_path) {
    std::unique_ptr<MappedCheckpoint> result(new MappedCheckpoint);
    result->path_ = path;
    ASSIGN_OR_RETURN(const auto text, MappedFile::Open(config_path));
    auto config = ConfigFromJson(text->text());
    if (!config.ok()) {
      return absl::Status(config.status().code(), Text(config_path, ": ", config.status().message()));
    }
    result->config_ = *std::move(config);
    std::error_code error;
    const std::filesystem::path absolute = std::filesystem::weakly_canonical(path, error);
    result->config_.name = BaseName(error ? path : absolute.string());
    result->norm_offset_ = result->config_.family == Family::kGemma3 ? 1.0F : 0.0F;
    ASSIGN_OR_RETURN(result->safetensors_, SafetensorsSet::Open(path));
    std::string prefix = "model.";
    if (const std::string* layout = result->safetensors_->Metadata(kPlanKey)) {
      RETURN_IF_ERROR(result->ReadLayout(*layout));
    } else {
      ASSIGN_OR_RETURN(prefix, Prefix(*result->safetensors_, path));
    }
    const Locate locate = [&set = *result->safetensors_, &prefix](TensorKind kind, int layer,
                                                                  const std::string& suffix) {
      return InSafetensors(set, prefix, kind, layer, suffix);
    };
    RETURN_IF_ERROR(result->ClampVocabulary(locate));
    RETURN_IF_ERROR(result->Index(locate));
    return result;
  }

  absl::StatusOr<HostTensor> Find(TensorKind kind, int layer) const override {
    const auto it = tensors_.find({kind, layer});
    if (it != tensors_.end()) {
      return it->second;
    }
    if (parts_.contains({kind, layer})) {
      return absl::FailedPreconditionError(Text(path_, ": ", CanonicalName(kind, layer), " lies in parts for tp ",
                                                layout_->tp, ", ep ", layout_->ep,
                                                "; use the checkpoint that the file was converted from"));
    }
    return absl::NotFoundError(Text(path_, ": no tensor ", CanonicalName(kind, layer)));
  }
  absl::StatusOr<DType> TypeOf(TensorKind kind, int layer) const override {
    const auto parts = parts_.find({kind, layer});
    return parts == parts_.end() ? Checkpoint::TypeOf(kind, layer) : parts->second.front().second.type;
  }
  const ShardPlan* layout() const override { return layout_.has_value() ? &*layout_ : nullptr; }
  absl::StatusOr<kernels::PackSource> Cut(const TensorSlice& slice) const override {
    const auto parts = parts_.find({slice.kind, slice.layer});
    if (parts == parts_.end()) {
      return Checkpoint::Cut(slice);
    }
    for (const auto& [held, tensor] : parts->second) {
      if (held.items == slice.items && held.rows == slice.rows && held.cols == slice.cols) {
        return kernels::PackSource{
            .tensor = tensor, .items = {0, tensor.items}, .rows = {0, tensor.rows}, .cols = {0, tensor.cols}};
      }
    }
    return absl::FailedPreconditionError(Text(path_, " is laid out for tp ", layout_->tp, ", ep ", layout_->ep,
                                              " and has no part ", CanonicalName(slice.kind, slice.layer),
                                              PartSuffix({.slice = slice})));
  }
  void Advise(const HostTensor& tensor, Residency residency) const override {
    const std::span bytes(
        tensor.data, static_cast<size_t>(tensor.items * tensor.rows * kernels::RowBytes(tensor.type, tensor.cols)));
    if (gguf_ != nullptr && gguf_->file().Holds(tensor.data)) {
      gguf_->file().Advise(bytes, residency);
    }
    if (gguf_ != nullptr) {
      return;
    }
    for (const auto& file : safetensors_->files()) {
      if (file->file().Holds(tensor.data)) {
        file->file().Advise(bytes, residency);
      }
    }
  }
  float norm_offset() const override { return norm_offset_; }
  std::string Revision() const override { return revision_; }
  const GgufFile* gguf() const override { return gguf_.get(); }

 private:
  MappedCheckpoint() = default;

  static absl::StatusOr<std::optional<Located>> InGguf(const GgufFile& file, TensorKind kind, int layer,
                                                       const std::string& suffix) {
    Located located;
    located.name = GgufName(kind, layer) + suffix;
    located.path = file.path();
    const GgufTensor* tensor = file.FindTensor(located.name);
    if (tensor == nullptr) {
      return std::optional<Located>();
    }
    if (tensor->size[3] != 1) {
      return absl::InvalidArgumentError(Text(file.path(), ": tensor ", located.name, " has four dimensions"));
    }
    located.offset = tensor->offset;
    located.tensor = {.type = tensor->type,
                      .data = tensor->data.data(),
                      .items = tensor->size[2],
                      .rows = tensor->size[1],
                      .cols = tensor->size[0]};
    return std::optional<Located>(std::move(located));
  }

  static absl::StatusOr<std::optional<Located>> InSafetensors(const SafetensorsSet& set, const std::string& prefix,
                                                              TensorKind kind, int layer, const std::string& suffix) {
    Located located;
    located.name = prefix + CanonicalName(kind, layer) + suffix;
    const auto entry = set.Find(located.name);
    if (!entry) {
      return std::optional<Located>();
    }
    const SafetensorsTensor& tensor = *entry->tensor;
    located.path = entry->file->path();
    located.offset = tensor.offset;
    std::optional<DType> type = tensor.type;
    const float* scales = nullptr;
    if (tensor.dtype == "U8") {
      ASSIGN_OR_RETURN(scales, Sfp8Scales(set, located, tensor));
      type = scales != nullptr ? std::optional(DType::kSFP8) : std::nullopt;
    }
    if (!type || tensor.shape.size() > 3) {
      return absl::InvalidArgumentError(Text(located.path, ": tensor ", located.name, " has the dtype ", tensor.dtype,
                                             " and ", tensor.shape.size(),
                                             " dimensions; expected F32, F16 or BF16 and at most 3"));
    }
    const std::vector<int64_t>& shape = tensor.shape;
    const size_t rank = shape.size();
    located.tensor = {.type = *type,
                      .data = tensor.data.data(),
                      .items = rank < 3 ? 1 : shape[0],
                      .rows = rank < 2 ? 1 : shape[rank - 2],
                      .cols = rank < 1 ? 1 : shape[rank - 1],
                      .scales = scales};
    return std::optional<Located>(std::move(located));
  }

  // Bytes are SFP8 where a tensor of the same name with ".sfp8_scale" holds a factor for each row; null where none
  // does.
  static absl::StatusOr<const float*> Sfp8Scales(const SafetensorsSet& set, const Located& located,
                                                 const SafetensorsTensor& tensor) {
    const auto entry = set.Find(Text(located.name, kSfp8ScaleSuffix));
    if (!entry || tensor.shape.empty()) {
      return nullptr;
    }
    const SafetensorsTensor& scales = *entry->tensor;
    const std::vector<int64_t> rows(tensor.shape.begin(), tensor.shape.end() - 1);
    if (scales.type != DType::kF32 || scales.shape != rows ||
        reinterpret_cast<uintptr_t>(scales.data.data()) % alignof(float) != 0) {
      return absl::InvalidArgumentError(Text(entry->file->path(), ": tensor ", scales.name, " is ", scales.dtype, " [",
                                             absl::StrJoin(scales.shape, ", "), "]; F32 [", absl::StrJoin(rows, ", "),
                                             "] at a multiple of 4 bytes ", "is expected, a factor for each row of ",
                                             located.name));
    }
    const auto* values = reinterpret_cast<const float*>(scales.data.data());
    for (size_t row = 0; row < scales.data.size() / sizeof(float); ++row) {
      if (!(std::isfinite(values[row]) && values[row] > 0.0F)) {
        return absl::InvalidArgumentError(Text(entry->file->path(), ": tensor ", scales.name, " holds ", values[row],
                                               " at ", row, "; a positive number is expected"));
      }
    }
    return values;
  }

  // What the names of this checkpoint begin with.
  static absl::StatusOr<std::string> Prefix(const SafetensorsSet& set, const std::string& path) {
    const std::string embedding = CanonicalName(TensorKind::kEmbedding, -1);
    for (const char* prefix : {"model.language_model.", "model.", "language_model.model."}) {
      if (set.Find(prefix + embedding)) {
        return std::string(prefix);
      }
    }
    return absl::InvalidArgumentError(
        Text(path, ": tensor model.language_model.", embedding, " or model.", embedding, " is missing"));
  }

  // Converters drop rows of the embedding beyond the tokenizer's last token.
  absl::Status ClampVocabulary(const Locate& locate) {
    ASSIGN_OR_RETURN(const auto embedding, locate(TensorKind::kEmbedding, -1, ""));
    if (embedding && embedding->tensor.rows > 0 && embedding->tensor.rows < config_.vocab) {
      config_.vocab = embedding->tensor.rows;
    }
    if (config_.per_layer_width > 0) {
      ASSIGN_OR_RETURN(const auto table, locate(TensorKind::kPerLayerEmbedding, -1, ""));
      if (table && table->tensor.rows > 0 && table->tensor.rows < config_.per_layer_vocab) {
        config_.per_layer_vocab = table->tensor.rows;
      }
    }
    return config_.Validate();
  }

  absl::Status ReadLayout(std::string_view text) {
    const auto in_file = [this](const absl::Status& status) {
      return absl::Status(status.code(), Text(path_, ": ", status.message()));
    };
    const absl::StatusOr<PlanLayout> layout = ParseLayout(text);
    if (!layout.ok()) {
      return in_file(layout.status());
    }
    if (layout->vocab > config_.vocab) {
      return absl::InvalidArgumentError(Text(path_, ": ", kPlanKey, " says ", layout->vocab,
                                             " rows of the embedding; the configuration has ", config_.vocab));
    }
    config_.vocab = layout->vocab;
    absl::StatusOr<ShardPlan> plan = MakeShardPlan(config_, {layout->tp, layout->ep}, layout->column_unit);
    if (!plan.ok()) {
      return in_file(plan.status());
    }
    layout_ = *std::move(plan);
    return absl::OkStatus();
  }

  // Finds and checks every tensor of the catalogue.
  absl::Status Index(const Locate& locate) {
    std::vector<Located> order;
    RETURN_IF_ERROR(layout_.has_value() ? IndexParts(locate, &order) : IndexWhole(locate, &order));
    revision_ = ComputeRevision(order);
    return absl::OkStatus();
  }

  // The same for each part that a rank of the layout holds.
  absl::Status IndexParts(const Locate& locate, std::vector<Located>* order) {
    for (const PlanPart& part : PartsOf(config_, *layout_)) {
      const TensorSlice& slice = part.slice;
      const std::string suffix = PartSuffix(part);
      const TensorSpec spec = {.kind = slice.kind,
                               .layer = slice.layer,
                               .items = slice.items.size(),
                               .rows = slice.rows.size(),
                               .cols = slice.cols.size()};
      ASSIGN_OR_RETURN(auto located, locate(slice.kind, slice.layer, suffix));
      if (!located) {
        return Missing(spec, suffix);
      }
      ASSIGN_OR_RETURN(const HostTensor tensor, Check(spec, *located));
      if (part.whole) {
        tensors_.emplace(std::pair(spec.kind, spec.layer), tensor);
      } else {
        auto& parts = parts_[{spec.kind, spec.layer}];
        if (!parts.empty() && parts.front().second.type != tensor.type) {
          return absl::InvalidArgumentError(
              Text(located->path, ": tensor ", located->name, " has the type ", kernels::Info(tensor.type).name,
                   ", another part of it ", kernels::Info(parts.front().second.type).name, "; one type is expected"));
        }
        parts.emplace_back(slice, tensor);
      }
      order->push_back(*std::move(located));
    }
    return absl::OkStatus();
  }

  absl::Status IndexWhole(const Locate& locate, std::vector<Located>* order) {
    for (const TensorSpec& spec : Catalogue(config_)) {
      ASSIGN_OR_RETURN(auto located, locate(spec.kind, spec.layer, ""));
      if (located) {
        RETURN_IF_ERROR(Keep(spec, *std::move(located), order));
        continue;
      }
      if (spec.kind != TensorKind::kExpertGateUp) {
        return Missing(spec);
      }
      // The split form of some GGUF files.
      for (const TensorKind half : {TensorKind::kExpertGate, TensorKind::kExpertUp}) {
        TensorSpec half_spec = spec;
        half_spec.kind = half;
        half_spec.rows = spec.rows / 2;
        ASSIGN_OR_RETURN(located, locate(half, spec.layer, ""));
        if (!located) {
          return Missing(spec);
        }
        RETURN_IF_ERROR(Keep(half_spec, *std::move(located), order));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Missing(const TensorSpec& spec, const std::string& suffix = "") const {
    return absl::InvalidArgumentError(Text(
        path_, ": tensor ", gguf_ != nullptr ? GgufName(spec.kind, spec.layer) : CanonicalName(spec.kind, spec.layer),
        suffix, " is missing; the configuration", layout_.has_value() ? Text(" and ", kPlanKey, " want ") : " wants ",
        ShapeText(spec.items, spec.rows, spec.cols)));
  }

  absl::Status Keep(const TensorSpec& spec, Located located, std::vector<Located>* order) {
    ASSIGN_OR_RETURN(const HostTensor tensor, Check(spec, located));
    tensors_.emplace(std::pair(spec.kind, spec.layer), tensor);
    order->push_back(std::move(located));
    return absl::OkStatus();
  }

  // The tensor, aligned.
  absl::StatusOr<HostTensor> Check(const TensorSpec& spec, const Located& located) {
    RETURN_IF_ERROR(CheckTensor(located, spec));
    HostTensor tensor = located.tensor;
    // The format's own writer pads headers, so that this copy never happens for its files.
    if (reinterpret_cast<uintptr_t>(tensor.data) % AlignmentOf(tensor.type) != 0) {
      const auto bytes = static_cast<size_t>(tensor.items * tensor.rows * kernels::RowBytes(tensor.type, tensor.cols));
      std::vector<std::byte>& copy = copies_.emplace_back(bytes);
      std::memcpy(copy.data(), tensor.data, bytes);
      tensor.data = copy.data();
    }
    return tensor;
  }

  void HashConfig(FieldHash* hash) const {
    for (const int64_t value :
         {static_cast<int64_t>(config_.family), int64_t{config_.hidden}, int64_t{config_.heads}, config_.vocab,
          int64_t{config_.sliding_window}, config_.context, int64_t{config_.per_layer_width}, config_.per_layer_vocab,
          int64_t{config_.experts}, int64_t{config_.experts_per_token}, int64_t{config_.expert_width},
          int64_t{config_.bidirectional_images}}) {
      hash->Add(value);
    }
    for (const double value :
         {double{config_.rms_eps}, double{config_.attention_scale}, double{config_.softcap}, double{norm_offset_}}) {
      hash->Add(value);
    }
    for (const RopeConfig* rope : {&config_.rope_sliding, &config_.rope_full}) {
      hash->Add(rope->theta);
      hash->Add(rope->factor);
      hash->Add(int64_t{rope->rotating});
    }
    for (const LayerConfig& layer : config_.layers) {
      for (const int value : {int{layer.full_attention}, layer.kv_heads, layer.head_dim, layer.mlp_width,
                              int{layer.v_from_k}, layer.kv_source}) {
        hash->Add(int64_t{value});
      }
    }
  }

  std::string ComputeRevision(const std::vector<Located>& order) const {
    uint64_t halves[2] = {0, 0};
    for (uint64_t seed = 0; seed < 2; ++seed) {
      FieldHash hash(seed);
      HashConfig(&hash);
      for (const Located& located : order) {
        hash.Add(located.name);
        hash.Add(BaseName(located.path));
        for (const int64_t value : {static_cast<int64_t>(located.offset), static_cast<int64_t>(located.tensor.type),
                                    located.tensor.items, located.tensor.rows, located.tensor.cols}) {
          hash.Add(value);
        }
      }
      const HostTensor& norm = tensors_.at({TensorKind::kFinalNorm, -1});
      hash.Add(std::string_view(reinterpret_cast<const char*>(norm.data),
                                static_cast<size_t>(kernels::RowBytes(norm.type, norm.cols))));
      halves[seed] = hash.value();
    }
    return absl::StrFormat("%016x%016x", halves[0], halves[1]);
  }

  std::unique_ptr<GgufFile> gguf_;
  std::unique_ptr<SafetensorsSet> safetensors_;
  std::vector<std::vector<std::byte>> copies_;
  std::map<std::pair<TensorKind, int>, HostTensor> tensors_;
  std::optional<ShardPlan> layout_;
  std::map<std::pair<TensorKind, int>, std::vector<std::pair<TensorSlice, HostTensor>>> parts_;
  float norm_offset_ = 0.0F;
  std::string revision_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(Text(path, ": no such directory or .gguf file"));
  }
  if (!std::filesystem::is_directory(path, error)) {
    ASSIGN_OR_RETURN(auto file, GgufFile::Open(path));
    return FromGguf(std::move(file));
  }
  for (const char* name : {"config.json", "config.hf5.json"}) {
    const std::string config_path = Text(path, "/", name);
    if (std::filesystem::exists(config_path, error)) {
      return MappedCheckpoint::OpenDirectory(path, config_path);
    }
  }
  const std::string gguf_path = Text(path, "/model.gguf");
  if (std::filesystem::exists(gguf_path, error)) {
    return Open(gguf_path);
  }
  return absl::NotFoundError(
      Text(path, ": neither config.json nor model.gguf is in this directory; is it a checkpoint?"));
}

absl::StatusOr<DType> Checkpoint::TypeOf(TensorKind kind, int layer) const {
  ASSIGN_OR_RETURN(const HostTensor tensor, Find(kind, layer));
  return tensor.type;
}

absl::StatusOr<kernels::PackSource> Checkpoint::Cut(const TensorSlice& held) const {
  const bool split = held.kind == TensorKind::kExpertGateUp && !Has(held.kind, held.layer);
  const TensorSlice slice = split ? InSplitForm(config_, held) : held;
  ASSIGN_OR_RETURN(const HostTensor tensor, Find(slice.kind, slice.layer));
  const auto inside = [](Range range, int64_t size) { return range.begin >= 0 && range.end <= size; };
  if (!inside(slice.items, tensor.items) || !inside(slice.rows, tensor.rows) || !inside(slice.cols, tensor.cols)) {
    return absl::InvalidArgumentError(Text(CanonicalName(slice.kind, slice.layer), " ",
                                           ShapeText(tensor.items, tensor.rows, tensor.cols),
                                           ": the plan asks for items up to ", slice.items.end, ", rows up to ",
                                           slice.rows.end, ", columns up to ", slice.cols.end));
  }
  return kernels::PackSource{.tensor = tensor, .items = slice.items, .rows = slice.rows, .cols = slice.cols};
}

std::vector<TensorSpec> TensorsOf(const Checkpoint& checkpoint) {
  std::vector<TensorSpec> specs;
  for (TensorSpec& spec : Catalogue(checkpoint.config())) {
    if (spec.kind != TensorKind::kExpertGateUp || checkpoint.Has(spec.kind, spec.layer)) {
      specs.push_back(spec);
      continue;
    }
    spec.rows /= 2;
    for (const TensorKind half : {TensorKind::kExpertGate, TensorKind::kExpertUp}) {
      spec.kind = half;
      specs.push_back(spec);
    }
  }
  return specs;
}

void HoldTables(const Checkpoint& checkpoint) {
  if (const auto table = checkpoint.Find(TensorKind::kPerLayerEmbedding, -1); table.ok()) {
    checkpoint.Advise(*table, Residency::kResident);
  }
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::FromGguf(std::unique_ptr<GgufFile> file) {
  return MappedCheckpoint::OpenGguf(std::move(file));
}

}  // namespace alphecca::model

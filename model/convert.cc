#include "model/convert.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "kernels/quant/quant.h"
#include "model/catalogue.h"
#include "model/messages.h"
#include "model/output_file.h"
#include "model/plan_layout.h"
#include "model/safetensors.h"
#include "nlohmann/json.hpp"

namespace alphecca::model {
namespace {

namespace fs = std::filesystem;
using kernels::DType;
using kernels::HostTensor;

constexpr int64_t kPieceBytes = int64_t{16} << 20;

// Files of a checkpoint directory besides its weights.
constexpr const char* kSideFiles[] = {
    "config.json",     "config.hf5.json",       "generation_config.json",  "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"};

// A tensor of the result: a part of one of the source, or all of it, and the type that it is written in.
struct Piece {
  PlanPart part;
  kernels::PackSource source;
  DType type = DType::kF32;
  float added = 0.0F;  // to each value: Gemma 3's norms, which GGUF stores whole

  TensorKind kind() const { return part.slice.kind; }
  int64_t cols() const { return part.slice.cols.size(); }
  int64_t rows() const { return part.slice.items.size() * part.slice.rows.size(); }
  int64_t row_bytes() const { return kernels::RowBytes(type, cols()); }
  int64_t bytes() const { return rows() * row_bytes(); }
  std::string Name() const { return CanonicalName(kind(), part.slice.layer) + PartSuffix(part); }
  // Where row `row` of the result is in the source's tensor.
  int64_t SourceRow(int64_t row) const {
    const int64_t in_item = part.slice.rows.size();
    return (source.items.begin + row / in_item) * source.tensor.rows + source.rows.begin + row % in_item;
  }
};

// One matrix an expert.
bool IsOfExperts(TensorKind kind) {
  return kind == TensorKind::kExpertGateUp || kind == TensorKind::kExpertGate || kind == TensorKind::kExpertUp ||
         kind == TensorKind::kExpertDown;
}

// The tensors to write: all of the source's, or the parts of the plan.
absl::StatusOr<std::vector<PlanPart>> PartsToWrite(const Checkpoint& checkpoint, const ConvertOptions& options) {
  if (options.tp > 0) {
    ASSIGN_OR_RETURN(const ShardPlan plan, MakeShardPlan(checkpoint, {options.tp, options.ep}, options.weights));
    return PartsOf(checkpoint.config(), plan);
  }
  std::vector<PlanPart> parts;
  for (const TensorSpec& spec : TensorsOf(checkpoint)) {
    const TensorSlice slice = {.kind = spec.kind,
                               .layer = spec.layer,
                               .items = {0, spec.items},
                               .rows = {0, spec.rows},
                               .cols = {0, spec.cols}};
    parts.push_back({.slice = slice, .whole = true, .section = -1});
  }
  return parts;
}

absl::StatusOr<std::vector<Piece>> PlanPieces(const Checkpoint& checkpoint, const ConvertOptions& options,
                                              bool f32_vectors) {
  ASSIGN_OR_RETURN(const std::vector<PlanPart> parts, PartsToWrite(checkpoint, options));
  std::vector<Piece> pieces;
  for (const PlanPart& part : parts) {
    Piece piece;
    piece.part = part;
    ASSIGN_OR_RETURN(piece.source, checkpoint.Cut(part.slice));
    const DType in_file = piece.source.tensor.type;
    if (IsVector(piece.kind())) {
      piece.type = f32_vectors ? DType::kF32 : in_file;
      piece.added = f32_vectors ? checkpoint.norm_offset() : 0.0F;
    } else {
      const auto held = HeldType(piece.kind(), in_file, options.weights);
      if (!held.ok()) {
        return absl::InvalidArgumentError(Text(checkpoint.path(), ": ", piece.Name(), ": ", held.status().message()));
      }
      piece.type = *held;
      const int block = kernels::Info(piece.type).block_elements;
      if (piece.cols() % block != 0) {
        return absl::InvalidArgumentError(Text(checkpoint.path(), ": ", piece.Name(), " has rows of ", piece.cols(),
                                               " weights, no whole number of ", kernels::Info(piece.type).name,
                                               " blocks of ", block));
      }
    }
    pieces.push_back(piece);
  }
  return pieces;
}

void ConvertRows(const Piece& piece, Range rows, std::byte* out, float* scales) {
  const HostTensor& t = piece.source.tensor;
  std::vector<float> scratch(static_cast<size_t>(t.cols));
  for (int64_t row = rows.begin; row < rows.end; ++row, out += piece.row_bytes()) {
    const int64_t source_row = piece.SourceRow(row);
    const std::byte* from = t.data + source_row * kernels::RowBytes(t.type, t.cols);
    if (piece.added != 0.0F) {
      kernels::DecodeRow(t.type, from, {0, t.cols}, t.RowScale(source_row), scratch.data());
      for (float& value : scratch) {
        value += piece.added;
      }
      kernels::EncodeRow(piece.type, scratch, 1.0F, out);
      continue;
    }
    const float scale = kernels::ConvertRow(t.type, from, t.cols, piece.source.cols, t.RowScale(source_row), piece.type,
                                            scratch.data(), out);
    if (scales != nullptr) {
      scales[row] = scale;
    }
  }
}

// Converts and writes tensors, and tells how far it is.
class PieceWriter {
 public:
  PieceWriter(OutputFile& file, const ConvertOptions& options, const std::vector<Piece>& pieces)
      : file_(file), options_(options) {
    for (const Piece& piece : pieces) {
      total_ += piece.bytes();
    }
  }

  // `scales`: of each row, where the type has them; may be null.
  absl::Status Write(const Piece& piece, uint64_t offset, float* scales) {
    const int64_t at_once = std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(piece.row_bytes(), 1));
    for (int64_t begin = 0; begin < piece.rows(); begin += at_once) {
      const Range rows = {begin, std::min(begin + at_once, piece.rows())};
      buffer_.resize(static_cast<size_t>(rows.size() * piece.row_bytes()));
      Convert(piece, rows, scales);
      RETURN_IF_ERROR(file_.WriteAt(offset + static_cast<uint64_t>(begin * piece.row_bytes()), buffer_));
      done_ += static_cast<int64_t>(buffer_.size());
      if (options_.progress) {
        options_.progress(done_, total_);
      }
    }
    return absl::OkStatus();
  }

 private:
  void Convert(const Piece& piece, Range rows, float* scales) {
    const int64_t threads = std::clamp<int64_t>(options_.threads, 1, rows.size());
    std::vector<std::thread> others;
    for (int64_t i = 0; i < threads; ++i) {
      const Range part = {rows.begin + rows.size() * i / threads, rows.begin + rows.size() * (i + 1) / threads};
      std::byte* out = buffer_.data() + (part.begin - rows.begin) * piece.row_bytes();
      if (i + 1 < threads) {
        others.emplace_back([&piece, part, out, scales] { ConvertRows(piece, part, out, scales); });
      } else {
        ConvertRows(piece, part, out, scales);
      }
    }
    for (std::thread& thread : others) {
      thread.join();
    }
  }

  OutputFile& file_;
  const ConvertOptions& options_;
  std::vector<std::byte> buffer_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

absl::Status CheckOutput(const Checkpoint& checkpoint, const ConvertOptions& options) {
  std::error_code error;
  if (options.out.empty()) {
    return absl::InvalidArgumentError("the output has no name");
  }
  if (!fs::exists(options.out, error)) {
    return absl::OkStatus();
  }
  if (fs::equivalent(options.out, checkpoint.path(), error)) {
    return absl::InvalidArgumentError(Text(options.out, " is the checkpoint that is read; give another name"));
  }
  return options.force ? absl::OkStatus()
                       : absl::AlreadyExistsError(Text(options.out, " is there already; --force replaces it"));
}

// That readers will see the same model.
absl::Status CheckConfig(const ModelConfig& written, ModelConfig wanted) {
  wanted.name = written.name;
  wanted.bidirectional_images = written.bidirectional_images;
  if (written != wanted) {
    return absl::InvalidArgumentError(
        "the configuration has what GGUF metadata of this architecture does not express; use --weights sfp8, or serve "
        "the checkpoint with --weights");
  }
  return absl::OkStatus();
}

// The format's number for the type of most weights.
uint32_t FileType(const std::vector<Piece>& pieces) {
  const auto down =
      std::find_if(pieces.begin(), pieces.end(), [](const Piece& piece) { return piece.kind() == TensorKind::kDown; });
  switch (down == pieces.end() ? DType::kF32 : down->type) {
    case DType::kQ4_0:
      return 2;
    case DType::kQ8_0:
      return 7;
    case DType::kQ4_K:
      return 15;
    case DType::kQ5_K:
      return 17;
    case DType::kQ6_K:
      return 18;
    case DType::kBF16:
      return 32;
    default:
      return 0;
  }
}

GgufTensorSpec GgufSpec(const Piece& piece) {
  GgufTensorSpec spec = {.name = GgufName(piece.kind(), piece.part.slice.layer) + PartSuffix(piece.part),
                         .size = {piece.cols()},
                         .type = piece.type,
                         .bytes = piece.bytes()};
  if (!IsVector(piece.kind())) {
    spec.size.push_back(piece.part.slice.rows.size());
    if (IsOfExperts(piece.kind())) {
      spec.size.push_back(piece.part.slice.items.size());
    }
  }
  return spec;
}

std::string_view SafetensorsType(DType type) {
  return type == DType::kSFP8 ? "U8" : kernels::Info(type).name;
}

// What a file laid out for a plan says of it; empty where tensors are whole.
absl::StatusOr<std::string> LayoutOf(const Checkpoint& checkpoint, const ConvertOptions& options) {
  if (options.tp == 0) {
    return std::string();
  }
  ASSIGN_OR_RETURN(const int64_t unit, ColumnUnit(checkpoint, options.weights));
  return LayoutText({.tp = options.tp, .ep = options.ep, .column_unit = unit, .vocab = checkpoint.config().vocab});
}

// Offsets from the start of the data, and the header. Of each section the scales come first: F32, and there while codes
// are written.
struct SafetensorsLayout {
  std::string header;
  std::vector<uint64_t> offsets;        // by piece
  std::vector<uint64_t> scale_offsets;  // by piece
};

SafetensorsLayout LayOut(const std::vector<Piece>& pieces, const std::string& plan) {
  SafetensorsLayout layout;
  layout.offsets.resize(pieces.size());
  layout.scale_offsets.resize(pieces.size());
  nlohmann::ordered_json json = {{"__metadata__", {{"format", "pt"}}}};
  if (!plan.empty()) {
    json["__metadata__"][std::string(kPlanKey)] = plan;
  }
  uint64_t end = 0;
  const auto add = [&](const std::string& name, std::string_view type, const std::vector<int64_t>& shape,
                       int64_t bytes) {
    const uint64_t begin = std::exchange(end, end + static_cast<uint64_t>(bytes));
    json[name] = {{"dtype", type}, {"shape", shape}, {"data_offsets", {begin, end}}};
    return begin;
  };
  const auto shape_of = [](const Piece& piece) {
    std::vector<int64_t> shape = {piece.cols()};
    if (!IsVector(piece.kind())) {
      shape.insert(shape.begin(), piece.part.slice.rows.size());
      if (IsOfExperts(piece.kind())) {
        shape.insert(shape.begin(), piece.part.slice.items.size());
      }
    }
    return shape;
  };
  for (size_t begin = 0, end_of_section = 0; begin < pieces.size(); begin = end_of_section) {
    while (end_of_section < pieces.size() && pieces[end_of_section].part.section == pieces[begin].part.section) {
      ++end_of_section;
    }
    for (size_t i = begin; i < end_of_section; ++i) {
      if (pieces[i].type == DType::kSFP8) {
        std::vector<int64_t> rows = shape_of(pieces[i]);
        rows.pop_back();
        layout.scale_offsets[i] = add(Text("model.", pieces[i].Name(), kSfp8ScaleSuffix), "F32", rows,
                                      pieces[i].rows() * static_cast<int64_t>(sizeof(float)));
      }
    }
    // The widest elements first, so that all are aligned: codes are a multiple of 32 in a matrix.
    for (const int width : {4, 2, 1}) {
      for (size_t i = begin; i < end_of_section; ++i) {
        if (kernels::Info(pieces[i].type).block_bytes == width) {
          layout.offsets[i] =
              add("model." + pieces[i].Name(), SafetensorsType(pieces[i].type), shape_of(pieces[i]), pieces[i].bytes());
        }
      }
    }
  }
  layout.header = json.dump();
  layout.header.resize((layout.header.size() + 7) / 8 * 8, ' ');
  return layout;
}

absl::Status WriteSafetensors(const std::vector<Piece>& pieces, const std::string& plan, const std::string& path,
                              const ConvertOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, OutputFile::Create(path));
  const SafetensorsLayout layout = LayOut(pieces, plan);
  const uint64_t header_bytes = layout.header.size();
  RETURN_IF_ERROR(file->WriteAt(0, std::as_bytes(std::span(&header_bytes, 1))));
  RETURN_IF_ERROR(file->WriteAt(sizeof(header_bytes), std::as_bytes(std::span(layout.header))));
  const uint64_t start = sizeof(header_bytes) + header_bytes;
  PieceWriter writer(*file, options, pieces);
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::vector<float> scales(pieces[i].type == DType::kSFP8 ? static_cast<size_t>(pieces[i].rows()) : 0, 1.0F);
    RETURN_IF_ERROR(writer.Write(pieces[i], start + layout.offsets[i], scales.empty() ? nullptr : scales.data()));
    RETURN_IF_ERROR(file->WriteAt(start + layout.scale_offsets[i], std::as_bytes(std::span(scales))));
  }
  return file->Commit();
}

// Only what convert itself writes may be replaced: a mistyped path must not cost a folder of other things.
absl::Status CheckReplaceable(const fs::path& directory) {
  std::error_code error;
  if (!fs::exists(directory, error)) {
    return absl::OkStatus();
  }
  if (!fs::is_directory(directory, error)) {
    return absl::InvalidArgumentError(Text(directory.string(), " is a file; a name of a directory is wanted"));
  }
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool ours =
        name == "model.safetensors" || name == "model.safetensors.partial" ||
        std::any_of(std::begin(kSideFiles), std::end(kSideFiles), [&](const char* side) { return name == side; });
    if (!ours) {
      return absl::FailedPreconditionError(
          Text(directory.string(), " holds ", Quoted(name), ", which convert does not write: it is not replaced"));
    }
  }
  return error ? absl::InternalError(Text(directory.string(), ": cannot be listed: ", error.message()))
               : absl::OkStatus();
}

absl::Status Remove(const fs::path& directory) {
  RETURN_IF_ERROR(CheckReplaceable(directory));
  std::error_code error;
  fs::remove_all(directory, error);
  return error ? absl::InternalError(Text(directory.string(), ": cannot be removed: ", error.message()))
               : absl::OkStatus();
}

absl::Status FillDirectory(const Checkpoint& checkpoint, const std::vector<Piece>& pieces, const fs::path& directory,
                           const ConvertOptions& options) {
  std::error_code error;
  for (const char* name : kSideFiles) {
    const fs::path from = fs::path(checkpoint.path()) / name;
    if (fs::exists(from, error) && !fs::copy_file(from, directory / name, error)) {
      return absl::InternalError(Text((directory / name).string(), ": cannot be written: ", error.message()));
    }
  }
  ASSIGN_OR_RETURN(const std::string plan, LayoutOf(checkpoint, options));
  RETURN_IF_ERROR(WriteSafetensors(pieces, plan, (directory / "model.safetensors").string(), options));
  return Checkpoint::Open(directory.string()).status();
}

}  // namespace

absl::Status ConvertToGguf(const Checkpoint& checkpoint, const GgufMetadata& tokenizer, const ConvertOptions& options) {
  std::error_code error;
  if (fs::is_directory(options.out, error)) {
    return absl::InvalidArgumentError(Text(options.out, " is a directory; a name of a .gguf file is wanted"));
  }
  RETURN_IF_ERROR(CheckOutput(checkpoint, options));
  ASSIGN_OR_RETURN(const std::vector<Piece> pieces, PlanPieces(checkpoint, options, true));
  if (std::any_of(pieces.begin(), pieces.end(), [](const Piece& piece) { return piece.type == DType::kSFP8; })) {
    return absl::InvalidArgumentError("GGUF has no SFP8 type; sfp8 is written as safetensors");
  }
  GgufMetadata metadata;
  if (checkpoint.gguf() != nullptr) {
    metadata.CopyFrom(*checkpoint.gguf());
  } else {
    ConfigToGguf(checkpoint.config(), metadata);
    metadata.Append(tokenizer);
  }
  metadata.U32("general.file_type", FileType(pieces));
  metadata.U32("general.quantization_version", 2);
  ASSIGN_OR_RETURN(const std::string plan, LayoutOf(checkpoint, options));
  if (!plan.empty()) {
    metadata.String(kPlanKey, plan);
  }

  const std::vector<float> factors = RopeFactors(checkpoint.config());
  std::vector<GgufTensorSpec> specs;
  specs.reserve(pieces.size() + 1);
  for (const Piece& piece : pieces) {
    specs.push_back(GgufSpec(piece));
  }
  if (!factors.empty()) {
    const auto count = static_cast<int64_t>(factors.size());
    specs.push_back({.name = "rope_freqs.weight",
                     .size = {count},
                     .type = DType::kF32,
                     .bytes = count * static_cast<int64_t>(sizeof(float))});
  }
  const std::string head = GgufHead(metadata, specs);
  ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, OutputFile::Create(options.out));
  RETURN_IF_ERROR(file->WriteAt(0, std::as_bytes(std::span(head))));
  PieceWriter writer(*file, options, pieces);
  for (size_t i = 0; i < pieces.size(); ++i) {
    RETURN_IF_ERROR(writer.Write(pieces[i], specs[i].offset, nullptr));
  }
  RETURN_IF_ERROR(file->WriteAt(specs.back().offset, std::as_bytes(std::span(factors))));
  // Readers want the last tensor whole with its padding.
  const uint64_t end = specs.back().offset + static_cast<uint64_t>(specs.back().bytes);
  const std::vector<std::byte> padding((kGgufAlignment - end % kGgufAlignment) % kGgufAlignment);
  RETURN_IF_ERROR(file->WriteAt(end, padding));
  RETURN_IF_ERROR(file->Flush());
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> written, Checkpoint::Open(file->partial_path()));
  RETURN_IF_ERROR(CheckConfig(written->config(), checkpoint.config()));
  return file->Commit();
}

absl::Status ConvertToSafetensors(const Checkpoint& checkpoint, const ConvertOptions& options) {
  if (checkpoint.gguf() != nullptr || options.weights == WeightType::kQ4_0) {
    return absl::InvalidArgumentError(
        checkpoint.gguf() != nullptr ? Text(checkpoint.path(),
                                            ": a GGUF file has no config.json and tokenizer.json, which a safetensors "
                                            "checkpoint needs; give a Hugging Face directory")
                                     : "safetensors have no Q4_0 type; q4_0 is written as GGUF");
  }
  RETURN_IF_ERROR(CheckOutput(checkpoint, options));
  ASSIGN_OR_RETURN(const std::vector<Piece> pieces, PlanPieces(checkpoint, options, false));
  fs::path out = fs::path(options.out).lexically_normal();
  out = out.has_filename() ? out : out.parent_path();
  const fs::path partial = PartialPath(out.string());
  RETURN_IF_ERROR(CheckReplaceable(out));
  RETURN_IF_ERROR(Remove(partial));
  std::error_code error;
  if (!fs::create_directory(partial, error)) {
    return absl::InternalError(Text(partial.string(), ": cannot be made: ", error.message()));
  }
  absl::Status status = FillDirectory(checkpoint, pieces, partial, options);
  if (status.ok()) {
    status = Remove(out);
  }
  if (status.ok()) {
    fs::rename(partial, out, error);
    status =
        error ? absl::InternalError(Text(out.string(), ": cannot be renamed to: ", error.message())) : absl::OkStatus();
  }
  if (!status.ok()) {
    fs::remove_all(partial, error);
  }
  return status;
}

}  // namespace alphecca::model

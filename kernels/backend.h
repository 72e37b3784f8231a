// The contract of a device: every tensor operation that Gemma's forward pass is made of.
//
// A Backend is a stream. Buffers and matrices are opaque: callers pass handles and never read through them. An op
// enqueues work and returns; results reach the host only by Read(). No op depends, on the host, on a value
// computed on the device. Device faults are sticky and surface at the next Read() or Synchronize().
//
// Batch invariance: each output row is the same bits whatever other rows share the call and whatever the number of
// threads, on one backend and instruction set. Reductions run in an order fixed by the shape of one row.
//
// Shape letters: T rows (tokens) of a step, R rows that want logits, D model width, H query heads, K kv heads,
// Hd head width, F mlp width, E experts, k experts of a token, V vocabulary, S tokens of a KV block.
// Activations are F32 [rows, cols], row-major, `stride` elements from row to row. Unless an op says so, outputs
// alias no input. Sizes are checked when matrices are packed and buffers made; ops on mismatched shapes are a bug
// of the caller and abort.
//
// Thread rule: one Backend instance a rank, used by one thread at a time. No globals: ranks may be threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/range.h"
#include "kernels/dtype.h"
#include "kernels/sampling.h"

namespace alphecca::kernels {

// A dense row-major matrix in the backend's memory. Not owning; the pointer belongs to the device.
struct Tensor {
  void* data = nullptr;
  DType type = DType::kF32;  // kF32, kI32
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next, >= cols
};

// A tensor as a file holds it: [items, rows, cols], whole, in host memory.
struct HostTensor {
  DType type = DType::kF32;
  const std::byte* data = nullptr;
  int64_t items = 1;  // experts; 1 otherwise
  int64_t rows = 0;
  int64_t cols = 0;
  const float* scales = nullptr;  // [items, rows], each multiplies the values of its row (SFP8); null: all 1

  float RowScale(int64_t item_row) const { return scales == nullptr ? 1.0F : scales[item_row]; }
};

// What part of a HostTensor goes into a Matrix. cols begin and end on a block of the source type.
struct PackSource {
  HostTensor tensor;
  Range items;
  Range rows;
  Range cols;
  // Begins the next items of the matrix, instead of standing under the source before it in the same items.
  bool next_items = false;
};

// A weight matrix [items, rows, cols] in the backend's own layout, y = M x. Owns its bytes.
class Matrix {
 public:
  virtual ~Matrix() = default;
  DType type = DType::kF32;  // a run-time type: see IsRuntimeType
  int64_t items = 1;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t bytes = 0;  // resident
};

// Device memory. Freed with the object; the Backend must outlive it.
class Buffer {
 public:
  virtual ~Buffer() = default;
  void* data = nullptr;
  int64_t bytes = 0;
};

class Stream {
 public:
  virtual ~Stream() = default;
};

// One layer's shape of a KV pool.
struct KvLayerShape {
  int kv_heads = 0;
  int head_dim = 0;
};

struct KvPoolSpec {
  std::vector<KvLayerShape> layers;  // the layers that own KV in this pool, in model order
  int block_tokens = 16;             // S
  int64_t num_blocks = 0;
  int num_slots = 0;                // sequences that may hold a block table at once
  int64_t max_blocks_per_slot = 0;  // columns of the block table: ceil(context / S)
  DType type = DType::kBF16;        // kBF16, kF32, or kQ8_0: head_dim a multiple of 32
};

// Paged K and V of the layers of one pool, and the block table [num_slots, max_blocks_per_slot] of its sequences.
// Block b of a slot holds positions b*S .. b*S+S-1. The layout inside a block is the backend's own.
class KvPool {
 public:
  virtual ~KvPool() = default;
  KvPoolSpec spec;
  int64_t bytes = 0;
};

// Keys a row may see: first <= key <= last (absolute positions).
struct KeyRange {
  int32_t first = 0;
  int32_t last = -1;
};

struct BlockTableUpdate {
  int32_t slot = 0;
  int32_t index = 0;  // logical block of the sequence
  int32_t block = 0;  // physical block of the pool, or -1: none
};

enum PoolKind : int { kFullPool = 0, kSlidingPool = 1 };

// From this step on a slot's logits follow these rules, whatever it had before.
struct SlotOpening {
  int32_t slot = 0;
  const LogitRules* rules = nullptr;  // null or empty: none
};

// Everything of one step that varies, on the host; handed over once by Upload. Spans live until Upload returns.
struct StepInput {
  std::span<const int32_t> tokens;              // [T] id, or -1 - slot: the token that this slot sampled last
  std::span<const int32_t> positions;           // [T] absolute, 0-based
  std::span<const int32_t> slots;               // [T]
  std::span<const KeyRange> full;               // [T] visible keys in full-attention layers
  std::span<const KeyRange> sliding;            // [T] visible keys in sliding layers
  std::span<const int32_t> soft;                // [T] row of soft_rows to use in place of the id, or -1; empty: none
  std::span<const float> soft_rows;             // [n, D] unscaled
  std::span<const int32_t> logit_rows;          // [R] rows of the step whose logits are wanted, rising
  std::span<const SamplingRow> sampling;        // [R]
  std::span<const BlockTableUpdate> tables[2];  // by PoolKind; applied before the step
  std::span<const SlotOpening> opens;           // applied before the step
  std::span<const uint32_t> masks;              // [n, mask_words], see MaskWords; SamplingRow.mask names a row of them
  int64_t mask_words = 0;
};

// A StepInput on the device. Valid until the next Upload on the same stream... and its T and R.
class Step {
 public:
  virtual ~Step() = default;
  int64_t rows = 0;        // T
  int64_t logit_rows = 0;  // R
};

// ---- Arguments of ops -------------------------------------------------------------------------------------------

// out[t] = scale * M[id(t) - first_row] if id(t) lies in the matrix, else 0; soft rows: the soft row as it is (on
// the rank with `takes_soft`; 0 on others).
struct EmbedArgs {
  const Matrix* matrix = nullptr;
  int64_t first_row = 0;
  float scale = 1.0F;
  bool takes_soft = true;
  Tensor out;  // [T, D]
};

// ple[t] = (rms(ctx[t,l]) * norm + table[id(t)][l] * table_scale) * 2^-1/2 for each layer l of width d; soft rows
// use row 0 of the table. The table is the mapped form: host memory, rows of L*d, any file type.
struct PerLayerInputArgs {
  HostTensor table;  // [V, L*d]
  float table_scale = 16.0F;
  Tensor ctx;                    // [T, L*d], already scaled by D^-1/2; may alias out
  const Buffer* norm = nullptr;  // f32 [d]
  int64_t width = 0;             // d
  float eps = 1e-6F;
  Tensor out;  // [T, L*d]
};

// out = rms(in) * weight over cols; weight null: ones. in may alias out.
struct RmsNormArgs {
  Tensor in;
  const Buffer* weight = nullptr;  // f32 [cols]
  float eps = 1e-6F;
  Tensor out;
};

// x = (x + rms(y) * post) * scale, then (if next is set) out = rms(x) * next. Joins the end of a branch with the
// norm that begins the following one. `post_next` unset leaves out.data unused.
struct ResidualNormArgs {
  Tensor x;                      // [T, D] in and out
  Tensor y;                      // [T, D]
  const Buffer* post = nullptr;  // f32 [D]
  float scale = 1.0F;            // the layer scalar, where the branch ends the layer
  const Buffer* next = nullptr;  // f32 [D] or null
  float eps = 1e-6F;
  Tensor out;  // [T, D] if next
};

// out = rms(a) * wa + rms(b) * wb: the meeting of the dense and the expert part of an MoE layer.
struct AddNormsArgs {
  Tensor a;
  const Buffer* weight_a = nullptr;
  Tensor b;
  const Buffer* weight_b = nullptr;
  float eps = 1e-6F;
  Tensor out;  // may alias a or b
};

// out = in * M^T, times `scale`. F32 in and out; the matrix's type decides how (see BackendOptions.activations).
struct MatMulArgs {
  Tensor in;  // [T, cols]
  const Matrix* matrix = nullptr;
  float scale = 1.0F;
  Tensor out;  // [T, rows]
};

// out = gelu_tanh(G in) * (U in), gate_up = G rows then U rows.
struct GatedMatMulArgs {
  Tensor in;                        // [T, cols]
  const Matrix* gate_up = nullptr;  // [2F, cols]
  Tensor out;                       // [T, F]
};

// a = gelu_tanh(a) * b.
struct GeluMulArgs {
  Tensor a;  // [T, n]
  Tensor b;  // [T, n]
};

// RoPE of one layer type: pair (i, i + Hd/2) turns by position * frequencies[i], both rounded to f32.
struct Rope {
  const Buffer* frequencies = nullptr;  // f32 [Hd/2], 0 where nothing turns
};

// Norms and rotates the query heads in place; norms and rotates K, norms V (unless gemma3), writes both to the pool
// at each row's position. qkv: H query heads, K key heads, K value heads of Hd each; without value heads (v_from_k)
// V is the raw key; kv_heads 0: queries only (a layer that shares KV).
struct QkvArgs {
  Tensor qkv;  // [T, (H + 2K) Hd], or [T, (H + K) Hd] if v_from_k; queries are overwritten
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  bool v_from_k = false;
  bool norm_v = true;
  const Buffer* q_norm = nullptr;  // f32 [Hd]
  const Buffer* k_norm = nullptr;  // f32 [Hd], null if kv_heads is 0
  float eps = 1e-6F;
  Rope rope;
  PoolKind pool_kind = kFullPool;
  KvPool* pool = nullptr;
  int pool_layer = 0;
};

// Softmax attention over paged keys. Query head j of this rank is head first_head + j of the model and reads kv head
// (first_head + j) / group - first_kv_head of the pool. Softmax in F32; a row with no visible key gives 0.
struct AttendArgs {
  Tensor q;  // [T, H Hd], stride that of qkv
  int heads = 0;
  int head_dim = 0;
  int first_head = 0;
  int first_kv_head = 0;
  int group = 1;  // query heads a kv head serves in the whole model
  float scale = 1.0F;
  PoolKind pool_kind = kFullPool;  // also selects StepInput.full or .sliding
  const KvPool* pool = nullptr;
  int pool_layer = 0;
  Tensor out;  // [T, H Hd]
};

// The k most probable experts of each row: softmax over all E in F32, k largest (lowest id on a tie), renormalised,
// times expert_scale. By falling probability.
struct RouteArgs {
  Tensor logits;                         // [T, E]
  const Buffer* expert_scale = nullptr;  // f32 [E]
  int k = 0;
  Tensor ids;      // [T, k] i32
  Tensor weights;  // [T, k] f32
};

// Homes of experts: a tensor [E, 2C] of i32, for each copy of an expert the rank that holds it and its place among that
// rank's experts; rank -1: no more copies. The c copies of an expert share its rows: the row at position p takes copy
// p mod c, whatever other rows there are.

// ids become places: of each row's choices that `rank` computes, the place among its experts; -1 for others.
struct PlaceExpertsArgs {
  Tensor homes;
  int rank = 0;
  Tensor ids;  // [T, k] i32, in: experts of the model
};

// Groups rows by the ranks that compute their experts, ready to be exchanged. A row goes once to each rank that
// computes one of its choices: its values, its k weights and k places there, -1 for choices that are computed
// elsewhere.
struct DispatchArgs {
  Tensor in;       // [T, D]
  Tensor ids;      // [T, k] i32, experts of the model
  Tensor weights;  // [T, k]
  Tensor homes;
  Tensor out;     // [T min(ranks, k), D + 2k]: the rows for rank 0, then for rank 1, ...; places as bits of i32
  Tensor counts;  // [1, ranks] i32: rows for each rank
  Tensor rows;    // [T, ranks] i32: which row of `out` holds row t for a rank, or -1
};

// out[t] = sum of in[rows[t][rank]] over the ranks in their order, where that is not -1: undoes Dispatch once the
// experts have answered.
struct CombineArgs {
  Tensor in;    // [T min(ranks, k), D]
  Tensor rows;  // [T, ranks] i32
  Tensor out;   // [T, D]
};

// out[t] = sum over the choices of row t whose place lies in [0, items), in the order of ids, of
// weight * D_e (gelu(G_e in) * (U_e in)); 0 where none does. gate_up is [items, 2I, D], down [items, D, I].
// load[e] += the rows that chose place e, modulo 2^32; without data: not counted.
struct ExpertsArgs {
  Tensor in;  // [T, D]
  const Matrix* gate_up = nullptr;
  const Matrix* down = nullptr;
  Tensor ids;        // [T, k] i32: places among the matrices' items
  Tensor weights;    // [T, k] f32
  Tensor out;        // [T, D]
  Tensor load = {};  // [1, items] i32, in and out
  Tensor live = {};  // [1, 1] i32: how many rows of `in` there are, at most T; without data: T. Others are left out
};

// out[r] = in[logit_rows[r]].
struct GatherRowsArgs {
  Tensor in;   // [T, n]
  Tensor out;  // [R, n]
};

// logits = cap * tanh(logits / cap), in place. cap 0: nothing.
struct SoftcapArgs {
  Tensor logits;
  float cap = 0.0F;
};

// Reduces a rank's slice of the vocabulary to the candidates that sampling needs: see kernels/sampling.h. Rows with
// rules or a mask choose from adjusted logits (kernels/logit_rules.h); `logits` stay as they are.
struct CandidatesArgs {
  Tensor logits;  // [R, vocabulary slice], after the soft cap
  int64_t first_token = 0;
  int count = 1;        // candidates a row: CandidateCount over the step's rows
  void* out = nullptr;  // R records of CandidateRecordBytes(count) each
};

// Merges the records of all ranks (rank-major: [ranks][R]) into one choice a row, remembers the token as what the row's
// slot sampled last, and counts it in the slot's history if the row follows its rules. The same on every rank.
struct ChooseArgs {
  const void* records = nullptr;
  int ranks = 1;
  int count = 1;
  void* out = nullptr;  // R records of ChoiceBytes(count)
};

// ---- The contract -----------------------------------------------------------------------------------------------

enum class Activations {
  kDefault,  // whole numbers against Q4_0, Q8_0, Q4_K, Q5_K, Q6_K: of how many bits is the backend's; F32 else
  kF32,      // F32 against every type
};

struct BackendOptions {
  Activations activations = Activations::kDefault;
  int threads = 0;  // 0: what the process may use
  // Keeps each worker thread on a CPU of its own, if there are exactly as many threads as CPUs that the process may run
  // on. With fewer, ranks that share the machine would meet on the same CPUs while others are free.
  bool pin_threads = false;
};

// Cost of an op, for rooflines and traces: bytes moved to and from memory, floating-point (or int8) operations.
struct OpCost {
  int64_t bytes = 0;
  int64_t flops = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string Name() const = 0;     // "ref", "cpu"
  virtual std::string IsaPath() const = 0;  // part of the fingerprint: "scalar", "avx2".. "amx"
  virtual Activations activations() const = 0;

  // --- Memory. InvalidArgument, ResourceExhausted.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) = 0;
  // The rows of the sources one under another (per item), those after a `next_items` in the items that follow;
  // converted to `type` (a run-time type).
  virtual absl::StatusOr<std::unique_ptr<Matrix>> Pack(std::span<const PackSource> sources, DType type) = 0;
  virtual absl::StatusOr<std::unique_ptr<KvPool>> CreateKvPool(const KvPoolSpec& spec) = 0;

  // --- Streams.
  virtual std::unique_ptr<Stream> CreateStream() = 0;
  virtual void Write(Stream&, Buffer& to, int64_t offset, std::span<const std::byte> from) = 0;
  // Waits for all work before it on the stream. Reports device faults.
  virtual absl::Status Read(Stream&, const void* device, std::span<std::byte> to) = 0;
  virtual absl::Status Synchronize(Stream&) = 0;
  // Uploads a step, opens its slots and applies its block table updates to the pools (either may be null).
  virtual std::unique_ptr<Step> Upload(Stream&, const StepInput& input, KvPool* full, KvPool* sliding) = 0;
  // Forgets what slots sampled (num_slots tokens that ChooseArgs writes and StepInput.tokens refers to), and their
  // rules. A slot's rules take memory only while it has some.
  virtual absl::Status ReserveSlots(int num_slots) = 0;

  // --- Ops, in the order of a forward pass.
  virtual void Embed(Stream&, const Step&, const EmbedArgs&) = 0;
  virtual void PerLayerInput(Stream&, const Step&, const PerLayerInputArgs&) = 0;
  virtual void RmsNorm(Stream&, const RmsNormArgs&) = 0;
  virtual void ResidualNorm(Stream&, const ResidualNormArgs&) = 0;
  virtual void AddNorms(Stream&, const AddNormsArgs&) = 0;
  virtual void MatMul(Stream&, const MatMulArgs&) = 0;
  virtual void GatedMatMul(Stream&, const GatedMatMulArgs&) = 0;
  virtual void GeluMul(Stream&, const GeluMulArgs&) = 0;
  virtual void Qkv(Stream&, const Step&, const QkvArgs&) = 0;
  virtual void Attend(Stream&, const Step&, const AttendArgs&) = 0;
  virtual void Route(Stream&, const RouteArgs&) = 0;
  virtual void PlaceExperts(Stream&, const Step&, const PlaceExpertsArgs&) = 0;
  virtual void Dispatch(Stream&, const Step&, const DispatchArgs&) = 0;
  virtual void Experts(Stream&, const ExpertsArgs&) = 0;
  virtual void Combine(Stream&, const CombineArgs&) = 0;
  virtual void GatherRows(Stream&, const Step&, const GatherRowsArgs&) = 0;
  virtual void Softcap(Stream&, const SoftcapArgs&) = 0;
  virtual void Candidates(Stream&, const Step&, const CandidatesArgs&) = 0;
  virtual void Choose(Stream&, const Step&, const ChooseArgs&) = 0;

  // --- KV outside a step.
  // Copies block `from` to `to` in every layer of the pool.
  virtual void KvCopy(Stream&, KvPool& pool, int32_t from, int32_t to) = 0;
  // Positions [range) of a slot, canonical f32 [K, n, Hd].
  virtual absl::Status KvExport(Stream&, const KvPool& pool, int layer, int32_t slot, Range positions,
                                std::span<float> key, std::span<float> value) = 0;
  virtual absl::Status KvImport(Stream&, KvPool& pool, int layer, int32_t slot, Range positions,
                                std::span<const float> key, std::span<const float> value) = 0;

  // Bytes of scratch that ops need beyond their arguments for steps of at most max_rows rows; kept by the backend.
  virtual int64_t WorkspaceBytes(int64_t max_rows) const = 0;
};

// Costs by shape alone; the same for all backends. kernels/cost.cc.
OpCost Cost(const MatMulArgs&);
OpCost Cost(const GatedMatMulArgs&);
OpCost Cost(const ExpertsArgs&);
// keys: sum over rows of visible keys.
OpCost Cost(const AttendArgs&, int64_t keys);

}  // namespace alphecca::kernels

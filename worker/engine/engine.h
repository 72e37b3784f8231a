// The leader's engine: admits sequences, makes step plans, runs them on every rank, streams tokens out.
//
// One thread of its own runs the loop. Open and Cancel only enqueue and may be called by any thread; they take effect
// at the next step. Every opened sequence gets exactly one last update (finish or error), also when the engine stops.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "model/prefix_hash.h"
#include "worker/engine/block_pool.h"
#include "worker/engine/shard_runner.h"
#include "worker/engine/step_plan.h"

namespace alphecca::engine {

enum class Finish { kStop, kLength, kCancelled };

// Which tokens a sequence may sample next, one by one: what constrained decoding needs. Follows one sequence; called on
// the engine's thread: must not block. A sequence that loses its slot and gets another keeps it.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Sets bit t % 32 of word t / 32 of each token t that may be next; all are clear before. None set: the sequence ends
  // with an error.
  virtual void Allow(std::span<uint32_t> words) = 0;
  // The token that was sampled.
  virtual void Take(int32_t token) = 0;
};

struct SequenceRequest {
  SequenceId id;  // unique within the sink
  std::vector<int32_t> prompt;
  int32_t answer_tokens = 0;      // the last of the prompt that were generated: to penalties they are the answer's
  kernels::SamplingRow sampling;  // slot, position, wanted, keep, rules, mask, top_logprobs ignored
  kernels::LogitRules rules;      // history empty: it follows from the prompt
  std::shared_ptr<TokenConstraint> constraint;  // null: none; shared as requests are copied, used by one sequence
  int32_t max_tokens = 1;
  std::vector<int32_t> stop_ids;
  int logprobs = -1;  // alternatives with each token, -1: none
  int prompt_logprobs = -1;
  std::string tenant;          // whose share of the engine it takes, and whose prefixes it may meet in the cache
  double tenant_weight = 1.0;  // that share against other tenants' shares; > 0
  int32_t priority = 0;
  int32_t window = 4096;  // tokens that may await credit
  absl::Time deadline = absl::InfiniteFuture();
};

struct SequenceUpdate {
  SequenceId id;
  std::vector<int32_t> ids;
  std::vector<StepChoice> logprobs;         // one an id, if asked for
  std::vector<StepChoice> prompt_logprobs;  // once: token = the prompt token, logprob of it
  std::optional<Finish> finish;
  absl::Status error;         // not ok: the sequence ended by it
  int32_t cached_tokens = 0;  // of the prompt, found in the prefix cache; with the first token
};

// Where a client's updates go. Called on the engine's thread: must not block. Shared by the RPC that detaches it.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnStep(std::vector<SequenceUpdate> updates, int running, int waiting) = 0;
};

// Follows the prefix cache, for a router. Called on the engine's thread: must not block.
class BlockWatcher {
 public:
  virtual ~BlockWatcher() = default;
  virtual void OnBlocks(const BlockEvents& events) = 0;
};

// How plans reach the other ranks. A group of one has none.
class Followers {
 public:
  virtual ~Followers() = default;
  // Enqueues the plan to every follower, in order. Unavailable if one is gone.
  virtual absl::Status Send(const StepPlan& plan) = 0;
};

struct EngineOptions {
  Epoch epoch{};
  int max_waiting = 1024;                              // sequences queued, fairly between tenants: see FairBound
  int64_t step_tokens = 256;                           // rows of a step at most (prefill chunks and decodes together)
  absl::Duration step_time = absl::Milliseconds(250);  // of a step in which one decodes while prompts are read
  bool prefix_cache = true;
  model::PrefixKey prefix_key = {};             // of the prefix cache's names
  std::string revision = {};                    // of the model, which the names cover
  std::function<absl::Time()> now = absl::Now;  // what deadlines are held against, once a step
  // Called on the engine's thread as a sequence joins its first step, with the time since Open. May be null.
  std::function<void(absl::Duration queued)> on_admitted = nullptr;
};

struct EngineCounts {
  int running = 0;
  int waiting = 0;
  int64_t full_blocks_used = 0;
  int64_t sliding_blocks_used = 0;
  int64_t full_blocks_idle = 0;  // in the prefix cache, used by no sequence
  int64_t sliding_blocks_idle = 0;
  int64_t preemptions = 0;
  int64_t prompt_tokens = 0;  // of sequences that joined, and joined again
  int64_t cached_tokens = 0;  // of them, those found in the prefix cache
  uint64_t steps = 0;
};

class Engine {
 public:
  // The runner and followers must outlive the engine. Starts the thread.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options, ShardRunner& runner,
                                                        Followers* followers);
  virtual ~Engine() = default;  // stops; not to be called from a sink or on_broken

  // InvalidArgument: prompt empty, a token out of range, prompt + max_tokens over the context (each names the
  // value and the limit). ResourceExhausted: the queue is full, see max_waiting. Unavailable: stopped or broken.
  virtual absl::Status Open(std::shared_ptr<TokenSink> sink, SequenceRequest request) = 0;
  virtual void Cancel(const std::shared_ptr<TokenSink>& sink, SequenceId id) = 0;
  // The client has taken `tokens` more of the sequence.
  virtual void Credit(const std::shared_ptr<TokenSink>& sink, SequenceId id, int32_t tokens) = 0;
  // Cancels all sequences of the sink and forgets it: after the return it is not called again.
  virtual void Detach(const std::shared_ptr<TokenSink>& sink) = 0;

  // The watcher is first told all that is cached, then each change. After Unwatch it is not called again.
  virtual void Watch(std::shared_ptr<BlockWatcher> watcher) = 0;
  virtual void Unwatch(const std::shared_ptr<BlockWatcher>& watcher) = 0;

  virtual EngineCounts counts() const = 0;
  // Ends the loop; sequences still there end with `reason`. Idempotent.
  virtual void Stop(const absl::Status& reason) = 0;
  // Not ok once a step failed: the group is over. `on_broken` (set before any Open) is called once, off the caller's
  // thread.
  virtual absl::Status status() const = 0;
  virtual void set_on_broken(std::function<void(const absl::Status&)> on_broken) = 0;
};

}  // namespace alphecca::engine

// The way to one ready shard group: opens sequences on its leader and brings their events back. Implemented over gRPC
// in coordinator/rpc, by a script in tests.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "coordinator/routing/prefix_index.h"
#include "kernels/logit_rules.h"

namespace alphecca::coordinator {

// Every field resolved: no defaults are left to the engine.
struct SamplingParams {
  float temperature = 1.0F;
  int32_t top_k = 64;
  float top_p = 0.95F;
  float min_p = 0.0F;
  uint64_t seed = 0;
  float repetition_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  std::map<int32_t, float> logit_bias;  // by token id
};

struct SequenceSpec {
  SequenceId id;  // unique among all sequences of this process
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int32_t sample = 0;
  int32_t max_tokens = 1;
  std::vector<int32_t> stop_ids;
  std::vector<kernels::TokenRange> suppressed;  // never sampled; rising, no two touch
  int32_t logprobs = -1;                        // -1: none
  int32_t prompt_logprobs = -1;
  std::string tenant;
  double tenant_weight = 1;
  int32_t priority = 0;
  int32_t window = 4096;  // tokens
  absl::Time deadline = absl::InfiniteFuture();
  int64_t expected_cached = 0;  // tokens of the prompt, as the router said: for the group's load, not for the engine
};

enum class Finish { kStop, kLength, kCancelled };

struct TokenLogprobs {
  int32_t id = 0;
  float logprob = 0;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

struct SequenceEvent {
  std::vector<int32_t> ids;
  std::vector<TokenLogprobs> logprobs;         // one an id, if asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // once, if asked for
  std::optional<Finish> finish;                // set on the last event, unless there is an error
  absl::Status error;                          // not ok: the sequence ended by it
  int32_t cached_tokens = 0;
  bool last() const { return finish.has_value() || !error.ok(); }
};

// Where events of a request's sequences go. Called by any thread, one call at a time for one sequence; must not block.
class SequenceSink {
 public:
  virtual ~SequenceSink() = default;
  virtual void OnEvent(int32_t sample, SequenceEvent event) = 0;
};

struct GroupLoad {
  int32_t open = 0;     // sequences that this coordinator has on it
  int32_t running = 0;  // as the leader last said, of all coordinators
  int32_t waiting = 0;
  int64_t queued_tokens = 0;  // of prompts of `open` that have not answered yet, without what was expected to be cached
};

// Thread-safe. No call blocks.
class GroupClient {
 public:
  virtual ~GroupClient() = default;
  // After Ok exactly one last event follows; events may come before the return. Unavailable: the group is gone or not
  // connected; no event follows.
  virtual absl::Status Open(SequenceSpec spec, std::shared_ptr<SequenceSink> sink) = 0;
  // The sequence's last event still comes. Unknown and ended ids are ignored.
  virtual void Cancel(SequenceId id) = 0;
  // The client has taken `tokens` more of the sequence.
  virtual void Credit(SequenceId id, int32_t tokens) = 0;
  virtual GroupLoad load() const = 0;
  // Can take sequences now.
  virtual bool connected() const = 0;
  // Tokens that a sequence may have there, prompt and answer together. 0: its leader does not tell, or has not yet.
  virtual int64_t context() const { return 0; }
  // What the group's prefix cache holds. Null: its leader does not tell.
  virtual std::shared_ptr<const PrefixIndex::Holder> prefixes() const = 0;
  virtual const std::string& fingerprint() const = 0;
};

}  // namespace alphecca::coordinator

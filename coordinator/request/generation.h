// One Generate or Chat request on its way: n sequences on one group, their events turned into what the client reads.
//
// Between the group's stream, which must never wait, and the client, which may: events that the client has not taken
// are merged, one a sample, and the engine stops a sample whose unread tokens pass the window. So a slow client holds
// at most n windows of tokens here, and no batch slot.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "coordinator/request/options.h"
#include "coordinator/request/sample_text.h"
#include "coordinator/routing/group_client.h"

namespace alphecca::coordinator {

enum class FinishReason { kStop, kLength, kToolCalls };

struct TokenUsage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;
};

struct GenerationEvent {
  int32_t sample = 0;
  bool first = false;  // of the request
  std::vector<int32_t> ids;
  TextDelta delta;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  std::optional<FinishReason> finish;
  std::optional<TokenUsage> usage;  // on the request's last event
};

// What a request measured; times are unset where it did not come so far.
struct GenerationTimes {
  std::optional<absl::Time> first_token;
  std::vector<absl::Duration> per_token;  // one a sample with at least two tokens: mean gap
  int broken_calls = 0;                   // tool calls given back as content
};

struct GenerationPlan {
  ResolvedOptions options;
  std::vector<int32_t> prompt;
  std::vector<int32_t> stop_ids;                // empty with ignore_eos
  std::vector<kernels::TokenRange> suppressed;  // what the model must never answer with
  absl::Time deadline = absl::InfiniteFuture();
  int32_t window = 4096;
  double tenant_weight = 1;
  int64_t expected_cached = 0;  // tokens of the prompt that the router expects in the group's prefix cache
  // One per sample.
  std::vector<std::unique_ptr<SampleText>> texts;
};

// Thread-safe. Owned by the RPC and, while its sequences run, by the group's client.
class Generation : public SequenceSink, public std::enable_shared_from_this<Generation> {
 public:
  // `wake` is called, without locks held, when Next or Finished may have something new. `first_id` and the n - 1 after
  // it are the sequences' ids.
  Generation(GenerationPlan plan, std::shared_ptr<GroupClient> group, SequenceId first_id, std::function<void()> wake);

  // Opens the sequences. An error, also of one of them, is the request's.
  void Start() ABSL_LOCKS_EXCLUDED(mutex_);
  // The client is gone: cancels what runs. No wake follows.
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);

  // The next event to write, if there is one. The caller writes it before it asks again: asking says that the one
  // before was taken.
  std::optional<GenerationEvent> Next() ABSL_LOCKS_EXCLUDED(mutex_);
  // The request's status, once it is over and every event was given out (at an error: at once).
  std::optional<absl::Status> Finished() const ABSL_LOCKS_EXCLUDED(mutex_);

  TokenUsage usage() const ABSL_LOCKS_EXCLUDED(mutex_);
  GenerationTimes times() const ABSL_LOCKS_EXCLUDED(mutex_);
  const ResolvedOptions& options() const { return plan_.options; }
  const std::string& fingerprint() const { return group_->fingerprint(); }

  // SequenceSink:
  void OnEvent(int32_t sample, SequenceEvent event) override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Sample {
    SequenceId id;
    bool opened = false;                 // on the group, its last event not seen
    bool over = false;                   // for the client
    int32_t tokens = 0;                  // shown
    int32_t uncredited = 0;              // taken by the client, not yet told to the group
    GenerationEvent* pending = nullptr;  // in queue_
    absl::Time first_token;
    absl::Time last_token;
  };

  GenerationEvent& Pending(int32_t sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True if the sequence must be cancelled: a stop string was met.
  bool TakeTokens(int32_t sample, SequenceEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndSample(int32_t sample, Finish finish, bool at_stop_string) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the request with an error; returns the sequences to cancel.
  std::vector<SequenceId> Fail(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<SequenceId> Running() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GenerationPlan plan_;
  const std::shared_ptr<GroupClient> group_;
  const std::function<void()> wake_;

  mutable Mutex mutex_;
  std::vector<Sample> samples_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::unique_ptr<GenerationEvent>> queue_ ABSL_GUARDED_BY(mutex_);  // at most one a sample
  bool any_given_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<std::pair<int32_t, int32_t>> writing_
      ABSL_GUARDED_BY(mutex_);  // sample and tokens of the event given out
  int32_t cached_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace alphecca::coordinator

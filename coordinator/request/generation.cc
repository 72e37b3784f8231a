#include "coordinator/request/generation.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace alphecca::coordinator {
namespace {

template <typename T>
void Append(std::vector<T>& to, std::vector<T>&& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

FinishReason ReasonOf(Finish finish, bool called_tools) {
  if (finish == Finish::kLength) {
    return FinishReason::kLength;
  }
  return called_tools ? FinishReason::kToolCalls : FinishReason::kStop;
}

}  // namespace

Generation::Generation(GenerationPlan plan, std::shared_ptr<GroupClient> group, SequenceId first_id,
                       std::function<void()> wake)
    : plan_(std::move(plan)), group_(std::move(group)), wake_(std::move(wake)) {
  const MutexLock lock(mutex_);
  samples_.resize(static_cast<size_t>(plan_.options.n));
  for (size_t i = 0; i < samples_.size(); ++i) {
    samples_[i].id = SequenceId(first_id.value + i);
  }
}

void Generation::Start() {
  const ResolvedOptions& o = plan_.options;
  for (int32_t sample = 0; sample < o.n; ++sample) {
    SequenceSpec spec;
    {
      const MutexLock lock(mutex_);
      if (cancelled_ || !error_.ok()) {
        break;
      }
      Sample& s = samples_[static_cast<size_t>(sample)];
      s.opened = true;
      spec.id = s.id;
    }
    spec.prompt = plan_.prompt;
    spec.sampling = o.sampling;
    spec.sample = sample;
    spec.max_tokens = o.max_tokens;
    spec.stop_ids = plan_.stop_ids;
    spec.suppressed = plan_.suppressed;
    spec.logprobs = o.logprobs;
    spec.prompt_logprobs = sample == 0 ? o.prompt_logprobs : -1;
    spec.tenant = o.tenant;
    spec.tenant_weight = plan_.tenant_weight;
    // The first computes the prompt for all.
    spec.expected_cached = sample == 0 ? plan_.expected_cached : static_cast<int64_t>(plan_.prompt.size()) - 1;
    spec.priority = o.priority;
    spec.window = plan_.window;
    spec.deadline = plan_.deadline;
    const SequenceId id = spec.id;
    const absl::Status status = group_->Open(std::move(spec), shared_from_this());
    if (!status.ok()) {
      SequenceEvent failed;
      failed.error = status;
      OnEvent(sample, std::move(failed));
      break;
    }
    // A cancel that came while the group did not know the sequence yet was lost: say it again.
    bool again = false;
    {
      const MutexLock lock(mutex_);
      again = (cancelled_ || !error_.ok()) && samples_[static_cast<size_t>(sample)].opened;
    }
    if (again) {
      group_->Cancel(id);
    }
  }
}

std::vector<SequenceId> Generation::Running() {
  std::vector<SequenceId> running;
  for (const Sample& s : samples_) {
    if (s.opened) {
      running.push_back(s.id);
    }
  }
  return running;
}

void Generation::Cancel() {
  std::vector<SequenceId> running;
  {
    const MutexLock lock(mutex_);
    if (cancelled_) {
      return;
    }
    cancelled_ = true;
    queue_.clear();
    for (Sample& s : samples_) {
      s.pending = nullptr;
    }
    running = Running();
  }
  for (const SequenceId id : running) {
    group_->Cancel(id);
  }
}

std::vector<SequenceId> Generation::Fail(absl::Status status) {
  error_ = std::move(status);
  queue_.clear();
  for (Sample& s : samples_) {
    s.pending = nullptr;
    s.over = true;
  }
  return Running();
}

GenerationEvent& Generation::Pending(int32_t sample) {
  Sample& s = samples_[static_cast<size_t>(sample)];
  if (s.pending == nullptr) {
    queue_.push_back(std::make_unique<GenerationEvent>());
    s.pending = queue_.back().get();
    s.pending->sample = sample;
  }
  return *s.pending;
}

bool Generation::TakeTokens(int32_t sample, SequenceEvent& event) {
  Sample& s = samples_[static_cast<size_t>(sample)];
  SampleText& text = *plan_.texts[static_cast<size_t>(sample)];
  if (event.ids.empty() && event.prompt_logprobs.empty()) {
    return false;
  }
  GenerationEvent& pending = Pending(sample);
  if (plan_.options.logprobs >= 0) {
    event.logprobs.resize(event.ids.size());
  } else {
    event.logprobs.clear();
  }
  bool stopped = false;
  size_t shown = 0;
  while (shown < event.ids.size() && !stopped) {
    stopped = text.Push(event.ids[shown], pending.delta);
    ++shown;
  }
  event.ids.resize(shown);
  event.logprobs.resize(std::min(event.logprobs.size(), shown));
  if (shown > 0) {
    s.last_token = absl::Now();
    s.first_token = s.tokens == 0 ? s.last_token : s.first_token;
    s.tokens += static_cast<int32_t>(shown);
  }
  Append(pending.ids, std::move(event.ids));
  Append(pending.logprobs, std::move(event.logprobs));
  Append(pending.prompt_logprobs, std::move(event.prompt_logprobs));
  return stopped;
}

void Generation::EndSample(int32_t sample, Finish finish, bool at_stop_string) {
  Sample& s = samples_[static_cast<size_t>(sample)];
  SampleText& text = *plan_.texts[static_cast<size_t>(sample)];
  GenerationEvent& pending = Pending(sample);
  const bool by_itself = finish == Finish::kStop && !at_stop_string;
  text.End(by_itself, pending.delta);
  pending.finish = ReasonOf(finish, by_itself && text.called_tools());
  s.over = true;
  if (std::all_of(samples_.begin(), samples_.end(), [](const Sample& other) { return other.over; })) {
    // The request's last event: whatever of other samples is still queued goes before it.
    const auto last = std::find_if(queue_.begin(), queue_.end(), [&](const auto& e) { return e.get() == &pending; });
    std::rotate(last, last + 1, queue_.end());
    TokenUsage usage;
    usage.prompt_tokens = static_cast<int32_t>(plan_.prompt.size());
    usage.cached_tokens = cached_tokens_;
    for (const Sample& each : samples_) {
      usage.completion_tokens += each.tokens;
    }
    pending.usage = usage;
  }
}

void Generation::OnEvent(int32_t sample, SequenceEvent event) {
  std::vector<SequenceId> cancel;
  {
    const MutexLock lock(mutex_);
    if (sample < 0 || sample >= plan_.options.n) {
      return;
    }
    Sample& s = samples_[static_cast<size_t>(sample)];
    if (event.last()) {
      s.opened = false;
    }
    if (s.over || cancelled_) {
      return;  // its last words, after a stop string or a cancel
    }
    cached_tokens_ = std::max(cached_tokens_, event.cached_tokens);
    if (!event.error.ok()) {
      cancel = Fail(std::move(event.error));
    } else if (event.finish == Finish::kCancelled) {
      cancel = Fail(absl::UnavailableError("the group dropped the sequence; retry"));
    } else if (TakeTokens(sample, event)) {
      EndSample(sample, Finish::kStop, /*at_stop_string=*/true);
      if (s.opened) {
        cancel.push_back(s.id);
      }
    } else if (event.finish) {
      EndSample(sample, *event.finish, /*at_stop_string=*/false);
    }
  }
  for (const SequenceId id : cancel) {
    group_->Cancel(id);
  }
  wake_();
}

std::optional<GenerationEvent> Generation::Next() {
  std::optional<GenerationEvent> next;
  SequenceId credit_id;
  int32_t credit = 0;
  {
    const MutexLock lock(mutex_);
    if (writing_) {
      Sample& s = samples_[static_cast<size_t>(writing_->first)];
      s.uncredited += writing_->second;
      // In quarters of the window: a message for each token would double the traffic.
      if (s.opened && s.uncredited >= plan_.window / 4) {
        credit_id = s.id;
        credit = std::exchange(s.uncredited, 0);
      }
      writing_.reset();
    }
    if (!queue_.empty()) {
      next = std::move(*queue_.front());
      queue_.pop_front();
      samples_[static_cast<size_t>(next->sample)].pending = nullptr;
      next->first = !std::exchange(any_given_, true);
      writing_ = {next->sample, static_cast<int32_t>(next->ids.size())};
    }
  }
  if (credit > 0) {
    group_->Credit(credit_id, credit);
  }
  return next;
}

std::optional<absl::Status> Generation::Finished() const {
  const MutexLock lock(mutex_);
  if (cancelled_) {
    return absl::CancelledError("the client cancelled");
  }
  if (!error_.ok()) {
    return error_;
  }
  const bool over = std::all_of(samples_.begin(), samples_.end(), [](const Sample& s) { return s.over; });
  return over && queue_.empty() ? std::optional(absl::OkStatus()) : std::nullopt;
}

TokenUsage Generation::usage() const {
  const MutexLock lock(mutex_);
  TokenUsage usage;
  usage.prompt_tokens = static_cast<int32_t>(plan_.prompt.size());
  usage.cached_tokens = cached_tokens_;
  for (const Sample& s : samples_) {
    usage.completion_tokens += s.tokens;
  }
  return usage;
}

GenerationTimes Generation::times() const {
  const MutexLock lock(mutex_);
  GenerationTimes times;
  for (const auto& text : plan_.texts) {
    times.broken_calls += text->broken_calls();
  }
  for (const Sample& s : samples_) {
    if (s.tokens == 0) {
      continue;
    }
    times.first_token = std::min(times.first_token.value_or(absl::InfiniteFuture()), s.first_token);
    if (s.tokens > 1) {
      times.per_token.push_back((s.last_token - s.first_token) / (s.tokens - 1));
    }
  }
  return times;
}

}  // namespace alphecca::coordinator

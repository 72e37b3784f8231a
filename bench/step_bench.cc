// What a step costs besides the kernels: a real engine, scheduler, plan check, runner and forward pass over a backend
// whose operations do nothing. One line of JSON: the median over steps in which all sequences decode, in microseconds.
//   step_bench [--model DIR] [--sequences N] [--steps N]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "kernels/host/host_backend.h"
#include "model/checkpoint.h"
#include "worker/engine/engine.h"
#include "worker/engine/local_group.h"

namespace alphecca::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Flags {
  std::string model = ALPHECCA_MODELS "/tiny-dense";
  int sequences = 256;
  int steps = 200;
};

// Prompts have 1 to this many tokens, so that sequences take new KV blocks in different steps.
constexpr int kPromptTokens = 16;

// Host memory whose operations compute nothing. Every row "samples" token kToken.
class IdleBackend final : public kernels::HostBackend {
 public:
  std::string Name() const override { return "idle"; }
  std::string IsaPath() const override { return "none"; }
  kernels::Activations activations() const override { return kernels::Activations::kF32; }
  int64_t WorkspaceBytes(int64_t) const override { return 0; }

  void Embed(kernels::Stream&, const kernels::Step&, const kernels::EmbedArgs&) override {}
  void PerLayerInput(kernels::Stream&, const kernels::Step&, const kernels::PerLayerInputArgs&) override {}
  void RmsNorm(kernels::Stream&, const kernels::RmsNormArgs&) override {}
  void ResidualNorm(kernels::Stream&, const kernels::ResidualNormArgs&) override {}
  void AddNorms(kernels::Stream&, const kernels::AddNormsArgs&) override {}
  void MatMul(kernels::Stream&, const kernels::MatMulArgs&) override {}
  void GatedMatMul(kernels::Stream&, const kernels::GatedMatMulArgs&) override {}
  void GeluMul(kernels::Stream&, const kernels::GeluMulArgs&) override {}
  void Qkv(kernels::Stream&, const kernels::Step&, const kernels::QkvArgs&) override {}
  void Attend(kernels::Stream&, const kernels::Step&, const kernels::AttendArgs&) override {}
  void Route(kernels::Stream&, const kernels::RouteArgs&) override {}
  void Experts(kernels::Stream&, const kernels::ExpertsArgs&) override {}
  void GatherRows(kernels::Stream&, const kernels::Step&, const kernels::GatherRowsArgs&) override {}
  void Softcap(kernels::Stream&, const kernels::SoftcapArgs&) override {}
  void Candidates(kernels::Stream&, const kernels::Step&, const kernels::CandidatesArgs&) override {}
  void Choose(kernels::Stream&, const kernels::Step& step, const kernels::ChooseArgs& args) override {
    for (int64_t row = 0; row < step.logit_rows; ++row) {
      const kernels::Choice choice{.token = kToken};
      std::memcpy(static_cast<std::byte*>(args.out) + row * kernels::ChoiceBytes(args.count), &choice, sizeof(choice));
    }
  }

 private:
  static constexpr int32_t kToken = 300;
};

// Notes when each step's tokens came, of steps that brought one for every sequence.
class Watch final : public engine::TokenSink {
 public:
  explicit Watch(int sequences) : sequences_(sequences) {}

  void OnStep(std::vector<engine::SequenceUpdate> updates, int, int) override ABSL_LOCKS_EXCLUDED(mutex_) {
    const Clock::time_point now = Clock::now();
    const MutexLock lock(mutex_);
    bool whole = static_cast<int>(updates.size()) == sequences_;
    for (const engine::SequenceUpdate& update : updates) {
      whole = whole && update.ids.size() == 1 && !update.finish.has_value();
      ended_ += update.finish.has_value() || !update.error.ok() ? 1 : 0;
      if (!update.error.ok()) {
        error_ = update.error;
      }
    }
    if (whole && last_whole_) {
      micros_.push_back(std::chrono::duration<double, std::micro>(now - last_).count());
    }
    last_whole_ = whole;
    last_ = now;
    changed_.NotifyAll();
  }

  // Once every sequence has ended: microseconds between steps.
  absl::StatusOr<std::vector<double>> Await() ABSL_LOCKS_EXCLUDED(mutex_) {
    const MutexLock lock(mutex_);
    while (ended_ < sequences_) {
      changed_.Wait(mutex_);
    }
    RETURN_IF_ERROR(error_);
    return micros_;
  }

 private:
  const int sequences_;
  Mutex mutex_;
  CondVar changed_;
  int ended_ ABSL_GUARDED_BY(mutex_) = 0;
  bool last_whole_ ABSL_GUARDED_BY(mutex_) = false;
  Clock::time_point last_ ABSL_GUARDED_BY(mutex_);
  std::vector<double> micros_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::vector<double>> Measure(const Flags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<model::Checkpoint> checkpoint, model::Checkpoint::Open(flags.model));
  engine::LocalGroupOptions options;
  options.backend = [](int) -> absl::StatusOr<std::unique_ptr<kernels::Backend>> {
    return std::make_unique<IdleBackend>();
  };
  options.shard.max_sequences = flags.sequences;
  options.shard.max_rows = int64_t{flags.sequences} * kPromptTokens;  // all prompts fit one step
  const int tokens = flags.steps + 8;  // sequences that are opened last begin some steps after the first
  options.shard.context = kPromptTokens + tokens;
  ASSIGN_OR_RETURN(const std::unique_ptr<engine::LocalGroup> group, engine::LocalGroup::Create(*checkpoint, options));
  const auto watch = std::make_shared<Watch>(flags.sequences);
  ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine,
                   engine::Engine::Create({.epoch = Epoch(1), .step_tokens = options.shard.max_rows}, group->runner(0),
                                          group->followers()));
  for (int i = 0; i < flags.sequences; ++i) {
    engine::SequenceRequest request;
    request.id = SequenceId(static_cast<uint64_t>(i + 1));
    request.prompt.assign(static_cast<size_t>(1 + i % kPromptTokens), 300 + i);
    request.max_tokens = tokens;
    RETURN_IF_ERROR(engine->Open(watch, std::move(request)));
  }
  return watch->Await();
}

int Run(const Flags& flags) {
  absl::StatusOr<std::vector<double>> micros = Measure(flags);
  if (micros.ok() && static_cast<int>(micros->size()) < flags.steps / 2) {
    micros =
        absl::InternalError(absl::StrCat("only ", micros->size(), " steps had all ", flags.sequences, " sequences"));
  }
  if (!micros.ok()) {
    std::fprintf(stderr, "step_bench: %s\n", std::string(micros.status().message()).c_str());
    return 1;
  }
  const auto middle = micros->begin() + static_cast<std::ptrdiff_t>(micros->size() / 2);
  std::nth_element(micros->begin(), middle, micros->end());
  std::printf("{\"measure\":\"step_overhead\",\"sequences\":%d,\"steps\":%zu,\"value\":%.2f,\"unit\":\"us\"}\n",
              flags.sequences, micros->size(), *middle);
  return 0;
}

bool ParseFlags(int argc, char** argv, Flags* flags) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const int value = std::atoi(argv[i + 1]);
    if (name == "--model") {
      flags->model = argv[i + 1];
    } else if (name == "--sequences" && value >= 1 && value <= 1024) {
      flags->sequences = value;
    } else if (name == "--steps" && value >= 2 && value <= 100000) {
      flags->steps = value;
    } else {
      return false;
    }
  }
  return argc % 2 == 1;
}

}  // namespace
}  // namespace alphecca::bench

int main(int argc, char** argv) {
  alphecca::bench::Flags flags;
  if (!alphecca::bench::ParseFlags(argc, argv, &flags)) {
    std::fputs("usage: step_bench [--model DIR] [--sequences 1..1024] [--steps 2..100000]\n", stderr);
    return 2;
  }
  return alphecca::bench::Run(flags);
}

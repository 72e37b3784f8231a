// alphecca generate: one prompt, its continuation as it comes.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "common/status_macros.h"

namespace alphecca::cli {
namespace {

struct GenerateFlags {
  ClusterFlags cluster;
  SamplingFlags sampling;
  std::string prompt;
  std::vector<int32_t> ids;
  bool json = false;
};

struct Outcome {
  std::string text;
  std::vector<int32_t> ids;
  v1::FinishReason finish = v1::FINISH_REASON_UNSPECIFIED;
  int prompt_tokens = 0;
  uint64_t seed = 0;
  std::string fingerprint;
  double ttft_seconds = 0;
  double decode_seconds = 0;
};

const char* Name(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_TOOL_CALLS:
      return "tool_calls";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "";
  }
}

absl::StatusOr<Outcome> Ask(Session& session, const GenerateFlags& flags) {
  v1::GenerateRequest request;
  request.set_model(session.model);
  *request.mutable_options() = ToOptions(flags.sampling);
  if (!flags.ids.empty()) {
    request.mutable_ids()->mutable_ids()->Add(flags.ids.begin(), flags.ids.end());
  } else {
    request.set_text(flags.prompt);
  }
  Outcome outcome;
  const absl::Time start = absl::Now();
  absl::Time first = absl::InfiniteFuture();
  absl::Time last = start;
  const Interrupt interrupt([&session] { session.client().Cancel(); });
  const absl::Status status = session.client().Generate(request, [&](const v1::GenerateEvent& event) {
    last = absl::Now();
    if (outcome.ids.empty() && event.ids_size() > 0) {
      first = last;
    }
    outcome.ids.insert(outcome.ids.end(), event.ids().begin(), event.ids().end());
    outcome.text += event.text();
    if (!flags.json) {
      std::fwrite(event.text().data(), 1, event.text().size(), stdout);
      std::fflush(stdout);
    }
    if (event.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      outcome.finish = event.finish_reason();
      outcome.seed = event.seed();
      outcome.fingerprint = event.fingerprint();
    }
    if (event.has_usage()) {
      outcome.prompt_tokens = event.usage().prompt_tokens();
    }
    return true;
  });
  RETURN_IF_ERROR(status);
  if (first != absl::InfiniteFuture()) {
    outcome.ttft_seconds = absl::ToDoubleSeconds(first - start);
    outcome.decode_seconds = absl::ToDoubleSeconds(last - first);
  }
  return outcome;
}

int Run(GenerateFlags& flags) {
  if (flags.prompt == "-") {
    flags.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  absl::StatusOr<Session> session = OpenSession(flags.cluster, /*quiet=*/true);
  if (!session.ok()) {
    return Fail(session.status());
  }
  const absl::StatusOr<Outcome> outcome = Ask(*session, flags);
  if (!outcome.ok()) {
    return Fail(outcome.status());
  }
  if (!flags.json) {
    std::puts("");
    return 0;
  }
  // Rate of the tokens after the first: what decoding alone takes.
  const double rate =
      outcome->decode_seconds > 0 ? static_cast<double>(outcome->ids.size() - 1) / outcome->decode_seconds : 0.0;
  nlohmann::ordered_json json;
  json["text"] = outcome->text;
  json["ids"] = outcome->ids;
  json["finish_reason"] = Name(outcome->finish);
  json["prompt_tokens"] = outcome->prompt_tokens;
  json["seed"] = outcome->seed;
  json["fingerprint"] = outcome->fingerprint;
  json["timings"] = {{"load_s", session->load_seconds}, {"ttft_s", outcome->ttft_seconds}, {"tokens_per_s", rate}};
  std::cout << json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << std::endl;
  return 0;
}

}  // namespace

void AddGenerate(CLI::App& app, int& result) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Continue a prompt");
  command->footer(
      "Starts a cluster of real processes for the time of the prompt; --connect asks a running one.\n"
      "  alphecca generate --prompt \"In the beginning\" --max-tokens 40\n"
      "  alphecca generate --model gemma.gguf --prompt - --temperature 0 --json < prompt.txt");
  AddClusterFlags(*command, flags->cluster, 1);
  command->add_option("--connect", flags->cluster.connect, "host:port of a running coordinator");
  AddSamplingFlags(*command, flags->sampling);
  auto* prompt = command->add_option("-p,--prompt", flags->prompt, "The text to continue; - reads standard input");
  auto* ids = command->add_option("--ids", flags->ids, "Token ids in place of text")->delimiter(',');
  ids->excludes(prompt);
  command->add_flag("--json", flags->json, "One JSON object at the end, with ids and timings");
  command->callback([flags, prompt, ids, &result] {
    if (prompt->count() + ids->count() == 0) {
      throw CLI::RequiredError("--prompt or --ids");
    }
    result = Run(*flags);
  });
}

}  // namespace alphecca::cli

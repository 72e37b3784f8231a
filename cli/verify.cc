// alphecca verify: golden cases, judged; one JSON line a case.
#include "worker/verify/verify.h"

#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/verify_processes.h"

namespace alphecca::cli {
namespace {

struct VerifyFlags {
  std::vector<std::string> cases;
  int tp = 1;
  int ep = 0;
  std::string expert_mode = "fused";
  std::string weights;
  std::string activations = "default";
  std::string kernels = "cpu";
  int threads = 0;
  bool processes = false;
  bool json = false;
};

std::string ForPeople(const verify::VerifyReport& report) {
  const nlohmann::ordered_json json = verify::ToJson(report);
  std::string line = json.value("pass", false) ? "ok   " : "FAIL ";
  for (const auto& [key, value] : json.items()) {
    line += key == "case" ? "" : " " + key + "=";
    line += value.is_string() ? value.get<std::string>() : value.dump();
  }
  return line;
}

int Run(const VerifyFlags& flags) {
  verify::VerifyOptions options;
  options.tp = flags.tp;
  if (flags.ep > 0) {
    options.ep = flags.ep;
  }
  options.expert_mode = model::ParseExpertMode(flags.expert_mode).value_or(model::ExpertMode::kFused);
  options.weights = model::ParseWeightType(flags.weights).value_or(model::WeightType::kAsFile);
  options.f32_activations = flags.activations == "f32";
  options.kernels = flags.kernels == "ref" ? verify::Kernels::kRef : verify::Kernels::kCpu;
  options.threads = flags.threads;
  int failed = 0;
  int broken = 0;
  for (const std::string& directory : flags.cases) {
    const absl::StatusOr<verify::VerifyReport> report =
        flags.processes ? VerifyInProcesses(directory, options) : verify::VerifyCase(directory, options);
    if (!report.ok()) {
      ++broken;
      const nlohmann::ordered_json line = {
          {"case", directory}, {"pass", false}, {"error", std::string(report.status().message())}};
      std::cout << line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << std::endl;
      continue;
    }
    failed += report->verdict.pass() ? 0 : 1;
    std::cout << (flags.json ? verify::ToJson(*report).dump() : ForPeople(*report)) << std::endl;
  }
  if (!flags.json) {
    std::fprintf(stderr, "%zu cases: %zu passed, %d failed, %d could not run\n", flags.cases.size(),
                 flags.cases.size() - static_cast<size_t>(failed + broken), failed, broken);
  }
  return failed + broken == 0 ? 0 : 1;
}

}  // namespace

void AddVerify(CLI::App& app, int& result) {
  auto flags = std::make_shared<VerifyFlags>();
  CLI::App* command = app.add_subcommand("verify", "Hold golden cases against the reference's results");
  command->footer(
      "A case is a directory with config.json and model.safetensors, or model.gguf, beside golden.json and\n"
      "golden.safetensors: see tests/data/README.md for what is compared and the tolerances.\n"
      "Ranks are threads of this process; --processes runs real workers behind a coordinator (log-probabilities\n"
      "and ids are compared then: logits and hidden rows do not leave a worker).\n"
      "  alphecca verify tests/data/goldens/moe-26b-shape --tp 2 --ep 2 --weights bf16");
  command->add_option("cases", flags->cases, "Case directories")->required();
  command->add_option("--tp", flags->tp, "Tensor-parallel ranks")->check(CLI::Range(1, 64))->capture_default_str();
  command
      ->add_option(
          "--expert-mode", flags->expert_mode,
          "fused, or wide (--tp 1): each of --ep ranks computes every prompt as its owner (--processes: one does)")
      ->check(CLI::IsMember({"fused", "wide"}));
  command->add_option("--ep", flags->ep, "Expert-parallel sets; 0: as --tp on MoE models")->check(CLI::Range(0, 64));
  command
      ->add_option("--weights", flags->weights,
                   "f32, bf16: held so (safetensors only); sfp8, q4_0: converted, against a reference of our own")
      ->check(CLI::IsMember({"as-file", "f32", "bf16", "sfp8", "q4_0"}));
  command
      ->add_option("--activations", flags->activations, "f32: F32 against quantised weights too, and an F32 KV cache")
      ->check(CLI::IsMember({"default", "f32"}))
      ->capture_default_str();
  command->add_option("--kernels", flags->kernels, "cpu or ref")
      ->check(CLI::IsMember({"cpu", "ref"}))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "Threads of all ranks together; 0: this host's")
      ->check(CLI::Range(0, 1024));
  command->add_flag("--processes", flags->processes, "Ranks as worker processes, asked through a coordinator");
  command->add_flag("--json", flags->json, "Exactly one JSON object a case");
  command->callback([flags, &result] { result = Run(*flags); });
}

}  // namespace alphecca::cli

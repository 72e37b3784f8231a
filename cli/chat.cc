// alphecca chat: a conversation in the terminal.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/interrupt.h"

namespace alphecca::cli {
namespace {

struct ChatFlags {
  ClusterFlags cluster;
  SamplingFlags sampling;
  std::string system;
  bool think = false;
};

v1::Message TextMessage(const std::string& role, const std::string& text) {
  v1::Message message;
  message.set_role(role);
  message.add_content()->set_text(text);
  return message;
}

// One turn: streams the answer and adds it to the conversation. An interrupted answer stays as far as it came.
absl::Status Turn(Session& session, v1::ChatRequest& request) {
  v1::Message answer;
  answer.set_role("assistant");
  std::string content;
  bool thinking = false;
  bool cancelled = false;
  const Interrupt interrupt([&] {
    cancelled = true;
    session.client().Cancel();
  });
  const absl::Status status = session.client().Chat(request, [&](const v1::ChatEvent& event) {
    if (!event.reasoning().empty()) {
      std::printf("%s%s", thinking ? "" : "(thinking) ", event.reasoning().c_str());
      thinking = true;
    }
    if (!event.content().empty()) {
      std::printf("%s%s", thinking ? "\n\n" : "", event.content().c_str());
      thinking = false;
      content += event.content();
    }
    for (const v1::ToolCall& call : event.tool_calls()) {
      std::printf("[calls %s %s]", call.name().c_str(), call.arguments().c_str());
    }
    std::fflush(stdout);
    return true;
  });
  std::puts("");
  if (!status.ok() && !cancelled) {
    return status;
  }
  answer.add_content()->set_text(content);
  *request.add_messages() = answer;
  return absl::OkStatus();
}

int Run(ChatFlags& flags) {
  absl::StatusOr<Session> session = OpenSession(flags.cluster, /*quiet=*/false);
  if (!session.ok()) {
    return Fail(session.status());
  }
  if (absl::StatusOr<v1::Model> model = session->client().GetModel(session->model); !model.ok()) {
    return Fail(model.status());
  } else if (!model->chat()) {
    return Fail(absl::FailedPreconditionError("model '" + session->model +
                                              "' has no turn tokens: `alphecca generate` continues a text"));
  }
  v1::ChatRequest request;
  request.set_model(session->model);
  request.set_enable_thinking(flags.think);
  *request.mutable_options() = ToOptions(flags.sampling);
  if (!flags.system.empty()) {
    *request.add_messages() = TextMessage("system", flags.system);
  }
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) {
    std::puts("Type a message; /clear forgets, /exit or Ctrl-D ends, Ctrl-C stops an answer.");
  }
  for (std::string line;;) {
    if (terminal) {
      std::printf("> ");
      std::fflush(stdout);
    }
    if (!std::getline(std::cin, line) || line == "/exit") {
      return 0;
    }
    if (line == "/clear") {
      request.clear_messages();
      if (!flags.system.empty()) {
        *request.add_messages() = TextMessage("system", flags.system);
      }
      continue;
    }
    if (line.empty()) {
      continue;
    }
    *request.add_messages() = TextMessage("user", line);
    if (const absl::Status status = Turn(*session, request); !status.ok()) {
      return Fail(status);
    }
  }
}

}  // namespace

void AddChat(CLI::App& app, int& result) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model in the terminal");
  command->footer("  alphecca chat --model hf:google/gemma-4-E2B-it --think\n  alphecca chat --connect 127.0.0.1:7070");
  AddClusterFlags(*command, flags->cluster, 1);
  command->add_option("--connect", flags->cluster.connect, "host:port of a running coordinator");
  AddSamplingFlags(*command, flags->sampling);
  command->add_option("--system", flags->system, "The system turn");
  command->add_flag("--think", flags->think, "Let the model think before it answers");
  command->callback([flags, &result] { result = Run(*flags); });
}

}  // namespace alphecca::cli

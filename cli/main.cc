// `alphecca`: one command for people and scripts.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "common/log.h"
#include "common/version.h"

namespace {

int Run(int argc, char** argv) {
  alphecca::cli::BlockInterrupts();
  alphecca::InitLog("cli", alphecca::LogLevel::kWarn);
  CLI::App app("Alphecca: a distributed inference cluster for the Gemma 4 family", "alphecca");
  app.set_version_flag("--version", alphecca::BuildVersion());
  app.require_subcommand(1);
  app.footer(
      "Exit status: 0 done, 1 failed, 2 wrong use, 3 does not fit (plan). `alphecca COMMAND --help` says more, with "
      "examples.");
  int result = 0;
  alphecca::cli::AddUp(app, result);
  alphecca::cli::AddGenerate(app, result);
  alphecca::cli::AddChat(app, result);
  alphecca::cli::AddStatus(app, result);
  alphecca::cli::AddVerify(app, result);
  alphecca::cli::AddConvert(app, result);
  alphecca::cli::AddPerplexity(app, result);
  alphecca::cli::AddPlan(app, result);
  alphecca::cli::AddPull(app, result);
  alphecca::cli::AddFilters(app, result);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? 0 : 2;
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& e) {  // of libraries: out of memory, no more threads
    std::fputs(e.what(), stderr);
    return 1;
  }
}

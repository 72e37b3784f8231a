#include "common/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

namespace alphecca {
namespace {

// The process-wide logger is the one global of this codebase.
struct Logger {
  std::string process;
  std::atomic<LogLevel> level{LogLevel::kInfo};
  std::shared_ptr<spdlog::logger> sink = spdlog::stderr_logger_mt("alphecca");
};

Logger& Get() {
  static Logger* const logger = [] {
    auto* l = new Logger;
    l->sink->set_pattern("%v");
    l->sink->set_level(spdlog::level::trace);
    l->sink->flush_on(spdlog::level::trace);
    return l;
  }();
  return *logger;
}

std::string_view Name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kError:
      return "error";
    case LogLevel::kOff:
      break;
  }
  return "off";
}

LogLevel LevelFromEnvironment(LogLevel fallback) {
  const char* value = std::getenv("ALPHECCA_LOG");
  if (value == nullptr) {
    return fallback;
  }
  for (const LogLevel level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn, LogLevel::kError, LogLevel::kOff}) {
    if (Name(level) == value) {
      return level;
    }
  }
  return fallback;
}

}  // namespace

void InitLog(std::string_view process, LogLevel level) {
  Get().process = process;
  Get().level = LevelFromEnvironment(level);
}

bool LogEnabled(LogLevel level) {
  return level >= Get().level.load(std::memory_order_relaxed);
}

void LogLine(LogLevel level, const std::string& message) {
  const auto now = std::chrono::system_clock::now();
  nlohmann::ordered_json line;
  line["time"] = fmt::format("{:.6f}", std::chrono::duration<double>(now.time_since_epoch()).count());
  line["level"] = Name(level);
  if (!Get().process.empty()) {
    line["process"] = Get().process;
  }
  line["pid"] = getpid();
  line["message"] = message;
  Get().sink->log(spdlog::level::info, line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace alphecca

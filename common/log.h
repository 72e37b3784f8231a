// Logs: one JSON object a line on stderr, with time, level, process and message.
//
//   LogInfo("group {} ready after {:.1f} s", id, seconds);
#pragma once

#include <spdlog/fmt/fmt.h>

#include <string>
#include <string_view>
#include <utility>

namespace alphecca {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

// Names the process in each line ("coordinator", "worker") and sets the least level shown. Call once, early; without it
// lines carry no name and the level is info. ALPHECCA_LOG=debug|info|warn|error|off overrides the level.
void InitLog(std::string_view process, LogLevel level = LogLevel::kInfo);

void LogLine(LogLevel level, const std::string& message);
bool LogEnabled(LogLevel level);

template <typename... Args>
void LogDebug(fmt::format_string<Args...> format, Args&&... args) {
  if (LogEnabled(LogLevel::kDebug)) {
    LogLine(LogLevel::kDebug, fmt::format(format, std::forward<Args>(args)...));
  }
}
template <typename... Args>
void LogInfo(fmt::format_string<Args...> format, Args&&... args) {
  if (LogEnabled(LogLevel::kInfo)) {
    LogLine(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
  }
}
template <typename... Args>
void LogWarn(fmt::format_string<Args...> format, Args&&... args) {
  if (LogEnabled(LogLevel::kWarn)) {
    LogLine(LogLevel::kWarn, fmt::format(format, std::forward<Args>(args)...));
  }
}
template <typename... Args>
void LogError(fmt::format_string<Args...> format, Args&&... args) {
  if (LogEnabled(LogLevel::kError)) {
    LogLine(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
  }
}

}  // namespace alphecca

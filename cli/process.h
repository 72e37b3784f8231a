// A child process of ours: started, watched, stopped. Children die with their parent.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace alphecca::cli {

// The folder of the running binary; its sisters lie there too.
std::string BinaryFolder();

// Runs a program of PATH to its end; it shares our stdin and stderr. What it printed. Unavailable: it could not start,
// or ended with another status than 0.
absl::StatusOr<std::string> OutputOf(const std::vector<std::string>& command);

class ChildProcess {
 public:
  // Runs BinaryFolder()/program with stderr appended to `log_file`. Its stdout is read by ReadLine.
  static absl::StatusOr<ChildProcess> Start(const std::string& program, const std::vector<std::string>& arguments,
                                            const std::string& log_file);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();  // Stop

  pid_t pid() const { return pid_; }
  // One line of its stdout. DeadlineExceeded; Unavailable if it ended first (with its exit status).
  absl::StatusOr<std::string> ReadLine(absl::Time deadline);
  // Not ok once it has ended: says how.
  absl::Status Running();
  // SIGTERM, then SIGKILL after `grace`.
  void Stop(absl::Duration grace = absl::Seconds(5));

 private:
  ChildProcess(std::string program, std::string log_file, pid_t pid, int out)
      : program_(std::move(program)), log_file_(std::move(log_file)), pid_(pid), out_(out) {}
  absl::Status Ended(int wait_status) const;

  std::string program_;
  std::string log_file_;
  pid_t pid_ = -1;
  int out_ = -1;
  std::string pending_;
  absl::Status ended_;
};

}  // namespace alphecca::cli

#include "cli/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace alphecca::cli {
namespace {

// In the child, between fork and exec: only async-signal-safe calls.
[[noreturn]] void Exec(const std::vector<char*>& argv, int out, int log, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) {
    _exit(127);  // the parent died before prctl took effect
  }
  // A group of its own: Ctrl-C reaches only the parent, which stops its children in order.
  setpgid(0, 0);
  dup2(out, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

// What a process said last, which is mostly why it ended; "" of an empty or missing file.
std::string LastLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::string last;
  while (std::getline(file, line)) {
    last = line.empty() ? last : line;
  }
  return last;
}

std::vector<char*> Argv(std::vector<std::string>& words) {
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  return argv;
}

std::string How(int wait_status) {
  return WIFEXITED(wait_status) ? absl::StrCat("ended with status ", WEXITSTATUS(wait_status))
                                : absl::StrCat("was killed by signal ", WTERMSIG(wait_status));
}

}  // namespace

std::string BinaryFolder() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "." : self.parent_path().string();
}

absl::StatusOr<std::string> OutputOf(const std::vector<std::string>& command) {
  std::vector<std::string> words = command;
  const std::vector<char*> argv = Argv(words);
  int out[2];
  if (pipe2(out, O_CLOEXEC) != 0) {
    return absl::InternalError(absl::StrCat("pipe: ", std::strerror(errno)));
  }
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(out[1], STDOUT_FILENO);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  close(out[1]);
  std::string output;
  char buffer[4096];
  ssize_t n = 0;
  while ((n = read(out[0], buffer, sizeof(buffer))) > 0 || (n < 0 && errno == EINTR)) {
    output.append(buffer, n > 0 ? static_cast<size_t>(n) : 0);
  }
  close(out[0]);
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
    return absl::UnavailableError(absl::StrCat(command[0], " ", pid < 0 ? "could not start" : How(status)));
  }
  return output;
}

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::string& program, const std::vector<std::string>& arguments,
                                                 const std::string& log_file) {
  const std::string path = absl::StrCat(BinaryFolder(), "/", program);
  if (access(path.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno), "; `make build` makes it"));
  }
  std::vector<std::string> words = arguments;
  words.insert(words.begin(), path);
  const std::vector<char*> argv = Argv(words);
  int out[2];
  if (pipe2(out, O_CLOEXEC) != 0) {
    return absl::InternalError(absl::StrCat("pipe: ", std::strerror(errno)));
  }
  const int log = open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) {
    const int error = errno;
    close(out[0]);
    close(out[1]);
    return absl::InvalidArgumentError(absl::StrCat("log file ", log_file, ": ", std::strerror(error)));
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    Exec(argv, out[1], log, parent);
  }
  close(out[1]);
  close(log);
  if (pid < 0) {
    close(out[0]);
    return absl::ResourceExhaustedError(absl::StrCat("fork: ", std::strerror(errno)));
  }
  return ChildProcess(program, log_file, pid, out[0]);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept {
  *this = std::move(other);
}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    Stop();
    program_ = std::move(other.program_);
    log_file_ = std::move(other.log_file_);
    pid_ = std::exchange(other.pid_, -1);
    out_ = std::exchange(other.out_, -1);
    pending_ = std::move(other.pending_);
    ended_ = other.ended_;
  }
  return *this;
}

ChildProcess::~ChildProcess() {
  Stop();
}

absl::Status ChildProcess::Ended(int wait_status) const {
  return absl::UnavailableError(
      absl::StrCat(program_, " ", How(wait_status), "; its log ", log_file_, " ends with: ", LastLine(log_file_)));
}

absl::Status ChildProcess::Running() {
  if (pid_ < 0) {
    return ended_.ok() ? absl::UnavailableError(absl::StrCat(program_, " was stopped")) : ended_;
  }
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == pid_) {
    pid_ = -1;
    ended_ = Ended(status);
    return ended_;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ChildProcess::ReadLine(absl::Time deadline) {
  while (true) {
    if (const size_t end = pending_.find('\n'); end != std::string::npos) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return line;
    }
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          absl::StrCat(program_, " did not say its addresses in time; its log: ", log_file_));
    }
    pollfd poll_out = {.fd = out_, .events = POLLIN, .revents = 0};
    if (poll(&poll_out, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1) <= 0) {
      continue;
    }
    char buffer[4096];
    const ssize_t n = read(out_, buffer, sizeof(buffer));
    if (n > 0) {
      pending_.append(buffer, static_cast<size_t>(n));
      continue;
    }
    if (n < 0 && errno == EINTR) {
      continue;
    }
    // End of file: it has ended or is about to.
    int status = 0;
    if (pid_ > 0 && waitpid(pid_, &status, 0) == pid_) {
      pid_ = -1;
      ended_ = Ended(status);
    }
    return ended_.ok() ? absl::UnavailableError(absl::StrCat(program_, " closed its output")) : ended_;
  }
}

void ChildProcess::Stop(absl::Duration grace) {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    const absl::Time deadline = absl::Now() + grace;
    int status = 0;
    pid_t done = 0;
    while ((done = waitpid(pid_, &status, WNOHANG)) == 0 && absl::Now() < deadline) {
      poll(nullptr, 0, 5);  // waitpid has no time limit of its own
    }
    if (done == 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, &status, 0);
    }
    pid_ = -1;
  }
  if (out_ >= 0) {
    close(out_);
    out_ = -1;
  }
}

}  // namespace alphecca::cli

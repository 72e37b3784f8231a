// A real alphecca-worker, started and ended by a test.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace alphecca::testing {

class WorkerProcess {
 public:
  // Starts ALPHECCA_WORKER with these arguments and reads the line that tells its addresses.
  explicit WorkerProcess(const std::vector<std::string>& arguments) {
    int out[2];
    if (pipe(out) != 0) {
      return;
    }
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that dies leaves nothing behind
      dup2(out[1], STDOUT_FILENO);
      close(out[0]);
      close(out[1]);
      std::vector<char*> argv = {const_cast<char*>(ALPHECCA_WORKER)};
      for (const std::string& a : arguments) {
        argv.push_back(const_cast<char*>(a.c_str()));
      }
      argv.push_back(nullptr);
      execv(ALPHECCA_WORKER, argv.data());
      _exit(127);
    }
    close(out[1]);
    std::string line;
    char c = 0;
    while (read(out[0], &c, 1) == 1 && c != '\n') {
      line += c;
    }
    close(out[0]);
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object()) {
      listen_ = json.value("listen", "");
      metrics_ = json.value("metrics", "");
    }
  }
  ~WorkerProcess() {
    if (pid_ > 0) {
      Kill(SIGKILL);
      Wait();
    }
  }
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  const std::string& listen() const { return listen_; }
  const std::string& metrics() const { return metrics_; }
  void Kill(int signal) const { kill(pid_, signal); }
  // The exit status, or -1 - the signal that ended it.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1 - WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  std::string listen_;
  std::string metrics_;
};

}  // namespace alphecca::testing

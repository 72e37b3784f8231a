// The command line of alphecca-coordinator.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/request/served_model.h"

namespace alphecca::coordinator {

struct HostPort {
  std::string host;
  int port = 0;
  std::string ToString() const;
};
// "127.0.0.1:7070", "[::1]:0", ":7070" (every address). InvalidArgument says what would be right.
absl::StatusOr<HostPort> ParseHostPort(const std::string& text);

struct CoordinatorFlags {
  HostPort listen{"127.0.0.1", 7070};
  HostPort metrics{"127.0.0.1", 7071};
  std::vector<ServeOptions> models;
  absl::Duration heartbeat = absl::Seconds(1);
  absl::Duration lease = absl::Seconds(5);
  absl::Duration drain = absl::Seconds(30);
  int max_open_sequences = 4096;
  int text_threads = 2;
  std::map<std::string, double> tenant_weights;
};

// What a --model argument says: "NAME=PATH" or "PATH".
struct NamedPath {
  std::string name;
  std::string path;
};
absl::StatusOr<NamedPath> ParseModelArgument(const std::string& argument);

// Fills the flags. Not Ok: the message is for the user, InvalidArgument with what to do; Cancelled: --help or --version
// was asked for, the message is the text to print.
absl::StatusOr<CoordinatorFlags> ParseFlags(int argc, const char* const* argv);

}  // namespace alphecca::coordinator

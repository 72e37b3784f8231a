// What this process has to offer: memory, the name of its CPU, and the identity of its host.
#pragma once

#include <cstdint>
#include <string>

namespace alphecca::worker {

// Memory that the process may still take, bytes: the least of what the machine has free and the control group's limit.
int64_t AvailableMemoryBytes();
std::string CpuName();
// Equal on processes that can share memory by name: of one boot, network namespace and /dev/shm.
std::string HostIdentity();
std::string HostName();

}  // namespace alphecca::worker

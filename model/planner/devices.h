// What the planner knows of a device: memory, its bandwidth, arithmetic, and the link to its neighbours.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace alphecca::model {

struct Device {
  std::string name;             // "h100-80g"
  int64_t memory_bytes = 0;     // as the driver reports it
  double memory_bandwidth = 0;  // bytes a second
  double flops = 0;             // a second: BF16 matrix products with F32 sums, dense
  double link_bandwidth = 0;    // bytes a second, in one direction, to all other devices of a group together
  double link_latency = 0;      // seconds, of one exchange among the devices of a group
};

// Devices of one kind.
struct DevicePool {
  Device device;
  int count = 0;
};

// By name; "cpu:<GiB>" is a CPU worker with that much memory. InvalidArgument, with the names there are.
absl::StatusOr<Device> FindDevice(std::string_view name);
// "4xh100-80g,2xl4": each <count>x<name>; a name given twice counts together. InvalidArgument names the part.
absl::StatusOr<std::vector<DevicePool>> ParseDevices(std::string_view list);

}  // namespace alphecca::model

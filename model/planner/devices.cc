#include "model/planner/devices.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "model/messages.h"

namespace alphecca::model {
namespace {

constexpr int kMaxDevices = 4096;
constexpr double kMaxCpuGib = 65536;

struct Figures {
  std::string_view name;
  double memory_mib;       // what nvidia-smi shows as the total: less than the nominal size with ECC on
  double gigabytes_per_s;  // memory
  double teraflops;        // BF16, F32 sums, dense
  double link_gigabytes_per_s;
  double link_microseconds;
};

// Vendor's data sheets. SXM boards: NVLink, half of its two-way figure. The others: PCIe x16 of their generation,
// and twice through the host's memory costs them the longer latency. Latencies are round figures, not measured.
constexpr Figures kFigures[] = {
    {"h100-80g", 81559, 3350, 989, 450, 5}, {"h200", 143771, 4800, 989, 450, 5},
    {"b200", 183359, 8000, 2250, 900, 5},   {"a100-40g", 40960, 1555, 312, 300, 5},
    {"a100-80g", 81920, 2039, 312, 300, 5}, {"l40s", 46068, 864, 362, 32, 15},
    {"l4", 23034, 300, 121, 32, 15},        {"rtx4090", 24564, 1008, 165, 32, 15},
    {"rtx5090", 32607, 1792, 209, 64, 15},  {"rtxpro6000", 97887, 1792, 504, 64, 15},
};
// No one figure holds of CPUs: a socket with eight channels of DDR4-3200, 32 cores that each do 64 F32 operations a
// cycle (AVX-512) at 2.5 GHz, ranks on one host.
constexpr Figures kCpu = {"cpu", 0, 204.8, 5.1, 10, 20};

Device MakeDevice(const Figures& figures, std::string name, double memory_bytes) {
  return {.name = std::move(name),
          .memory_bytes = static_cast<int64_t>(memory_bytes),
          .memory_bandwidth = figures.gigabytes_per_s * 1e9,
          .flops = figures.teraflops * 1e12,
          .link_bandwidth = figures.link_gigabytes_per_s * 1e9,
          .link_latency = figures.link_microseconds * 1e-6};
}

absl::Status Bad(std::string_view what, std::string_view right) {
  return absl::InvalidArgumentError(Text("devices: ", Quoted(what), " ", right));
}

absl::StatusOr<DevicePool> ParsePool(std::string_view part) {
  const size_t x = part.find('x');
  int count = 0;
  if (x == std::string_view::npos || !absl::SimpleAtoi(internal::Piece(part.substr(0, x)), &count)) {
    return Bad(part, "is no <count>x<name>, like 4xh100-80g");
  }
  if (count < 1 || count > kMaxDevices) {
    return Bad(part, Text("has a count of ", count, "; 1 to ", kMaxDevices, " is allowed"));
  }
  ASSIGN_OR_RETURN(Device device, FindDevice(part.substr(x + 1)));
  return DevicePool{std::move(device), count};
}

}  // namespace

absl::StatusOr<Device> FindDevice(std::string_view name) {
  std::string names;
  for (const Figures& figures : kFigures) {
    if (figures.name == name) {
      return MakeDevice(figures, std::string(name), figures.memory_mib * 1024 * 1024);
    }
    names += Text(figures.name, ", ");
  }
  constexpr std::string_view kCpuPrefix = "cpu:";
  if (name.starts_with(kCpuPrefix)) {
    double gib = 0;
    if (!absl::SimpleAtod(internal::Piece(name.substr(kCpuPrefix.size())), &gib) || !(gib > 0 && gib <= kMaxCpuGib)) {
      return Bad(name, Text("is no cpu:<GiB> with a number above 0, at most ", kMaxCpuGib));
    }
    return MakeDevice(kCpu, std::string(name), gib * 1024 * 1024 * 1024);
  }
  return Bad(name, Text("is not known; there are ", names, "cpu:<GiB>"));
}

absl::StatusOr<std::vector<DevicePool>> ParseDevices(std::string_view list) {
  std::vector<DevicePool> pools;
  for (const absl::string_view piece : absl::StrSplit(internal::Piece(list), ',')) {
    const absl::string_view part = absl::StripAsciiWhitespace(piece);
    ASSIGN_OR_RETURN(DevicePool pool, ParsePool({part.data(), part.size()}));
    const auto same = [&pool](const DevicePool& other) { return other.device.name == pool.device.name; };
    const auto found = std::find_if(pools.begin(), pools.end(), same);
    if (found == pools.end()) {
      pools.push_back(std::move(pool));
    } else {
      found->count += pool.count;
    }
  }
  int64_t total = 0;
  for (const DevicePool& pool : pools) {
    total += pool.count;
  }
  if (total > kMaxDevices) {
    return Bad(list, Text("has ", total, " devices; at most ", kMaxDevices, " are allowed"));
  }
  return pools;
}

}  // namespace alphecca::model

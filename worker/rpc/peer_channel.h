// Channels to other processes of the cluster: limits and liveness as all of them want it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

namespace alphecca::worker {

// A step plan or a prompt is far below it; more is a fault.
inline constexpr int kMaxMessageBytes = 16 << 20;
// A peer whose host is gone without a word is found out within the sum of the two.
inline constexpr int kKeepaliveMs = 5000;
inline constexpr int kKeepaliveTimeoutMs = 5000;

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

}  // namespace alphecca::worker
